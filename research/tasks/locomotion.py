"""What the robots that run have in common: settings, starts, the shape of the reward, ends, directions.

With bonus = survive_reward while the robot is healthy and 0 otherwise, the reward of a step is

    (progress + bonus) − costs

in Gymnasium's order of operations, so that a task that asks what Gymnasium asks gives Gymnasium's reward bit for bit.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from research import rng as random
from research.sampling.mujoco import MujocoEnvs, Robot, State
from research.tasks.base import Split
from research.validation import at_least, one_of, positive


@dataclass(frozen=True)
class Locomotion:
    """Settings of every robot that runs.

    Attributes:
        horizon: Steps of an episode.
        start_noise: Spread of the starts: positions uniform within it; velocities too, or (Ant) normal with this
            deviation.
        terminate: Whether an episode ends when the robot is no longer healthy. It gets no bonus then in any case.
        clip_actions: Whether control costs see actions clipped to the range of the motors, or as they are. The motors
            clip in any case.
    """

    horizon: int = 200
    start_noise: float = 0.1
    terminate: bool = True
    clip_actions: bool = False

    def __post_init__(self) -> None:
        positive(self, "horizon")
        at_least(self, 0, "start_noise")
        one_of(self, "terminate", (False, True))
        one_of(self, "clip_actions", (False, True))


class LocomotionEnvs(MujocoEnvs):
    """Robots that run. A family adds what they observe, how far they came, what it costs, and when they are healthy.

    Args:
        settings: See `Locomotion`.
        robot: What is simulated.
        models: The model of each task, or a single one for all.
        num_tasks: Tasks.
        episodes: Rows of each task.
        survive_reward: Bonus of a step after which the robot is healthy.
        normal_velocities: Whether velocities start normal instead of uniform.
        mujoco_settings: See `MujocoEnvs`.
    """

    def __init__(
        self,
        settings: Locomotion,
        robot: Robot,
        models: Sequence[mujoco.MjModel],
        num_tasks: int,
        episodes: int,
        *,
        survive_reward: float,
        normal_velocities: bool = False,
        **mujoco_settings: Any,
    ):
        positive(dict(episodes=episodes), "episodes")
        super().__init__(
            robot,
            models if len(models) == 1 else [model for model in models for _ in range(episodes)],
            num_tasks * episodes,
            horizon=settings.horizon,
            clip_actions=settings.clip_actions,
            **mujoco_settings,
        )
        self._noise = settings.start_noise
        self._terminate = settings.terminate
        self._survive_reward = survive_reward
        self._normal_velocities = normal_velocities

    @abstractmethod
    def progress(self, rows: NDArray[np.intp], before: State, after: State) -> NDArray[np.float64]:
        """What the task asks for, `[rows]`."""

    @abstractmethod
    def costs(self, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        """What the step cost, `[rows]`."""

    @abstractmethod
    def healthy(self, state: State) -> NDArray[np.bool_]:
        """Whether the robots are upright, `[rows]`."""

    def start(self, row: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        noise, model = self._noise, self.robot.model
        qpos = model.qpos0 + rng.uniform(-noise, noise, model.nq)
        if self._normal_velocities:
            return qpos, noise * rng.standard_normal(model.nv)
        return qpos, rng.uniform(-noise, noise, model.nv)

    def reward(self, rows: NDArray[np.intp], before: State, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        bonus = self.healthy(after) * self._survive_reward
        return self.progress(rows, before, after) + bonus - self.costs(after, action)

    def has_ended(self, rows: NDArray[np.intp], state: State) -> NDArray[np.bool_]:
        return ~self.healthy(state) & self._terminate


def flat(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A vector for each row, `[rows, numbers]`, also when there are no rows."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


class DirectionTasks(NamedTuple):
    """Tasks of running in a direction: `direction [tasks, 2]`, vectors of length 1 on the ground."""

    direction: NDArray[np.float64]


Directions = Literal["line", "plane"]
"""`"line"`: forward and backward along x, each with probability ½. `"plane"`: every direction on the ground."""


def sample_directions(kind: Directions, num_tasks: int, rng: np.random.Generator) -> DirectionTasks:
    """Directions for training."""
    if kind == "line":
        return _along_x(rng.choice([-1.0, 1.0], num_tasks))
    angle = rng.uniform(0, 2 * math.pi, num_tasks)
    return DirectionTasks(np.stack([np.cos(angle), np.sin(angle)], 1))


def held_out_directions(kind: Directions, num_tasks: int, stream: str) -> DirectionTasks:
    """Forward and backward in turn, or the first `num_tasks` of a fixed sequence of directions."""
    if kind == "line":
        return _along_x(np.where(np.arange(num_tasks) % 2 == 0, 1.0, -1.0))
    return sample_directions(kind, num_tasks, random.generator(0, stream))


def direction_split(kind: Directions) -> Split:
    """How the directions of training and evaluation relate."""
    if kind == "line":
        return Split(False, "there are only two directions, so evaluation asks for those of training")
    return Split(True, "directions of one fixed sequence that training never draws from")


def _along_x(sign: NDArray[np.float64]) -> DirectionTasks:
    return DirectionTasks(np.stack([sign, np.zeros(len(sign))], 1))


def low_below_high(settings: Any, name: str) -> None:
    """The setting `<name>_low` must be below `<name>_high`, and both finite. Raises ValueError."""
    low, high = getattr(settings, f"{name}_low"), getattr(settings, f"{name}_high")
    for key, value in ((f"{name}_low", low), (f"{name}_high", high)):
        if not math.isfinite(value):
            raise ValueError(f"{key}={value}: need a finite number")
    if not low < high:
        hint = "exchange them" if low > high else "a single value leaves nothing to adapt to"
        raise ValueError(f"{name}_low={low}: need less than {name}_high={high}; {hint}")
