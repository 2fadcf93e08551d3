"""What a script of a policy that adapts shows of an adaptation curve."""

from __future__ import annotations

from pathlib import Path

from analysis.plots import plot_adaptation_curve
from analysis.stats import bootstrap_interval
from experiments.render import draw_paths
from research.evaluation import AdaptationCurve


def report(curve: AdaptationCurve, directory: Path | None) -> list[Path]:
    """Prints the adaptation curve, draws it and, where tasks are goals on a plane, the paths to some."""
    num_tasks = curve.score.shape[1]
    split = None if curve.distribution is None else curve.distribution.split
    tasks = "held-out tasks" if split is None or split.disjoint else f"tasks of training: {split.how}"
    print(f"\nAdaptation to {num_tasks} {tasks}\n{'gradient steps':>14}  {curve.label:>12}  95 % interval")
    for step, score in enumerate(curve.score):
        low, high = bootstrap_interval(score)
        print(f"{step:>14}  {score.mean():>12.2f}  [{low:.2f}, {high:.2f}]")
    print()
    if directory is None:
        return []
    pictures = [directory / "adaptation_curve.png"]
    plot_adaptation_curve(curve, pictures[0])
    return [*pictures, *draw_paths(curve, directory)]
