"""Report of an adaptation curve: a table of means over tasks, a picture, and the paths to goals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.stats import estimate, interval
from experiments.render import draw_paths
from research.evaluation import AdaptationCurve, spread

_ROWS = 11
"""Largest number of steps in a printed table."""
_GAIN = "last less first"


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
    return [directory / "adaptation_curve.png", *draw_paths(curve, directory)]


def _print_table(curve: AdaptationCurve, title: str) -> None:
    """Prints means over tasks with 95 % intervals: the score after some of the steps, its gain, and the totals."""
    width = max(len(_GAIN), len(curve.unit))
    names = "".join(f"  {name:>8}" for name in curve.extras)
    print(f"\n{title}\n{curve.unit:>{width}}  {curve.label:>12}  {'95 % interval':<15}{names}".rstrip())
    ends = np.transpose(interval(curve.score, np.random.default_rng(0), "mean"))
    for step in spread(len(curve.score), _ROWS):
        shown = f"[{ends[step][0]:.2f}, {ends[step][1]:.2f}]"
        extras = "".join(f"  {values[step].mean():>{max(8, len(name))}.3f}" for name, values in curve.extras.items())
        print(f"{step:>{width}}  {curve.score[step].mean():>12.2f}  {shown:<15}{extras}".rstrip())
    if len(curve.score) > 1:
        _print_mean(_GAIN, width, curve.score[-1] - curve.score[0], ", tasks paired")
    for name, values in curve.totals.items():
        _print_mean(name.replace("_", " "), width, values)
    print()


def _print_mean(name: str, width: int, values: NDArray[np.float64], remark: str = "") -> None:
    found = estimate(values, np.random.default_rng(0), "mean")
    print(f"{name:>{width}}  {found.value:>12.2f}  [{found.low:.2f}, {found.high:.2f}]{remark}")
