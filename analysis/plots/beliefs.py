"""Picture of the search for a hidden goal: the path of each episode of a trial, and the belief after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from analysis.plots.style import COLOURS, INK, STYLE, make_figure, save

_RULED_OUT = "#E9E9E9"
_BLUES = LinearSegmentedColormap.from_list("belief", ["#FFFFFF", COLOURS[0]])
_NORM = PowerNorm(0.4, 0, 1)  # 1 of 80 goals is still to be seen
_TICKS = [0, 0.05, 0.2, 0.5, 1]
_SPREAD = 0.3
"""Distance in cells by which the end of a path is moved from where it would be, so that it does not hide its start."""


class Walk(NamedTuple):
    """An episode of a search.

    Attributes:
        path: Positions before the first step and after each one, `[time + 1, 2]`.
        belief: Probability of each goal after the episode, `[goals]`.
        earned: The return of the episode.
    """

    path: NDArray[np.float64]
    belief: NDArray[np.float64]
    earned: float


def plot_beliefs(
    goals: NDArray[np.float64],
    prior: NDArray[np.float64],
    hidden: NDArray[np.float64],
    trials: Sequence[Sequence[Walk]],
    path: Path | str,
    title: str = "",
) -> None:
    """Draws one row for each trial and one panel for each episode, on a plane of unit cells.

    The colour of a cell is the probability that it has the goal, after the episode. Grey cells were ruled out by what
    the agent saw so far; white ones are no goals. The path is slightly shifted along its course.

    Args:
        goals: Points that may be the goal, `[goals, 2]`, one unit apart.
        prior: Probability of each goal before the first episode, `[goals]`.
        hidden: The goal of each trial, `[trials, 2]`.
        trials: The episodes of each trial.
        path: The file to write.
        title: Title above the panels.

    Raises:
        ValueError: There is no trial, or not one goal and the same number of episodes for each.
    """
    counts = {len(walks) for walks in trials}
    if len(counts) != 1 or 0 in counts or len(hidden) != len(trials):
        raise ValueError(f"trials: got {len(trials)} with {sorted(counts)} episodes and {len(hidden)} goals; need at "
                         "least one, one goal for each, and the same number of episodes in all")  # fmt: skip
    points = np.concatenate([goals, *(walk.path for walks in trials for walk in walks)])
    low, high = points.min(0) - 0.5, points.max(0) + 0.5
    with rc_context(STYLE):
        rows, columns = len(trials), counts.pop()
        figure = make_figure(1.3 * columns + 0.9, 1.5 * rows + 0.9)
        panels = figure.subplots(rows, columns, squeeze=False)
        for walks, goal, line in zip(trials, hidden, panels, strict=True):
            for walk, axes in zip(walks, line, strict=True):
                _draw_cells(axes, goals, prior, walk.belief)
                _draw_walk(axes, walk.path, goal)
                left = int(np.count_nonzero(walk.belief))
                earned = f"{walk.earned:.1f}".replace("-", "\N{MINUS SIGN}")
                rest = f"{left} goals left" if left > 1 else "goal known"
                axes.set_xlabel(f"return {earned}, {rest}", fontsize=7, labelpad=2)
                axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[], aspect="equal")
                axes.spines[:].set_visible(True)
        for episode, axes in enumerate(panels[0]):
            axes.set_title(f"episode {episode + 1}", fontsize=8)
        figure.suptitle(title, x=0.01, ha="left", fontsize=9)
        _colour_bar(figure, list(panels.flat))
        _legend(figure)
        save(figure, path)


def _colour_bar(figure: Figure, panels: Sequence[Axes]) -> None:
    bar = figure.colorbar(ScalarMappable(_NORM, _BLUES), ax=panels, shrink=0.5, aspect=18, ticks=_TICKS)
    bar.ax.set_yticklabels([f"{tick:g}" for tick in _TICKS], fontsize=7)
    bar.set_label("probability of the goal after the episode", fontsize=7)


def _draw_cells(
    axes: Axes, goals: NDArray[np.float64], prior: NDArray[np.float64], belief: NDArray[np.float64]
) -> None:
    cells = [Rectangle((x - 0.5, y - 0.5), 1, 1) for x, y in goals]
    is_out = (belief == 0) & (prior > 0)
    colours = [_RULED_OUT if out else _BLUES(_NORM(chance)) for out, chance in zip(is_out, belief, strict=True)]
    axes.add_collection(PatchCollection(cells, facecolors=colours, edgecolors="#BBBBBB", linewidths=0.5, zorder=1))


def _draw_walk(axes: Axes, path: NDArray[np.float64], goal: NDArray[np.float64]) -> None:
    shown = path + _SPREAD * np.linspace(-0.5, 0.5, len(path))[:, None]
    white = withStroke(linewidth=2.4, foreground="white")
    axes.plot(*goal, marker="*", markersize=10, color=COLOURS[4], markeredgecolor=INK, markeredgewidth=0.5, zorder=2)
    axes.plot(*shown.T, color=COLOURS[1], linewidth=1.1, path_effects=[white], zorder=3, solid_joinstyle="round")
    axes.plot(*shown[0], marker="o", markersize=3.5, color=INK, markeredgecolor="white", markeredgewidth=0.5, zorder=4)
    axes.plot(*shown[-1], marker="s", markersize=3.2, color=COLOURS[1], markeredgecolor="white", markeredgewidth=0.5,
              zorder=4)  # fmt: skip


def _legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], color=COLOURS[1], linewidth=1.2, label="path"),
        Line2D([], [], color=INK, linewidth=0, marker="o", markersize=4, label="start"),
        Line2D([], [], color=COLOURS[1], linewidth=0, marker="s", markersize=4, label="end"),
        Line2D([], [], color=COLOURS[4], linewidth=0, marker="*", markersize=8, markeredgecolor=INK,
               markeredgewidth=0.5, label="hidden goal"),
        Patch(facecolor=_RULED_OUT, edgecolor="#BBBBBB", label="ruled out"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=7)
