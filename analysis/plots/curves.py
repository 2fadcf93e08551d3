"""Pictures of curves: learning, adaptation, regret. Each group has a line with the interval over its runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from analysis.plots.frames import grouped
from analysis.plots.labels import End, label_ends
from analysis.plots.style import COLUMN, INK, SMALL, caption, grid, look, make_figure, thousands
from analysis.stats import NAMES, NOT_FINITE, align, interval, interval_name, trimmed_mean
from analysis.stats.curves import Curve

if TYPE_CHECKING:
    import pandas as pd

_FLOOR = 1e-16
_RESAMPLES = 2000
_NUMBER = re.compile(r"\d[\d,]*")
_MARKED = 25
"""Largest number of points of a line with markers."""


class Band(NamedTuple):
    """The line of a group and its interval, `[points]` each; NaN where a run has diverged, ends NaN for one run."""

    x: NDArray[np.float64]
    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    runs: int
    notes: tuple[str, ...]
    has_diverged: bool


def plot_curves(
    curves: pd.DataFrame,
    *,
    label: str,
    x_label: str = "iteration",
    statistic: str = "iqm",
    ragged: str = "common",
    title: str = "",
    width: float = COLUMN,
    seed: int = 0,
) -> Figure:
    """Draws learning curves: the statistic over the runs of each group, with its interval at every point.

    Args:
        curves: Columns group, run, x, value, as `Runs.curves` gives them.
        label: Name and unit of the value, for the axis.
        x_label: Name and unit of x, for the axis.
        statistic: "iqm", "mean" or "median".
        ragged: Rule for runs that end early, "common" or "available", see `analysis.stats.align`.
        title: Title above the picture.
        width: Width in inches.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: There are no rows, a column is missing, or as in `align`.
    """
    bands = {name: band(_runs(rows, "x"), statistic, ragged, seed) for name, rows in grouped(curves, "x").items()}
    with rc_context(SMALL):
        figure = make_figure(width, 0.72 * width)
        axes = figure.subplots()
        _draw(axes, bands, {name: name for name in bands})
        axes.set(xlabel=x_label, ylabel=label)
        axes.set_title(title, loc="left")
        _finish(figure, axes, bands, statistic)
        label_ends(figure, axes, _ends(bands, {name: name for name in bands}))
    return figure


def plot_adaptation(
    curves: pd.DataFrame,
    *,
    label: str,
    statistic: str = "iqm",
    log: bool = False,
    every_run: bool = False,
    published: Sequence[float] = (),
    title: str = "",
    width: float = COLUMN,
    seed: int = 0,
) -> Figure:
    """Draws adaptation curves of agents that may adapt in different units: gradient steps, episodes, or TD steps.

    One common unit is the horizontal axis. With several units, each agent's steps are drawn as a fraction of its own
    last one, which the name of the line states: equal positions are not equal experience.

    Args:
        curves: Columns group, run, adapt_step, value, unit, as `Runs.adaptation_curves` gives them.
        label: Name and unit of the value, for the axis.
        statistic: "iqm", "mean" or "median".
        log: Whether the vertical axis is logarithmic; the statistic is then that of the logarithms, of at least 1e-16.
        every_run: Whether each run is also drawn, as a faint line.
        published: Published values after 0, 1, … steps; NaN is a gap, and there may be fewer values than steps.
        title: Title above the picture.
        width: Width in inches.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: There are no rows, a column is missing, a group mixes units, `published` or `every_run` is given
            for agents whose units differ, or as in `align`.
    """
    groups = grouped(_logarithms(curves) if log else curves, "adapt_step", "unit")
    runs = {name: _runs(rows, "adapt_step") for name, rows in groups.items()}
    bands = {name: band(mine, statistic, "common", seed) for name, mine in runs.items()}
    if log:
        bands = {name: _exponential(each) for name, each in bands.items()}
    return _over_steps(bands, _units(groups), label=label, statistic=statistic, title=title, width=width, log=log,
                       singles=runs if every_run else {}, published=published)  # fmt: skip


def plot_regrets(
    curves: pd.DataFrame,
    *,
    label: str = "regret so far",
    statistic: str = "iqm",
    title: str = "",
    width: float = COLUMN,
    seed: int = 0,
) -> Figure:
    """Draws the cumulative regret after each step, which is flat when an agent has learned the task.

    Args:
        curves: Columns as in `plot_adaptation`; the value of step k is the regret of the (k + 1)-th episode or pull.
        label: Name and unit of the value, for the axis.
        statistic: "iqm", "mean" or "median".
        title: Title above the picture.
        width: Width in inches.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: As in `plot_adaptation`.
    """
    groups, bands = grouped(curves, "adapt_step", "unit"), {}
    for name, rows in groups.items():
        piled = {}
        for run, (step, value) in _runs(rows, "adapt_step").items():
            piled[run] = (np.append(step, np.max(step) + 1), np.append(0.0, np.cumsum(value)))
        bands[name] = band(piled, statistic, "common", seed)
    figure = _over_steps(bands, _units(groups), label=label, statistic=statistic, title=title, width=width)
    middles = np.concatenate([each.middle for each in bands.values()])
    figure.axes[0].set_ylim(bottom=min(0.0, float(np.min(middles, initial=0.0, where=np.isfinite(middles)))))
    return figure


def band(runs: Mapping[str, Curve], statistic: str, ragged: str, seed: int) -> Band:
    """Returns the statistic of a group's runs at every common point, with its interval.

    Neither has a value where a run is not finite.
    """
    aligned = align(runs, ragged)
    ends = np.full((3, len(aligned.x)), np.nan)
    for count in np.unique(aligned.runs[aligned.diverged == 0]):
        at = (aligned.runs == count) & (aligned.diverged == 0)
        values = aligned.values[:, at]
        values = values[~np.isnan(values).any(1)].T  # without runs that have ended
        rng = np.random.default_rng(seed)
        ends[:, at] = trimmed_mean(values, statistic), *interval(values, rng, statistic, num_resamples=_RESAMPLES)
    middle, low, high = ends
    return Band(aligned.x, middle, low, high, len(aligned.values), aligned.notes, bool(aligned.diverged.any()))


def _over_steps(
    bands: dict[str, Band],
    units: dict[str, str],
    *,
    label: str,
    statistic: str,
    title: str,
    width: float,
    log: bool = False,
    singles: Mapping[str, Mapping[str, Curve]] = MappingProxyType({}),
    published: Sequence[float] = (),
) -> Figure:
    mixed = len(set(units.values())) > 1
    if mixed and (singles or len(published)):
        raise ValueError(f"published, every_run: need one unit of a step, got {', '.join(sorted(set(units.values())))}")
    names = {name: name for name in bands}
    if mixed:
        names = {name: f"{name}: {each.x[-1]:g} {units[name]}" for name, each in bands.items()}
        bands = {name: each._replace(x=each.x / max(each.x[-1], 1)) for name, each in bands.items()}
    with rc_context(SMALL):
        figure = make_figure(width, 0.72 * width)
        axes = figure.subplots()
        _draw(axes, bands, names)
        _draw_runs(axes, [singles.get(name, {}) for name in bands], log)
        ends = _ends(bands, names) + _draw_published(axes, published)
        unit = "fraction of the agent's own adaptation" if mixed else units[next(iter(bands))]
        axes.set(xlabel=unit, ylabel=label, yscale="log" if log else "linear")
        axes.set_title(title, loc="left")
        more = ["faint lines: every run"] * bool(singles) + ["all of logarithms"] * log
        if mixed:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            more.insert(0, "agents count their steps in different units: equal places are not equal experience")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _finish(figure, axes, bands, statistic, more)
        label_ends(figure, axes, ends)
    return figure


def _logarithms(curves: pd.DataFrame) -> pd.DataFrame:
    return curves.assign(value=np.log10(np.maximum(curves["value"], _FLOOR)))


def _exponential(each: Band) -> Band:
    """Returns 10 to the power of a band."""
    return each._replace(middle=10**each.middle, low=10**each.low, high=10**each.high)


def _draw_runs(axes: Axes, groups: Sequence[Mapping[str, Curve]], log: bool) -> None:
    """Draws every run of the groups as a faint line."""
    for index, runs in enumerate(groups):
        for x, value in runs.values():
            axes.plot(x, np.power(10.0, value) if log else value, color=look(index)["color"], linewidth=0.5, alpha=0.4)


def _draw_published(axes: Axes, published: Sequence[float]) -> list[End]:
    """Draws published values, if there are any. Returns the end of their line."""
    known = np.flatnonzero(np.isfinite(published))
    if not len(known):
        return []
    axes.plot(published, color=INK, marker="s", markersize=2.8, linewidth=1.0, linestyle=(0, (4, 2)))
    return [End(float(known[-1]), float(published[known[-1]]), "published", INK)]


def _draw(axes: Axes, bands: dict[str, Band], names: dict[str, str]) -> None:
    """Draws the bands below all lines, so that no band hides a line."""
    for index, (name, each) in enumerate(bands.items()):
        style = look(index)
        axes.fill_between(each.x, each.low, each.high, color=style["color"], alpha=0.18, linewidth=0, zorder=1.5)
        marker = "o" if len(each.x) <= _MARKED else ""
        axes.plot(each.x, each.middle, **style, linewidth=1.3, marker=marker, markersize=2.8, label=names[name])


def _finish(figure: Figure, axes: Axes, bands: dict[str, Band], statistic: str, more: list[str] | None = None) -> None:
    grid(axes)
    axes.margins(x=0.02)
    thousands(axes.xaxis, max(float(np.abs(each.x).max()) for each in bands.values()))
    caption(figure, [*_sentences(bands, statistic), *(more or [])])


def _sentences(bands: dict[str, Band], statistic: str) -> list[str]:
    """Returns the sentences of the caption: statistic, number of runs, interval, groups without one, and changes."""
    counts = {name: each.runs for name, each in bands.items()}
    several = [count for count in counts.values() if count > 1]
    sentences = [f"{NAMES[statistic]} over {runs_of(counts)}"]
    if several:
        kinds = sorted({interval_name(statistic, count) for count in several})
        sentences[0] += f"; bands: {', '.join(kinds)} at each point"
    if 1 in counts.values():
        alone = [name for name, count in counts.items() if count == 1]
        sentences.append(f"no interval for one run: {', '.join(alone)}")
    return sentences + _notes(bands) + [NOT_FINITE] * any(each.has_diverged for each in bands.values())


def _notes(bands: dict[str, Band]) -> list[str]:
    """Returns the changes that were made to the runs, in one sentence for groups with the same changes."""
    alike: dict[str, dict[str, list[str]]] = {}
    for name, each in bands.items():
        for note in each.notes:
            alike.setdefault(_NUMBER.sub("{}", note), {})[name] = _NUMBER.findall(note)
    sentences = []
    for words, found in alike.items():
        whose = "" if len(found) == len(bands) else f"in {', '.join(found)}, "
        sentences.append(whose + words.format(*map(_range, zip(*found.values(), strict=True))))
    return sentences


def _range(numbers: Sequence[str]) -> str:
    """Returns `14,288 to 14,339`, or the number if all are equal."""
    low, *_, high = (*sorted(numbers, key=lambda number: int(number.replace(",", ""))),) * 2
    return low if low == high else f"{low} to {high}"


def runs_of(counts: dict[str, int]) -> str:
    """Returns `5 runs each (RL²: 3)`: the most frequent number of runs, and those of the other groups."""
    found = list(counts.values())
    usual = max(found, key=found.count)
    others = ", ".join(f"{name}: {count}" for name, count in counts.items() if count != usual)
    return f"{usual} run{'s' * (usual != 1)}{' each' * (len(counts) > 1)}{f' ({others})' * bool(others)}"


def _ends(bands: dict[str, Band], names: dict[str, str]) -> list[End]:
    ends = []
    for index, (name, each) in enumerate(bands.items()):
        known = np.flatnonzero(np.isfinite(each.middle))  # the line of a group that has diverged ends before
        place = known[-1] if len(known) else 0
        height = float(each.middle[place]) if len(known) else 0.0
        shown = names[name] if len(known) == len(each.x) else f"{names[name]} (diverged)"
        ends.append(End(float(each.x[place]), height, shown, look(index)["color"]))
    return ends


def _runs(rows: pd.DataFrame, x: str) -> dict[str, Curve]:
    """Returns the curve of each run, in the order of x."""
    return {
        str(run): (curve[x].to_numpy(np.float64), curve["value"].to_numpy(np.float64))
        for run, curve in rows.sort_values(x, kind="stable").groupby("run", sort=True, observed=True)
    }


def _units(groups: dict[str, pd.DataFrame]) -> dict[str, str]:
    units = {}
    for name, rows in groups.items():
        found = sorted(rows["unit"].unique())
        if len(found) != 1:
            raise ValueError(f"group {name!r}: its runs adapt in different units, {', '.join(found)}; split the group")
        units[name] = str(found[0])
    return units
