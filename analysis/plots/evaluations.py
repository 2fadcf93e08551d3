"""Pictures of one evaluation. Each function writes one file: `.png`, `.pdf` or `.svg`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.plots.style import COLOURS, INK, STYLE, make_figure, save
from analysis.stats import task_mean
from research.evaluation import AdaptationCurve
from research.tasks.base import GoalTasks

_FAINT = 100
"""Largest number of single tasks in a picture."""

_MARKED = 20
"""Largest number of entries of a curve with markers; longer curves have no markers and no curves of single tasks."""


def plot_adaptation_curve(curve: AdaptationCurve, path: Path | str) -> None:
    """Draws the mean score over tasks after each step, its 95 % interval, and faintly each of the first 100 tasks.

    Single tasks are not drawn for more than 20 steps, because their lines would hide the mean.

    Args:
        curve: The adaptation curve, with `score [steps + 1, tasks]`.
        path: The file to write.
    """
    tasks = curve.score.shape[1]
    with rc_context(STYLE):
        figure = make_figure(4.0, 3.0)
        axes = figure.subplots()
        _draw_curves(axes, curve)
        axes.set(xlabel=curve.unit, ylabel=curve.label)
        axes.set_title(f"Adaptation to {tasks} {curve.evaluated.tasks(tasks)}", loc="left")
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        save(figure, path)


def plot_reference(curve: AdaptationCurve, references: Mapping[str, NDArray[np.float64]], path: Path | str) -> None:
    """Draws the mean score over tasks after each step next to other quantities of the same unit, with 95 % intervals.

    Args:
        curve: The adaptation curve, with `score [steps + 1, tasks]`.
        references: The other quantities by their names in the legend, each `[steps + 1, tasks]`.
        path: The file to write.
    """
    tasks = curve.score.shape[1]
    with rc_context(STYLE):
        figure = make_figure(4.4, 3.2)
        axes = figure.subplots()
        for colour, (name, values) in zip(COLOURS, {"agent": curve.score, **references}.items(), strict=False):
            axes.fill_between(range(len(values)), *_mean_interval(values, curve), color=colour, alpha=0.25, linewidth=0)
            axes.plot(values.mean(1), color=colour, marker=_marker(values), markersize=3.5, linewidth=1.5, label=name)
        axes.set(xlabel=curve.unit, ylabel=curve.label)
        axes.set_title(f"{tasks:,} {curve.evaluated.tasks(tasks)}", loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.grid(visible=True, linewidth=0.5, alpha=0.3)
        figure.legend(loc="outside lower center", ncols=1, frameon=False)
        save(figure, path)


def plot_regret(curve: AdaptationCurve, path: Path | str) -> None:
    """Draws the mean score after each step, the mean score of the best policies, and the cumulative regret.

    Args:
        curve: An adaptation curve with the extra `regret` and the totals `total` and `total_regret`, see
            `research.algorithms.memory.evaluation.trial_curve`.
        path: The file to write.

    Raises:
        ValueError: The curve has no regret.
    """
    if "regret" not in curve.extras:
        raise ValueError("curve: it has no regret; need tasks whose best returns are known (SolvedTasks)")
    regret = curve.extras["regret"]
    best = float((curve.totals["total"] + curve.totals["total_regret"]).mean()) / len(regret)
    expected = best - regret
    piled = np.concatenate([np.zeros((1, regret.shape[1])), regret.cumsum(0)])
    with rc_context(STYLE):
        figure = make_figure(6.6, 3.0)
        left, right = figure.subplots(1, 2)
        for axes, values in ((left, expected), (right, piled)):
            middle, marker = values.mean(1), _marker(values)
            axes.fill_between(
                range(len(values)), *_mean_interval(values, curve), color=COLOURS[0], alpha=0.3, linewidth=0
            )
            axes.plot(
                middle, color=COLOURS[0], marker=marker, markersize=3.5, linewidth=1.5, label="agent, 95 % interval"
            )
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.grid(visible=True, linewidth=0.5, alpha=0.3)
            axes.set_xlabel(curve.unit)
        left.axhline(best, color=COLOURS[1], linewidth=1.2, ls="--", label="best policy for the known task")
        left.set_ylabel("expected return of an episode")
        right.set_ylabel("regret so far")
        right.set_ylim(bottom=0)
        left.set_title(f"{regret.shape[1]:,} {curve.evaluated.tasks(regret.shape[1])}", loc="left")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        save(figure, path)


def plot_paths(
    curve: AdaptationCurve, paths: Sequence[NDArray[Any]], path: Path | str, episodes_per_task: int = 5
) -> None:
    """Draws the paths to a few goals on the plane, one panel before adaptation and one after each gradient step.

    The goals are the first goals of the evaluation, and the paths its first episodes: there is no selection. The mean
    path averages the positions of all episodes at the same time; an ended episode counts with its last position. The
    label below each panel has the mean score over all tasks of the evaluation.

    Args:
        curve: An evaluation on tasks with `goal [tasks, 2]`.
        paths: Positions in the episodes of the first tasks, `[tasks, episodes, time, 2]` for each step of adaptation,
            see `experiments.replay.walked_paths`.
        path: The file to write.
        episodes_per_task: Largest number of paths to each goal, in addition to their mean.

    Raises:
        ValueError: The number of arrays is not that of the steps, the tasks have no goal, or a number is below 1.
    """
    if episodes_per_task < 1:
        raise ValueError(f"episodes_per_task={episodes_per_task}: need at least 1")
    if len(paths) != len(curve.score):
        raise ValueError(f"paths: got those of {len(paths)} steps, need one array for each of {len(curve.score)}")
    panels = list(paths)
    goals = _goals(curve)[: len(panels[0])]
    with rc_context(STYLE):
        figure = make_figure(1.85 * len(panels) + 0.5, 2.85)
        figure.set_layout_engine("compressed", h_pad=0.07)
        row: Sequence[Axes] = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for step, (axes, walked) in enumerate(zip(row, panels, strict=True)):
            _draw_paths(axes, goals, walked, episodes_per_task)
            axes.set_title(_panel_title(step, curve.unit))
            axes.set_xlabel(f"{curve.label} {curve.score[step].mean():.1f}".replace("-", "\N{MINUS SIGN}"))
        limit = _limit(goals, panels)
        row[0].set(xlim=(-limit, limit), ylim=(-limit, limit))
        for axis in (row[0].xaxis, row[0].yaxis):
            axis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10], symmetric=True))
        _paths_legend(figure, episodes=panels[0].shape[1])
        save(figure, path)


def _goals(curve: AdaptationCurve) -> NDArray[Any]:
    if not isinstance(curve.tasks, GoalTasks) or np.shape(curve.tasks.goal)[1:] != (2,):
        raise ValueError(f"curve: need tasks with `goal [tasks, 2]` to draw paths, got {type(curve.tasks).__name__}")
    return np.asarray(curve.tasks.goal)


def _mean_interval(
    values: NDArray[np.float64], curve: AdaptationCurve
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the ends of the interval of the mean over tasks for `values [steps, tasks]`, see `stats.task_mean`."""
    kinds, are_all = curve.distinct(), curve.has_all_tasks()
    found = [task_mean(row, kinds, are_all=are_all) for row in values]
    return np.array([each.low for each in found]), np.array([each.high for each in found])


def _draw_curves(axes: Axes, curve: AdaptationCurve) -> None:
    """Draws the mean score with its interval, and single tasks of short curves."""
    score = curve.score
    x = np.arange(len(score))
    singles = score[:, : _FAINT * (len(x) <= _MARKED)]
    axes.add_collection(LineCollection(_rows(x, singles.T), colors=INK, linewidths=0.6, alpha=0.15))
    axes.fill_between(x, *_mean_interval(score, curve), color=COLOURS[0], alpha=0.3, linewidth=0, label="95 % interval")
    axes.plot(x, score.mean(1), color=COLOURS[0], marker=_marker(x), markersize=4.5, linewidth=1.8, label="mean")
    if singles.size:
        axes.plot([], [], color=INK, linewidth=0.6, alpha=0.4, label="one task")  # stands for the collection
    axes.set_xlim(-0.15, len(score) - 0.85)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.grid(visible=True, linewidth=0.5, alpha=0.3)


def _draw_paths(axes: Axes, goals: NDArray[Any], paths: NDArray[Any], episodes: int) -> None:
    white = withStroke(linewidth=2.6, foreground="white")
    for task, goal in enumerate(goals):
        colour = COLOURS[task % len(COLOURS)]
        axes.add_collection(LineCollection(list(paths[task, :episodes]), colors=colour, linewidths=0.4, alpha=0.35))
        axes.plot(*paths[task].mean(0).T, color=colour, linewidth=1.5, zorder=3, path_effects=[white])
        axes.plot(*goal, marker="*", markersize=11, color=colour, markeredgecolor="white", zorder=5)
    start = paths[:, :, 0].mean((0, 1))
    axes.plot(*start, marker="o", markersize=4.5, color=INK, markeredgecolor="white", markeredgewidth=0.6, zorder=4)
    axes.set_aspect("equal")


def _panel_title(step: int, unit: str) -> str:
    return "before adaptation" if step == 0 else f"after {step} {unit if step > 1 else unit.removesuffix('s')}"


def _limit(goals: NDArray[Any], panels: Sequence[NDArray[Any]]) -> float:
    """Returns half the side of the square with all goals and all but the farthest 1 % of the positions."""
    reach = [np.abs(paths).max(-1).ravel() for paths in panels]
    return 1.1 * max(float(np.abs(goals).max()), float(np.quantile(np.concatenate(reach), 0.99)))


def _paths_legend(figure: Figure, episodes: int) -> None:
    handles = [
        Line2D([], [], color=INK, linewidth=0.6, alpha=0.6, label="one episode"),
        Line2D([], [], color=INK, linewidth=1.5, label=f"mean of {episodes} episodes"),
        Line2D([], [], color=INK, linewidth=0, marker="*", markersize=9, label="goal"),
        Line2D([], [], color=INK, linewidth=0, marker="o", markersize=4.5, label="start"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)


def _marker(points: NDArray[Any]) -> str:
    """Returns the marker of the points of a curve; empty if there are many points."""
    return "o" if len(points) <= _MARKED else ""


def _rows(x: NDArray[Any], rows: NDArray[Any]) -> list[NDArray[Any]]:
    """Returns a line `[points, 2]` for each row."""
    return [np.column_stack([x, row]) for row in rows]
