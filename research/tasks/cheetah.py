"""Half-cheetah: run in a given direction, or at a given velocity.

Body, observation and start are those of Gymnasium's HalfCheetah-v5; episodes end at the horizon only. With the velocity
v = Δx/dt over a step,

    cheetah_dir:  direction · v − control_cost ‖a‖²       direction ∈ {−1, +1}
    cheetah_vel:  −|v − velocity| − control_cost ‖a‖²     velocity ~ U[velocity_low, velocity_high]

(Finn et al. 2017, arXiv:1703.03400, section 5.3.)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research.sampling.mujoco import Columns, State
from research.tasks.base import Split
from research.tasks.locomotion import (
    TWO_DIRECTIONS,
    Locomotion,
    LocomotionEnvs,
    VelocityTarget,
    VelocityTasks,
    alternating,
)
from research.validation import at_least

_SIZES = {"gymnasium": 17, "torso": 20, "com": 20}
_EXTRA = {"gymnasium": (), "torso": ("xpos",), "com": ("subtree_com",)}  # arrays of MjData
_TORSO = 1  # index of its body


class CheetahDirTasks(NamedTuple):
    """Tasks of running in a given direction: `direction [tasks]`, +1 forward and −1 backward."""

    direction: NDArray[np.float64]


@dataclass(frozen=True)
class Cheetah(Locomotion):
    """Settings of both families.

    Attributes:
        observation: `"gymnasium"`: positions without x, and velocities, 17 numbers. `"torso"`: also the position
            (x, y, z) of the torso, which is Gymnasium's `get_body_com`; 20 numbers. `"com"`: also the centre of mass
            of the torso and its limbs, which is rllab's `get_body_com` (Finn et al. 2017); 20 numbers.
        control_cost: Factor of ‖a‖².
    """

    model_file = "half_cheetah.xml"
    horizon: int = 100
    observation: Literal["gymnasium", "torso", "com"] = "gymnasium"
    control_cost: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "control_cost")

    @property
    def observation_size(self) -> int:
        return _SIZES[self.observation]

    def make_envs(self, tasks: Any, episodes: int) -> CheetahEnvs:
        return CheetahEnvs(self, tasks, episodes, fields=("qpos", "qvel", *_EXTRA[self.observation]))

    @abstractmethod
    def progress(self, velocity: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the reward without the control cost, `[rows]`, for running at `velocity [rows]`."""


@dataclass(frozen=True)
class CheetahDir(Cheetah):
    """Running forward or backward. Settings: see `Cheetah`."""

    @property
    def split(self) -> Split:
        return TWO_DIRECTIONS

    def sample(self, num_tasks: int, rng: np.random.Generator) -> CheetahDirTasks:
        return CheetahDirTasks(rng.choice([-1.0, 1.0], num_tasks))

    def test_tasks(self, num_tasks: int) -> CheetahDirTasks:
        return CheetahDirTasks(alternating(num_tasks))

    def validation_tasks(self, num_tasks: int) -> CheetahDirTasks:
        return self.test_tasks(num_tasks)

    @property
    def inference_space(self) -> gymnasium.spaces.Discrete:
        """Backward (0) or forward (1). See `InferredTasks`."""
        return gymnasium.spaces.Discrete(2)

    def inference_targets(self, tasks: CheetahDirTasks) -> NDArray[np.int64]:
        return (tasks.direction > 0).astype(np.int64)

    def describe(self, tasks: CheetahDirTasks) -> dict[str, list[Any]]:
        return {"direction": ["forward" if direction > 0 else "backward" for direction in tasks.direction]}

    def progress(self, velocity: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
        return target * velocity


@dataclass(frozen=True)
class CheetahVel(Cheetah, VelocityTarget):
    """Running forward at a velocity from a range. Settings: see `Cheetah` and `VelocityTarget`."""

    test_stream = "cheetah_vel/test"
    velocity_high: float = 2.0

    def progress(self, velocity: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
        return -np.abs(velocity - target)


class CheetahEnvs(LocomotionEnvs[Cheetah, CheetahDirTasks | VelocityTasks]):
    """Rows of half-cheetahs."""

    normal_velocities = True

    @property
    def observed(self) -> Sequence[Columns]:
        extra = [Columns(name, 3 * _TORSO, 3 * _TORSO + 3) for name in _EXTRA[self.distribution.observation]]
        return [Columns("qpos", start=1), Columns("qvel"), *extra]

    def progress(self, rows: NDArray[np.intp], before: State, after: State) -> NDArray[np.float64]:
        velocity = (after["qpos"][:, 0] - before["qpos"][:, 0]) / self.dt
        return self.distribution.progress(velocity, self.tasks[0][rows])

    def costs(self, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        return self.distribution.control_cost * np.square(action).sum(1)
