"""Report of an adaptation curve: a table of means over tasks, and pictures: the curve, paths, beliefs and regret."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.stats import Estimate, task_mean
from experiments.render import draw_beliefs, draw_paths
from research.evaluation import AdaptationCurve, spread

_ROWS = 11
"""Largest number of steps in a printed table."""
_GAIN = "last less first"
_DISTINCT = 6
"""Largest number of distinct tasks that are printed one by one."""


def report(curve: AdaptationCurve, directory: Path | None) -> list[Path]:
    """Prints an adaptation curve, and draws it into `directory` if there is one. Returns the paths of the pictures."""
    num_tasks = curve.score.shape[1]
    evaluated = curve.evaluated
    reason = f": {evaluated.how}" if evaluated.held_out is False else ""
    _print_table(curve, f"Adaptation to {num_tasks} {evaluated.tasks(num_tasks)}{reason}")
    if directory is None:
        return []
    from analysis.plots import plot_adaptation_curve  # imports matplotlib, which is slow

    plot_adaptation_curve(curve, directory / "adaptation_curve.png")
    return [directory / "adaptation_curve.png", *draw_paths(curve, directory), *draw_beliefs(curve, directory)]


def report_trials(curve: AdaptationCurve, directory: Path | None) -> list[Path]:
    """Prints and draws the adaptation curve, and the regret where it is known."""
    pictures = report(curve, directory)
    if directory is None or "regret" not in curve.extras:
        return pictures
    from analysis.plots import plot_regret  # imports matplotlib, which is slow

    plot_regret(curve, directory / "regret.png")
    return [*pictures, directory / "regret.png"]


def _print_table(curve: AdaptationCurve, title: str) -> None:
    """Prints means over tasks with 95 % intervals: the score after some of the steps, its gain, and the totals."""
    width = max(len(_GAIN), len(curve.unit))
    names = "".join(f"  {name:>8}" for name in curve.extras)
    print(f"\n{title}\n{curve.unit:>{width}}  {curve.label:>12}  {'95 % interval':<15}{names}".rstrip())
    kinds = curve.distinct()
    mean = functools.partial(task_mean, kinds=kinds, are_all=curve.has_all_tasks())
    for step in spread(len(curve.score), _ROWS):
        shown = _ends(mean(curve.score[step]))
        extras = "".join(f"  {values[step].mean():>{max(8, len(name))}.3f}" for name, values in curve.extras.items())
        print(f"{step:>{width}}  {curve.score[step].mean():>12.2f}  {shown:<15}{extras}".rstrip())
    if len(curve.score) > 1:
        _print_mean(_GAIN, width, mean(curve.score[-1] - curve.score[0]), ", tasks paired")
    for name, values in curve.totals.items():
        _print_mean(name.replace("_", " "), width, mean(values))
    _print_distinct(curve, kinds)
    print()


def _print_distinct(curve: AdaptationCurve, kinds: NDArray[np.intp]) -> None:
    """Prints the scores of each distinct task, if the evaluation has a few tasks again and again."""
    counts = np.bincount(kinds)
    if not 1 < len(counts) <= _DISTINCT or counts.min() < 2:
        return
    print(
        f"{len(counts)} distinct tasks; the intervals above are those of the mean over them. Each, after the last step:"
    )
    for kind, name in enumerate(_names(curve, kinds)):
        values = curve.score[-1][kinds == kind]
        found = task_mean(values, np.zeros(len(values), np.intp))
        print(f"    {name} ({counts[kind]} times): {found.value:.2f}  {_ends(found)}")


def _names(curve: AdaptationCurve, kinds: NDArray[np.intp]) -> list[str]:
    """Returns the fields of each distinct task as text."""
    names = getattr(curve.tasks, "_fields", range(len(curve.tasks)))
    fields = list(zip(names, map(np.asarray, curve.tasks), strict=True))
    first = [int(np.argmax(kinds == kind)) for kind in range(kinds.max() + 1)]
    return [", ".join(f"{name} {np.round(values[task], 4).tolist()}" for name, values in fields) for task in first]


def _print_mean(name: str, width: int, found: Estimate, remark: str = "") -> None:
    print(f"{name:>{width}}  {found.value:>12.2f}  {_ends(found)}{remark}")


def _ends(found: Estimate) -> str:
    """Returns the interval, or the reason why there is none."""
    return f"[{found.low:.2f}, {found.high:.2f}]" if found.has_interval else f"({found.interval})"
