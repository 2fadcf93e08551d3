"""Pictures of curves over runs: learning, adaptation, regret. A line for each group, with the interval of its runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from analysis.plots.frames import grouped
from analysis.plots.labels import End, label_ends
from analysis.plots.style import COLUMN, SMALL, caption, grid, look, make_figure, thousands
from analysis.stats import NAMES, align, interval, interval_name, trimmed_mean
from analysis.stats.curves import Curve

if TYPE_CHECKING:
    import pandas as pd

_FLOOR = 1e-16
_RESAMPLES = 2000
_NUMBER = re.compile(r"\d[\d,]*")
_MARKED = 25
"""Most points of a line that are marked."""


class Band(NamedTuple):
    """The line of a group: `[points]` each; the ends are NaN where there is one run."""

    x: NDArray[np.float64]
    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    runs: int
    notes: tuple[str, ...]


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
    """Learning curves: the statistic over the runs of each group, with its interval at every point.

    Args:
        curves: Columns group, run, x, value, as `Runs.curves` gives them.
        label: What the value is, with its unit.
        x_label: What x counts, with its unit.
        statistic: "iqm", "mean" or "median".
        ragged: What is done with runs that end early, see `analysis.stats.align`.
        title: Above the picture.
        width: Inches.
        seed: Of the bootstrap.

    Raises:
        ValueError: There are no rows, a column is missing, or as `align`.
    """
    bands = {name: band(_runs(rows, "x"), statistic, ragged, seed) for name, rows in grouped(curves, "x").items()}
    with rc_context(SMALL):
        figure = make_figure(width, 0.72 * width)
        axes = figure.subplots()
        _draw(figure, axes, bands, {name: name for name in bands})
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
    title: str = "",
    width: float = COLUMN,
    seed: int = 0,
) -> Figure:
    """Adaptation curves of agents that may adapt in different ways: by gradient steps, episodes, or TD steps.

    With one unit it is the horizontal axis. With several, each agent's steps are drawn as a share of its own last one,
    and the names beside the lines say what that is: equal places are not equal experience.

    Args:
        curves: Columns group, run, adapt_step, value, unit, as `Runs.adaptation_curves` gives them.
        label: What the value is, with its unit.
        statistic: "iqm", "mean" or "median".
        log: Whether the vertical axis is logarithmic; then the statistic is that of the logarithms, down to 1e-16.
        title: Above the picture.
        width: Inches.
        seed: Of the bootstrap.

    Raises:
        ValueError: There are no rows, a column is missing, a group mixes units, or as `align`.
    """
    groups = grouped(
        curves.assign(value=np.log10(np.maximum(curves["value"], _FLOOR))) if log else curves, "adapt_step", "unit"
    )
    bands = {name: band(_runs(rows, "adapt_step"), statistic, "common", seed) for name, rows in groups.items()}
    if log:
        bands = {
            name: each._replace(middle=10**each.middle, low=10**each.low, high=10**each.high)
            for name, each in bands.items()
        }
    return _over_steps(bands, _units(groups), label=label, statistic=statistic, title=title, width=width, log=log)


def plot_regrets(
    curves: pd.DataFrame,
    *,
    label: str = "regret so far",
    statistic: str = "iqm",
    title: str = "",
    width: float = COLUMN,
    seed: int = 0,
) -> Figure:
    """The regret that has piled up after each step: flat where an agent has learned what to do.

    Args:
        curves: As for `plot_adaptation`, the value of step k being the regret of the (k + 1)-th episode or pull.
        label: What the value is, with its unit.
        statistic: "iqm", "mean" or "median".
        title: Above the picture.
        width: Inches.
        seed: Of the bootstrap.

    Raises:
        ValueError: As `plot_adaptation`.
    """
    groups, bands = grouped(curves, "adapt_step", "unit"), {}
    for name, rows in groups.items():
        piled = {}
        for run, (step, value) in _runs(rows, "adapt_step").items():
            piled[run] = (np.append(step, np.max(step) + 1), np.append(0.0, np.cumsum(value)))
        bands[name] = band(piled, statistic, "common", seed)
    figure = _over_steps(bands, _units(groups), label=label, statistic=statistic, title=title, width=width)
    figure.axes[0].set_ylim(bottom=min(0.0, *(float(each.middle.min()) for each in bands.values())))
    return figure


def band(runs: Mapping[str, Curve], statistic: str, ragged: str, seed: int) -> Band:
    """The statistic of a group's runs at every common point, with its interval."""
    aligned = align(runs, ragged)
    ends = np.full((3, len(aligned.x)), np.nan)
    for count in np.unique(aligned.runs):
        at = aligned.runs == count
        values = aligned.values[:, at]
        values = values[~np.isnan(values).any(1)].T
        rng = np.random.default_rng(seed)
        ends[:, at] = trimmed_mean(values, statistic), *interval(values, rng, statistic, num_resamples=_RESAMPLES)
    middle, low, high = ends
    return Band(aligned.x, middle, low, high, len(aligned.values), aligned.notes)


def _over_steps(
    bands: dict[str, Band],
    units: dict[str, str],
    *,
    label: str,
    statistic: str,
    title: str,
    width: float,
    log: bool = False,
) -> Figure:
    mixed = len(set(units.values())) > 1
    names = {name: name for name in bands}
    if mixed:
        names = {name: f"{name}: {each.x[-1]:g} {units[name]}" for name, each in bands.items()}
        bands = {name: each._replace(x=each.x / max(each.x[-1], 1)) for name, each in bands.items()}
    with rc_context(SMALL):
        figure = make_figure(width, 0.72 * width)
        axes = figure.subplots()
        _draw(figure, axes, bands, names)
        axes.set_yscale("log" if log else "linear")
        axes.set(xlabel="share of the agent's own adaptation" if mixed else next(iter(units.values())), ylabel=label)
        axes.set_title(title, loc="left")
        if mixed:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        more = ["agents count their steps in different units: equal places are not equal experience"] if mixed else []
        _finish(figure, axes, bands, statistic, [*more, *(["all of logarithms"] if log else [])])
        label_ends(figure, axes, _ends(bands, names))
    return figure


def _draw(figure: Figure, axes: Axes, bands: dict[str, Band], names: dict[str, str]) -> None:
    """Bands below all lines, so that none hides one."""
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
    """What the caption says: the statistic, how many runs, which interval, who has none, what was cut."""
    counts = {name: each.runs for name, each in bands.items()}
    several = [count for count in counts.values() if count > 1]
    sentences = [f"{NAMES[statistic]} over {runs_of(counts)}"]
    if several:
        kinds = sorted({interval_name(statistic, count) for count in several})
        sentences[0] += f"; bands: {', '.join(kinds)} at each point"
    if 1 in counts.values():
        alone = [name for name, count in counts.items() if count == 1]
        sentences.append(f"no interval for one run: {', '.join(alone)}")
    return sentences + _notes(bands)


def _notes(bands: dict[str, Band]) -> list[str]:
    """What was done to the runs of each group; groups that had the same done share a sentence, numbers as ranges."""
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
    """`14,288 to 14,339`, or the number if there is one."""
    low, *_, high = (*sorted(numbers, key=lambda number: int(number.replace(",", ""))),) * 2
    return low if low == high else f"{low} to {high}"


def runs_of(counts: dict[str, int]) -> str:
    """`5 runs each (RL²: 3)`: the number that most groups have, and those of the others."""
    found = list(counts.values())
    usual = max(found, key=found.count)
    others = ", ".join(f"{name}: {count}" for name, count in counts.items() if count != usual)
    return f"{usual} run{'s' * (usual != 1)}{' each' * (len(counts) > 1)}{f' ({others})' * bool(others)}"


def _ends(bands: dict[str, Band], names: dict[str, str]) -> list[End]:
    return [End(float(each.x[-1]), float(each.middle[-1]), names[name], look(index)["color"])
            for index, (name, each) in enumerate(bands.items())]  # fmt: skip


def _runs(rows: pd.DataFrame, x: str) -> dict[str, Curve]:
    """By run, its curve in the order of x."""
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
