"""Pictures of one number per run: forest plots of groups, performance profiles, throughput."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from analysis.plots.curves import runs_of
from analysis.plots.frames import grouped
from analysis.plots.style import COLUMN, INK, SMALL, caption, grid, look, make_figure, thousands
from analysis.stats import (
    NAMES,
    NOT_FINITE,
    Estimate,
    Profile,
    difference,
    estimate,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    simultaneous,
    simultaneous_note,
)

if TYPE_CHECKING:
    import pandas as pd

_ROW = 0.34
_AROUND = 0.95
"""Height of a row of a forest plot, and of the parts around the rows, in inches."""


def plot_comparison(
    scores: pd.DataFrame,
    *,
    label: str,
    baseline: str | None = None,
    statistic: str = "iqm",
    title: str = "",
    width: float | None = None,
    seed: int = 0,
) -> Figure:
    """Draws a forest plot: every run of each group, the statistic and its interval, and the differences to a baseline.

    A group that has two or more seeds in common with the baseline is paired with it by seed; other groups are compared
    as independent. The caption says which, and names the seeds that were left out.

    Args:
        scores: Columns group, seed, run, value, as `Runs.scores` gives them.
        label: Name and unit of the value, for the axis.
        baseline: The group to compare with; None draws no differences.
        statistic: "iqm", "mean" or "median".
        title: Title above the picture.
        width: Width in inches; None for one column, or 1.6 columns with a baseline.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: There are no rows, a column is missing, or no group is called `baseline`.
    """
    groups = grouped(scores, "seed")
    _check_baseline(groups, baseline)
    found = {name: estimate(rows["value"], np.random.default_rng(seed), statistic) for name, rows in groups.items()}
    with rc_context(SMALL):
        figure = make_figure(width or COLUMN * (1.6 if baseline else 1), _AROUND + _ROW * len(groups))
        left, *rest = figure.subplots(1, 1 if baseline is None else 2, sharey=True, squeeze=False)[0]
        _draw_forest(left, groups, found, label)
        left.set_title(title, loc="left")
        sentences = [f"{NAMES[statistic]} and every run (dots)", *_about(found)]
        if baseline is not None:
            sentences += _draw_differences(rest[0], groups, baseline, statistic, seed)
        caption(figure, [*sentences, *_about_lost(scores)])
    return figure


def plot_improvement(
    scores: pd.DataFrame, *, baseline: str, label: str = "", title: str = "", width: float = COLUMN
) -> Figure:
    """Draws the probability that a run of each group scores higher than a run of the baseline, with intervals.

    Args:
        scores: Columns as in `plot_comparison`; higher values are better.
        baseline: The group to compare with.
        label: Name of the value, for the axis.
        title: Title above the picture.
        width: Width in inches.

    Raises:
        ValueError: As in `plot_comparison`, or there is no other group.
    """
    groups = grouped(scores)
    _check_baseline(groups, baseline)
    confidence = simultaneous(len(groups) - 1)
    found = {name: probability_of_improvement(rows["value"], groups[baseline]["value"], confidence)
             for name, rows in groups.items() if name != baseline}  # fmt: skip
    if not found:
        raise ValueError(f"baseline={baseline!r}: it is the only group; need another one to compare")
    with rc_context(SMALL):
        figure = make_figure(width, _AROUND + _ROW * len(found))
        axes = figure.subplots()
        _draw_rows(axes, list(found), found, first=list(groups))
        _name_rows(axes, {name: len(groups[name]) for name in found})
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
        axes.set(xlim=(-0.03, 1.03), xlabel=f"P({label or 'score'} above that of {baseline})")
        axes.set_title(title, loc="left")
        sentences = [f"baseline: {len(groups[baseline])} runs of {baseline}", *_about(found)]
        caption(figure, [*sentences, *simultaneous_note(len(found)), *_about_lost(scores)])
    return figure


def plot_profiles(
    scores: pd.DataFrame,
    *,
    label: str,
    thresholds: ArrayLike | None = None,
    title: str = "",
    width: float = COLUMN,
    seed: int = 0,
) -> Figure:
    """Draws performance profiles: the fraction of runs above each threshold, with bands. Tasks have equal weights.

    Args:
        scores: Columns group, run, value, and optionally task.
        label: Name and unit of the value, for the axis.
        thresholds: The thresholds τ, `[thresholds]`; None for 201 evenly spaced ones over the range of the scores.
        title: Title above the picture.
        width: Width in inches.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: There are no rows, a column is missing, or every run has diverged and no thresholds are given.
    """
    groups = grouped(scores)
    at = _range_of(scores["value"].to_numpy(np.float64)) if thresholds is None else np.asarray(thresholds)
    with rc_context(SMALL):
        figure = make_figure(width, 0.8 * width)
        axes = figure.subplots()
        found = {name: performance_profile(_by_task(rows), at, np.random.default_rng(seed))
                 for name, rows in groups.items()}  # fmt: skip
        _draw_profiles(axes, found)
        axes.set(xlabel=f"{label} τ", ylabel="fraction of runs above τ", ylim=(-0.02, 1.02))
        axes.set_title(title, loc="left")
        grid(axes)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, handlelength=2.4)
        bands = sorted({each.interval for each in found.values()})
        counts = {name: len(rows) for name, rows in groups.items()}
        about = f"{runs_of(counts)}; {', '.join(bands)}, threshold by threshold"
        caption(figure, [about, *_about_lost(scores, "a run that is not finite counts, and is above no threshold")])
    return figure


def plot_throughput(
    scores: pd.DataFrame,
    *,
    label: str = "environment steps per second",
    statistic: str = "median",
    title: str = "",
    width: float = COLUMN,
    seed: int = 0,
) -> Figure:
    """Draws the throughput of each group as bars from 0, with every run and intervals.

    Args:
        scores: Columns group, run, value.
        label: Name and unit of the value, for the axis.
        statistic: "iqm", "mean" or "median".
        title: Title above the picture.
        width: Width in inches.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: There are no rows, or a column is missing.
    """
    groups = grouped(scores)
    found = {name: estimate(rows["value"], np.random.default_rng(seed), statistic) for name, rows in groups.items()}
    with rc_context(SMALL):
        figure = make_figure(width, _AROUND + _ROW * len(groups))
        axes = figure.subplots()
        for row, each in enumerate(found.values()):
            axes.barh(row, each.value, height=0.62, color=look(row)["color"], alpha=0.25, linewidth=0)
        _draw_forest(axes, groups, found, label)
        axes.set_xlim(left=0)
        axes.set_title(title, loc="left")
        caption(figure, [f"bars: {NAMES[statistic]}; dots: every run", *_about(found), *_about_lost(scores)])
    return figure


def _range_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns 201 evenly spaced thresholds over the range of the finite values. Raises ValueError if there are none."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise ValueError("scores: every run has diverged, so there is nothing to draw")
    margin = 0.03 * (finite.max() - finite.min() or 1.0)
    return np.linspace(finite.min() - margin, finite.max() + margin, 201)


def _draw_profiles(axes: Axes, found: dict[str, Profile]) -> None:
    for index, (name, each) in enumerate(found.items()):
        style = look(index)
        axes.fill_between(
            each.threshold, each.low, each.high, color=style["color"], alpha=0.18, linewidth=0, step="mid"
        )
        axes.plot(each.threshold, each.fraction, **style, linewidth=1.3, drawstyle="steps-mid", label=name)


def _draw_forest(axes: Axes, groups: dict[str, pd.DataFrame], found: dict[str, Estimate], label: str) -> None:
    """Draws every run as a dot below the statistic with its interval, and the names of the rows."""
    for row, rows in enumerate(groups.values()):
        values = rows["value"].to_numpy(np.float64)
        axes.plot(values, np.full(len(values), row + 0.24), linewidth=0, marker="o", markersize=2.6, alpha=0.55,
                  color=look(row)["color"], markeredgewidth=0)  # fmt: skip
    _draw_rows(axes, list(groups), found)
    _name_rows(axes, {name: len(rows) for name, rows in groups.items()})
    values = np.concatenate([rows["value"].to_numpy(np.float64) for rows in groups.values()])
    thousands(axes.xaxis, float(np.max(np.abs(values), initial=0.0, where=np.isfinite(values))))
    axes.set_xlabel(label)


def _draw_differences(
    axes: Axes, groups: dict[str, pd.DataFrame], baseline: str, statistic: str, seed: int
) -> list[str]:
    """Draws the differences to the baseline. Returns sentences for the caption."""
    found, notes = _differences(groups, baseline, statistic, seed)
    _draw_rows(axes, list(groups), found)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
    axes.set_xlabel(f"difference to {baseline}")
    return [*notes, *simultaneous_note(len(found), statistic)]


def _draw_rows(axes: Axes, names: list[str], found: dict[str, Estimate], first: list[str] | None = None) -> None:
    """Draws a diamond and a bar in the row of each name in `found`, with the colours of the order `first`."""
    for row, name in enumerate(names):
        if name in found:
            each, colour = found[name], look((first or names).index(name))["color"]
            if each.has_interval:
                axes.hlines(row, each.low, each.high, color=colour, linewidth=1.5)
            axes.plot(each.value, row, marker="D", markersize=4.2, color=colour, markeredgecolor="white",
                      markeredgewidth=0.6, zorder=4)  # fmt: skip
    axes.set_ylim(len(names) - 0.45, -0.55)
    grid(axes, "x")


def _name_rows(axes: Axes, counts: dict[str, int]) -> None:
    axes.set_yticks(range(len(counts)), [f"{name}\n{runs_of({name: count})}" for name, count in counts.items()])
    axes.tick_params(axis="y", length=0)


def _differences(
    groups: dict[str, pd.DataFrame], baseline: str, statistic: str, seed: int
) -> tuple[dict[str, Estimate], list[str]]:
    """Returns the difference of every other group to the baseline, and sentences for the caption."""
    reference, confidence = groups[baseline], simultaneous(len(groups) - 1)
    found, notes = {}, []
    for name, rows in groups.items():
        if name == baseline:
            continue
        rng = np.random.default_rng(seed)
        sides = [_by_seed(side) for side in (rows, reference)]
        if all(sides) and len(sides[0].keys() & sides[1].keys()) > 1:
            paired = paired_difference(sides[0], sides[1], rng, statistic, confidence)
            found[name] = paired.estimate
            notes.append(f"{name}: paired by seed, {paired.estimate.interval}")
            if paired.unpaired:
                notes[-1] += f", without seeds {', '.join(map(str, paired.unpaired))}, which one side lacks"
        else:
            found[name] = difference(rows["value"], reference["value"], rng, statistic, confidence)
            notes.append(f"{name}: independent groups, {found[name].interval}")
    return found, _merged(notes)


def _merged(notes: list[str]) -> list[str]:
    """Returns the notes, with one note for groups with the same words: "a, b: paired …"."""
    names: dict[str, list[str]] = {}
    for note in notes:
        name, words = note.split(": ", 1)
        names.setdefault(words, []).append(name)
    return [f"difference of {', '.join(group)}: {words}" for words, group in names.items()]


def _by_seed(rows: pd.DataFrame) -> dict[int, float]:
    """Returns the score by seed; empty if a seed has several runs, which cannot be paired."""
    if rows["seed"].duplicated().any():
        return {}
    return {int(seed): float(value) for seed, value in zip(rows["seed"], rows["value"], strict=True)}


def _by_task(rows: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    if "task" not in rows.columns:
        return {"": rows["value"].to_numpy(np.float64)}
    return {str(task): part["value"].to_numpy(np.float64) for task, part in rows.groupby("task", observed=True)}


def _about(found: dict[str, Estimate]) -> list[str]:
    """Returns sentences on the intervals that are drawn, and on groups without one."""
    kinds = sorted({each.interval for each in found.values() if each.has_interval})
    alone = [f"{name}: {each.interval}" for name, each in found.items() if not each.has_interval]
    return [*([f"lines: {', '.join(kinds)}"] if kinds else []), *alone]


def _about_lost(scores: pd.DataFrame, rule: str = NOT_FINITE) -> list[str]:
    """Returns the rule for runs that have diverged, if there are any, and the note of the frame."""
    lost = int((~np.isfinite(scores["value"].to_numpy(np.float64))).sum())
    note = scores.attrs.get("note", "")
    return [*([note] if note else []), *([f"not finite: {lost} of {len(scores)} runs: {rule}"] if lost else [])]


def _check_baseline(groups: dict[str, pd.DataFrame], baseline: str | None) -> None:
    if baseline is not None and baseline not in groups:
        raise ValueError(f"baseline={baseline!r}: need one of the groups {', '.join(groups)}")
