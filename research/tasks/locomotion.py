"""Base of families with a robot that runs: starts, rewards, terminations, and targets that families share.

The reward of a step is progress − costs, and for robots that can fall (progress + bonus) − costs with
bonus = survive_reward while the robot is healthy, else 0. The order of operations is Gymnasium's: a task that asks for
Gymnasium's progress has Gymnasium's reward bit for bit.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research.sampling.mujoco import State
from research.tasks.base import ContinuousTasks, Split
from research.tasks.robots import RobotEnvs, RobotTasks, T
from research.validation import at_least

TWO_DIRECTIONS = Split(False, "there are only two directions, so evaluation has those of training", False, 2)
"""Split of families whose tasks are forward and backward."""


@dataclass(frozen=True)
class Locomotion(RobotTasks):
    """Settings of all robots that run.

    Attributes:
        start_noise: Scale of the random starts: positions are uniform in ±start_noise around the rest position;
            velocities are uniform in ±start_noise, or (ant, cheetah) normal with this standard deviation.
    """

    start_noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "start_noise")


@dataclass(frozen=True)
class UprightLocomotion(Locomotion):
    """Settings of robots that can fall.

    Attributes:
        terminate: Whether an episode terminates when the robot is not healthy. Without a healthy robot a step has no
            bonus in either case.
    """

    terminate: bool = True


D = TypeVar("D", bound=Locomotion)
U = TypeVar("U", bound=UprightLocomotion)


class LocomotionEnvs(RobotEnvs[D, T]):
    """Robots that run. A family adds observations, progress and costs.

    Attributes:
        normal_velocities: Whether start velocities are normal instead of uniform.
    """

    normal_velocities: ClassVar[bool] = False

    @abstractmethod
    def progress(self, rows: NDArray[np.intp], before: State, after: State) -> NDArray[np.float64]:
        """Returns the part of the reward that depends on the task, `[rows]`."""

    @abstractmethod
    def costs(self, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        """Returns the costs of the step, `[rows]`."""

    def start(self, row: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        noise, model = self.distribution.start_noise, self.robot.model
        qpos = model.qpos0 + rng.uniform(-noise, noise, model.nq)
        if self.normal_velocities:
            return qpos, noise * rng.standard_normal(model.nv)
        return qpos, rng.uniform(-noise, noise, model.nv)

    def reward(self, rows: NDArray[np.intp], before: State, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        return self.progress(rows, before, after) - self.costs(after, action)


class UprightEnvs(LocomotionEnvs[U, T]):
    """Robots that can fall. A family adds when they are healthy, and the bonus."""

    @property
    @abstractmethod
    def survive_reward(self) -> float:
        """Bonus of a step after which the robot is healthy."""

    @abstractmethod
    def healthy(self, state: State) -> NDArray[np.bool_]:
        """Returns whether the robots are upright, `[rows]`."""

    def reward(self, rows: NDArray[np.intp], before: State, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        bonus = self.healthy(after) * self.survive_reward
        return self.progress(rows, before, after) + bonus - self.costs(after, action)

    @property
    def can_terminate(self) -> bool:
        return self.distribution.terminate

    def has_ended(self, rows: NDArray[np.intp], state: State) -> NDArray[np.bool_]:
        return ~self.healthy(state) & self.distribution.terminate


def flat(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns `[rows, ...]` as `[rows, numbers]`, also for 0 rows."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


class VelocityTasks(NamedTuple):
    """Tasks of running at a given velocity: `velocity [tasks]`, along x, in metres per second."""

    velocity: NDArray[np.float64]


@dataclass(frozen=True)
class VelocityTarget(Locomotion, ContinuousTasks):
    """Distribution over velocities, uniform in a range. A base class to name after the settings of a robot.

    Attributes:
        velocity_low: Lower end of the range, in metres per second.
        velocity_high: Upper end of the range, in metres per second.
    """

    velocity_low: float = 0.0
    velocity_high: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        low_below_high(self, "velocity")

    def sample(self, num_tasks: int, rng: np.random.Generator) -> VelocityTasks:
        return VelocityTasks(rng.uniform(self.velocity_low, self.velocity_high, num_tasks))

    @property
    def inference_space(self) -> gymnasium.spaces.Box:
        """The space of velocities. See `InferredTasks`."""
        return gymnasium.spaces.Box(self.velocity_low, self.velocity_high, (1,), np.float64)

    def inference_targets(self, tasks: VelocityTasks) -> NDArray[np.float64]:
        return np.array(tasks.velocity, np.float64)[:, None]

    def describe(self, tasks: VelocityTasks) -> dict[str, list[Any]]:
        return {"velocity": [f"{velocity:.2f} m/s" for velocity in tasks.velocity]}


class DirectionTasks(NamedTuple):
    """Tasks of running in a given direction: `direction [tasks, 2]`, unit vectors on the ground."""

    direction: NDArray[np.float64]


@dataclass(frozen=True)
class DirectionTarget(Locomotion, ContinuousTasks):
    """Distribution over directions on the ground. A base class to name after the settings of a robot.

    Attributes:
        directions: `"line"`: forward and backward along x, each with probability ½; the evaluation tasks alternate
            between them. `"plane"`: uniform over all directions.
    """

    directions: Literal["line", "plane"] = "line"

    @property
    def split(self) -> Split:
        return TWO_DIRECTIONS if self.directions == "line" else super().split

    def sample(self, num_tasks: int, rng: np.random.Generator) -> DirectionTasks:
        if self.directions == "line":
            return _along_x(rng.choice([-1.0, 1.0], num_tasks))
        angle = rng.uniform(0, 2 * math.pi, num_tasks)
        return DirectionTasks(np.stack([np.cos(angle), np.sin(angle)], 1))

    def test_tasks(self, num_tasks: int) -> DirectionTasks:
        return _along_x(alternating(num_tasks)) if self.directions == "line" else super().test_tasks(num_tasks)

    def validation_tasks(self, num_tasks: int) -> DirectionTasks:
        return self.test_tasks(num_tasks) if self.directions == "line" else super().validation_tasks(num_tasks)

    @property
    def inference_space(self) -> gymnasium.spaces.Box | gymnasium.spaces.Discrete:
        """The direction: backward (0) or forward (1), or a unit vector on the plane. See `InferredTasks`.

        Two directions are kinds: a density of numbers that are always −1, 0 or 1 has no upper limit.
        """
        if self.directions == "line":
            return gymnasium.spaces.Discrete(2)
        return gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float64)

    def inference_targets(self, tasks: DirectionTasks) -> NDArray[Any]:
        if self.directions == "line":
            return (tasks.direction[:, 0] > 0).astype(np.int64)
        return np.array(tasks.direction, np.float64)


def alternating(num_tasks: int) -> NDArray[np.float64]:
    """Returns +1, −1, +1, …, `[tasks]`: the evaluation tasks of families with two directions."""
    return np.where(np.arange(num_tasks) % 2 == 0, 1.0, -1.0)


def _along_x(sign: NDArray[np.float64]) -> DirectionTasks:
    return DirectionTasks(np.stack([sign, np.zeros(len(sign))], 1))


def low_below_high(settings: Any, name: str) -> None:
    """The setting `<name>_low` must be below `<name>_high`, and both must be finite. Raises ValueError."""
    low, high = getattr(settings, f"{name}_low"), getattr(settings, f"{name}_high")
    for key, value in ((f"{name}_low", low), (f"{name}_high", high)):
        if not math.isfinite(value):
            raise ValueError(f"{key}={value}: need a finite number")
    if not low < high:
        hint = "exchange them" if low > high else "a single value leaves nothing to adapt to"
        raise ValueError(f"{name}_low={low}: need less than {name}_high={high}; {hint}")
