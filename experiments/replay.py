"""Replays of the episodes of an adaptation curve: their paths and their pictures.

An episode is a function of the seed of its environments and of its actions, and a curve has both (`Episodes`), so an
evaluation need not record paths or pictures. A replay compares every observation with the recorded one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.evaluation import AdaptationCurve, Episodes, RecordedTrials
from research.tasks import TASKS, TaskDistribution
from research.tasks.base import DrawableEnvs, GoalTasks, PositionedEnvs, RenderableTasks

if TYPE_CHECKING:  # torch, which printing help should not wait for
    from research.types import Trajectories

MIN_FRAME_SECONDS = 0.04
"""Shortest time between two frames: 25 frames per second."""

MAX_FRAMES = 150
"""Largest number of frames of an episode that lasts until the horizon."""


class Footage(NamedTuple):
    """An episode in pictures.

    Attributes:
        frames: `[frames, height, width, 3]`, from the start to the end of the episode.
        time: `[frames]`, seconds since the start.
        returns: `[frames]`, the undiscounted return from the start to each frame.
    """

    frames: NDArray[np.uint8]
    time: NDArray[np.float64]
    returns: NDArray[np.float64]


def has_paths(distribution: TaskDistribution) -> bool:
    """Returns whether the tasks have goals on a plane (`GoalTasks`), and the environments positions there."""
    tasks = distribution.test_tasks(1)
    if not isinstance(tasks, GoalTasks) or np.shape(tasks.goal) != (1, 2):
        return False
    envs = distribution.make_envs(tasks, 1)
    envs.close()
    return isinstance(envs, PositionedEnvs)


def check_drawable(distribution: TaskDistribution) -> None:
    """Draws one picture, so that a failure shows before the evaluation.

    Raises:
        ValueError: The environments cannot be drawn, or not on this machine; the message has the reason.
    """
    made = envs = _make_drawn(distribution, distribution.test_tasks(1), 1)
    try:
        if not isinstance(envs, DrawableEnvs):
            able = [name for name, kind in TASKS.items() if can_be_drawn(kind())]
            raise ValueError(f"{type(distribution).__name__}: its environments cannot be drawn, they have no "
                             f"`draw(row)` and `dt`; of the tasks here {', '.join(able)} can")  # fmt: skip
        made.reset(seed=0)
        picture = envs.draw(0)
        if np.ndim(picture) != 3 or np.shape(picture)[2] != 3 or np.asarray(picture).dtype != np.uint8:
            raise ValueError(f"{type(distribution).__name__}: its environments draw {type(picture).__name__} of shape "
                             f"{np.shape(picture)}; need an array [height, width, 3] of uint8")  # fmt: skip
    finally:
        made.close()


def can_be_drawn(distribution: TaskDistribution) -> bool:
    """Returns whether the environments can be drawn on a machine where all packages for it are installed."""
    if isinstance(distribution, RenderableTasks):
        return True
    envs = distribution.make_envs(distribution.test_tasks(1), 1)
    envs.close()
    return isinstance(envs, DrawableEnvs)


def walked_paths(curve: AdaptationCurve, step: int, num_tasks: int) -> NDArray[np.float64]:
    """Returns the positions before each step of an episode and after the last, `[tasks, episodes, time + 1, 2]`.

    After the end of an episode its last position is repeated.

    Args:
        curve: An evaluation on tasks with `has_paths`, with `Episodes`.
        step: Number of adaptation steps before the episodes.
        num_tasks: Number of tasks, from the first; all if the evaluation has fewer.

    Raises:
        ValueError: The curve has no distribution or no `Episodes`.
        RuntimeError: A replay differs from the episode.
    """
    places: list[NDArray[np.float64]] = []
    for envs, active in _replay(curve, step, num_tasks):
        now = envs.positions()
        places.append(np.where(active[:, None], now, places[-1]) if places else now)
    episodes = _recorded(curve)[1].trajectories[step].reward.shape[1]
    return np.stack(places, 1).reshape(-1, episodes, len(places), 2)


def walked_trials(curve: AdaptationCurve) -> NDArray[np.float64]:
    """Returns the positions before and after each step of the recorded trials, `[tasks, time, 2, 2]`.

    Args:
        curve: An evaluation with `RecordedTrials`, on tasks with `has_paths` whose environments draw no random numbers.

    Raises:
        ValueError: The curve has no distribution or no `RecordedTrials`.
        RuntimeError: A replay differs from the trial.
    """
    recorded = curve.details
    if curve.distribution is None or not isinstance(recorded, RecordedTrials):
        raise ValueError("curve: need a distribution, and RecordedTrials as details, to replay trials")
    from research.types import Trials

    trials = Trials(*(field[:, 0].cpu() for field in recorded.trials))
    envs: Any = curve.distribution.make_envs(type(curve.tasks)(*(field[recorded.tasks] for field in curve.tasks)), 1)
    observation, _ = envs.reset(seed=recorded.reset_seed, options={"rows": recorded.rows})
    places: list[NDArray[np.float64]] = []
    for t in range(trials.reward.shape[1]):
        seen = trials.observation[:, t].numpy()
        same = (np.asarray(observation).astype(seen.dtype).reshape(seen.shape) == seen).all(-1)
        if not (same | ~trials.valid[:, t].numpy()).all():
            raise RuntimeError(f"step {t}: a replay is not where the trial was; need environments without random "
                               "numbers, whose rows are functions of their actions")  # fmt: skip
        before = envs.positions()
        observation, *_ = envs.step(trials.action[:, t].numpy())
        places.append(np.stack([before, envs.positions()], 1))
        ended = trials.ended[:, t].numpy()
        if ended.any():
            observation, _ = envs.reset(options={"reset_mask": ended})
    envs.close()
    return np.stack(places, 1)


def film(curve: AdaptationCurve, step: int, num_tasks: int) -> list[Footage]:
    """Returns pictures of the first episode of each of the first tasks.

    Args:
        curve: An evaluation on tasks whose environments can be drawn (`check_drawable`), with `Episodes`.
        step: Number of adaptation steps before the episodes.
        num_tasks: Number of tasks, from the first; all if the evaluation has fewer.

    Raises:
        ValueError: The curve has no distribution or no `Episodes`.
        RuntimeError: A replay differs from the episode.
    """
    distribution, recorded = _recorded(curve)
    trajectories = recorded.trajectories[step]
    reward = trajectories.reward[:num_tasks, 0].double().cpu().numpy()
    lengths = trajectories.valid[:num_tasks, 0].sum(-1).tolist()
    episodes = trajectories.reward.shape[1]
    frames: list[list[tuple[NDArray[np.uint8], float, float]]] = [[] for _ in lengths]
    for t, (envs, _) in enumerate(_replay(curve, step, num_tasks, is_drawn=True)):
        every = _stride(envs.dt, distribution.horizon)
        for task, length in enumerate(lengths):
            if t == length or (t < length and t % every == 0):
                frames[task].append((envs.draw(task * episodes), t * envs.dt, float(reward[task, :t].sum())))
    return [Footage(*(np.array(part) for part in zip(*shown, strict=True))) for shown in frames]


def _replay(
    curve: AdaptationCurve, step: int, num_tasks: int, is_drawn: bool = False
) -> Iterator[tuple[Any, NDArray[np.bool_]]]:
    """Yields the environments at the start and after each step, and whether each row has just moved, `[rows]`."""
    distribution, recorded = _recorded(curve)
    from research.per_task import take
    from research.types import Trajectories

    trajectories = Trajectories(*(field.cpu() for field in take(recorded.trajectories[step], slice(num_tasks))))
    tasks, episodes = take(curve.tasks, slice(num_tasks)), trajectories.reward.shape[1]
    envs = _make_drawn(distribution, tasks, episodes) if is_drawn else distribution.make_envs(tasks, episodes)
    try:
        observation, _ = envs.reset(seed=recorded.reset_seeds[step])
        _check_same(observation, trajectories, 0)
        yield envs, np.ones(envs.num_envs, bool)
        for t in range(trajectories.reward.shape[2]):
            observation, *_ = envs.step(trajectories.action[:, :, t].flatten(0, 1).numpy())
            _check_same(observation, trajectories, t + 1)
            yield envs, trajectories.valid[:, :, t].flatten().numpy()
    finally:
        envs.close()


def _check_same(observation: NDArray[Any], trajectories: Trajectories, t: int) -> None:
    """Raises RuntimeError if a row that has moved does not have the observation that was recorded after `t` steps."""
    time = trajectories.valid.shape[2]
    at_end = trajectories.last_observation
    recorded = at_end if t == time else trajectories.observation[:, :, t]
    if t < time:
        goes_on = trajectories.valid[:, :, t]
        recorded = recorded.where(goes_on[..., None], at_end)
    seen = np.asarray(observation).astype(recorded.numpy().dtype).reshape(recorded.shape)
    moved = trajectories.valid[:, :, t - 1] if t else trajectories.valid[:, :, 0]
    same = (seen == recorded.numpy()).all(-1) | ~moved.numpy()
    if not same.all():
        task, episode = np.argwhere(~same)[0]
        raise RuntimeError(
            f"task {task}, episode {episode}: after {t} steps a replay is not where the episode was; need environments "
            "whose every row is a function of the seed, its number and its actions"
        )


def _recorded(curve: AdaptationCurve) -> tuple[TaskDistribution, Episodes]:
    if curve.distribution is None or not isinstance(curve.details, Episodes):
        raise ValueError("curve: need a distribution, and Episodes as details, to replay episodes")
    return curve.distribution, curve.details


def _make_drawn(distribution: TaskDistribution, tasks: Any, episodes: int) -> Any:
    """Makes environments whose rows have pictures, where the distribution distinguishes them from others."""
    if isinstance(distribution, RenderableTasks):
        return distribution.make_drawn_envs(tasks, episodes)
    return distribution.make_envs(tasks, episodes)


def _stride(seconds: float, horizon: int) -> int:
    """Returns the number of steps between two frames."""
    return max(1, math.ceil(MIN_FRAME_SECONDS / seconds - 1e-9), math.ceil(horizon / MAX_FRAMES))
