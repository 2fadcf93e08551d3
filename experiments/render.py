"""Pictures of a policy that adapts: films of episodes before and after adaptation, and the paths to goals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.replay import Footage, can_be_drawn, check_drawable, film, has_paths, walked_paths, walked_trials
from research.evaluation import AdaptationCurve, Episodes, RecordedTrials
from research.tasks import make_tasks
from research.tasks.base import DescribedTasks, GoalBeliefs

if TYPE_CHECKING:
    from analysis.plots.film import Panel

_NUM_PATH_TASKS = 5


def prepare_drawing(config: Any) -> Callable[[AdaptationCurve, Path], list[Path]]:
    """Returns the function that draws an adaptation curve into a directory and returns the paths of the pictures.

    Args:
        config: Settings with `task`, `task_args` and `horizon`.

    Raises:
        ValueError: The environments cannot be drawn, or not on this machine.
    """
    tasks = make_tasks(config.task, horizon=config.horizon, **config.task_args)
    try:
        is_filmed = can_be_drawn(tasks) or not has_paths(tasks)
        if is_filmed:
            check_drawable(tasks)
    except ValueError as error:
        raise ValueError(f"task={config.task!r}: {error}") from error

    def draw(curve: AdaptationCurve, directory: Path) -> list[Path]:
        return [*(draw_films(curve, directory) if is_filmed else []), *draw_paths(curve, directory)]

    return draw


def draw_films(curve: AdaptationCurve, directory: Path) -> list[Path]:
    """Draws a film for each task: its first episode before adaptation and after the last step, side by side."""
    from analysis.plots.film import write_film  # matplotlib, which only drawing should wait for

    steps = sorted({0, len(curve.score) - 1})
    num_tasks = curve.score.shape[1]
    panels = [film(curve, step, num_tasks) for step in steps]
    files = []
    for task, label in enumerate(task_labels(curve)):
        shown = [_panel(step, curve.unit, footage[task]) for step, footage in zip(steps, panels, strict=True)]
        times = max((footage[task].time for footage in panels), key=len)
        seconds = float(times[1] - times[0]) if len(times) > 1 else 1.0
        files.append(directory / f"task_{task}.gif")
        write_film(files[-1], f"{curve.evaluated.tasks(1)} {task}: {label}", shown, seconds)
    return files


def draw_paths(curve: AdaptationCurve, directory: Path) -> list[Path]:
    """Draws the paths to the first few goals, if the tasks have goals on a plane and the curve has `Episodes`."""
    if curve.distribution is None or not isinstance(curve.details, Episodes) or not has_paths(curve.distribution):
        return []
    from analysis.plots import plot_paths  # matplotlib, which only drawing should wait for

    paths = [walked_paths(curve, step, _NUM_PATH_TASKS) for step in range(len(curve.score))]
    plot_paths(curve, paths, directory / "paths.png")
    return [directory / "paths.png"]


def draw_beliefs(curve: AdaptationCurve, directory: Path) -> list[Path]:
    """Draws the recorded trials with the belief after each episode, if the distribution has beliefs (`GoalBeliefs`)."""
    distribution: Any = curve.distribution
    recorded = curve.details
    if not isinstance(distribution, GoalBeliefs) or not isinstance(recorded, RecordedTrials):
        return []
    from analysis.plots import Walk, plot_beliefs  # matplotlib, which only drawing should wait for

    places, trials = walked_trials(curve), recorded.trials
    reward, episode = (field[:, 0].cpu().numpy() for field in (trials.reward.double(), trials.episode))
    belief = distribution.posterior(places[:, :, 1], reward)
    walks = [
        [
            Walk(np.concatenate([places[task, here, 0][:1], places[task, here, 1]]), belief[task, here][-1],
                 float(reward[task, here].sum()))
            for here in (episode[task] == index for index in range(len(curve.score)))
        ]
        for task in range(len(places))
    ]  # fmt: skip
    goals = distribution.goals()
    hidden, prior = np.asarray(curve.tasks.goal)[recorded.tasks], np.full(len(goals), 1 / len(goals))
    title = f"{curve.evaluated.tasks(len(places))}, one trial of each"
    plot_beliefs(goals, prior, hidden, walks, directory / "beliefs.png", title[0].upper() + title[1:])
    return [directory / "beliefs.png"]


def task_labels(curve: AdaptationCurve) -> list[str]:
    """Returns a description of each task: that of `DescribedTasks`, otherwise the fields of the batch."""
    distribution: Any = curve.distribution
    described = isinstance(distribution, DescribedTasks)
    columns: dict[str, Any] = distribution.describe(curve.tasks) if described else curve.tasks._asdict()
    return [", ".join(f"{name.replace('_', ' ')} {_text(values[task])}" for name, values in columns.items())
            for task in range(curve.score.shape[1])]  # fmt: skip


def _panel(step: int, unit: str, footage: Footage) -> Panel:
    from analysis.plots.film import Panel

    title = "before adaptation" if step == 0 else f"after {step} {unit if step > 1 else unit.removesuffix('s')}"
    captions = [f"{time:.2f} s   return {earned:.1f}".replace("-", "\N{MINUS SIGN}")
                for time, earned in zip(footage.time, footage.returns, strict=True)]  # fmt: skip
    return Panel(title, footage.frames, captions)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if np.ndim(value):
        return f"({', '.join(map(_text, value))})"
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}") if isinstance(value, (int, float)) else str(value)
