"""Half-cheetah: run in a given direction, or at a given speed.

The body, its observation and its start are those of Gymnasium's HalfCheetah-v5; episodes end at the horizon only. With
v = Δx/dt the velocity over a step,

    cheetah_dir:  direction · v − control_cost ‖a‖²       direction ∈ {−1, +1}
    cheetah_vel:  −|v − velocity| − control_cost ‖a‖²     velocity ~ U[velocity_low, velocity_high]

(Finn et al. 2017, arXiv:1703.03400, section 5.3.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research import rng as random
from research.sampling.mujoco import MujocoEnvs, State, action_space, load_robot, observation_space
from research.tasks.base import Split
from research.validation import at_least, one_of, positive

_MODEL = "half_cheetah.xml"
_FRAME_SKIP = 5
_SIZES = {"gymnasium": 17, "torso": 20, "com": 20}
_EXTRA = {"torso": "xpos", "com": "subtree_com"}  # arrays of MjData
_TORSO = 1  # its body


class CheetahDirTasks(NamedTuple):
    """Tasks of running in a direction: `direction [tasks]`, +1 forward and −1 backward."""

    direction: NDArray[np.float64]


class CheetahVelTasks(NamedTuple):
    """Tasks of running at a speed: `velocity [tasks]`, forward, in metres per second."""

    velocity: NDArray[np.float64]


@dataclass(frozen=True)
class _Cheetah(ABC):
    """What both families share. See `CheetahDir` for the settings."""

    horizon: int = 100
    observation: Literal["gymnasium", "torso", "com"] = "gymnasium"
    control_cost: float = 0.05
    start_noise: float = 0.1
    clip_actions: bool = False

    def __post_init__(self) -> None:
        positive(self, "horizon")
        at_least(self, 0, "control_cost", "start_noise")
        one_of(self, "observation", tuple(_SIZES))
        one_of(self, "clip_actions", (False, True))

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return observation_space(_SIZES[self.observation])

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """Torques of the six joints, in [-1, 1]."""
        return action_space(load_robot(_MODEL).model)

    @abstractmethod
    def progress(self, velocity: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
        """The reward, without the control cost, for running at `velocity [rows]`."""


@dataclass(frozen=True)
class CheetahDir(_Cheetah):
    """Running forward or backward.

    Attributes:
        horizon: Steps of an episode.
        observation: `"gymnasium"`: positions without x, and velocities, 17 numbers. `"torso"`: then the position
            (x, y, z) of the torso, which is what `get_body_com` gives in Gymnasium; 20 numbers. `"com"`: then the
            centre of mass of the torso and its limbs, which is what it gives in rllab (Finn et al. 2017); 20 numbers.
        control_cost: Factor of ‖a‖².
        start_noise: Spread of the starts: positions uniform within it, velocities normal with this deviation.
        clip_actions: Whether ‖a‖² is that of the action clipped to [-1, 1], as rllab's NormalizedEnv has it, or of the
            action as it is, as in Gymnasium. The motors clip in any case.
    """

    @property
    def split(self) -> Split:
        return Split(False, "there are only two directions, so evaluation asks for those of training")

    def sample(self, num_tasks: int, rng: np.random.Generator) -> CheetahDirTasks:
        """Directions for training, each with probability ½."""
        return CheetahDirTasks(rng.choice([-1.0, 1.0], num_tasks))

    def test_tasks(self, num_tasks: int) -> CheetahDirTasks:
        """Forward and backward in turn."""
        return CheetahDirTasks(np.where(np.arange(num_tasks) % 2 == 0, 1.0, -1.0))

    def describe(self, tasks: CheetahDirTasks) -> dict[str, list[Any]]:
        """What to write beside each task in a picture."""
        return {"direction": ["forward" if direction > 0 else "backward" for direction in tasks.direction]}

    def make_envs(self, tasks: CheetahDirTasks, episodes: int) -> CheetahEnvs:
        """See `TaskDistribution.make_envs`."""
        return CheetahEnvs(self, tasks.direction, episodes)

    def progress(self, velocity: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
        """direction · v."""
        return target * velocity


@dataclass(frozen=True)
class CheetahVel(_Cheetah):
    """Running forward at a speed from a range.

    Attributes:
        velocity_low: The lowest speed, in metres per second.
        velocity_high: The highest.
        horizon: This and the others: see `CheetahDir`.
    """

    velocity_low: float = 0.0
    velocity_high: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.velocity_low < self.velocity_high:
            raise ValueError(
                f"velocity_low={self.velocity_low}: need less than velocity_high={self.velocity_high}; exchange them?"
            )

    @property
    def split(self) -> Split:
        return Split(True, "velocities of one fixed sequence that training never draws from")

    def sample(self, num_tasks: int, rng: np.random.Generator) -> CheetahVelTasks:
        """Velocities for training."""
        return CheetahVelTasks(rng.uniform(self.velocity_low, self.velocity_high, num_tasks))

    def test_tasks(self, num_tasks: int) -> CheetahVelTasks:
        """The first `num_tasks` velocities of a fixed sequence of its own."""
        return self.sample(num_tasks, random.generator(0, "cheetah_vel/test"))

    def describe(self, tasks: CheetahVelTasks) -> dict[str, list[Any]]:
        """What to write beside each task in a picture."""
        return {"velocity": [f"{velocity:.2f} m/s" for velocity in tasks.velocity]}

    def make_envs(self, tasks: CheetahVelTasks, episodes: int) -> CheetahEnvs:
        """See `TaskDistribution.make_envs`."""
        return CheetahEnvs(self, tasks.velocity, episodes)

    def progress(self, velocity: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
        """−|v − velocity|."""
        return -np.abs(velocity - target)


class CheetahEnvs(MujocoEnvs):
    """Half-cheetahs; `target [tasks]` is what each task asks of the velocity."""

    def __init__(self, distribution: _Cheetah, target: NDArray[np.float64], episodes: int):
        positive(dict(episodes=episodes), "episodes")
        robot = load_robot(_MODEL)
        super().__init__(
            robot,
            [robot.model],
            len(target) * episodes,
            horizon=distribution.horizon,
            observation_size=_SIZES[distribution.observation],
            frame_skip=_FRAME_SKIP,
            fields=("qpos", "qvel", *filter(None, [_EXTRA.get(distribution.observation)])),
            clip_actions=distribution.clip_actions,
        )
        self.distribution = distribution
        self._target = np.repeat(np.asarray(target, np.float64), episodes)

    def start(self, row: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        noise, model = self.distribution.start_noise, self.robot.model
        qpos = model.qpos0 + rng.uniform(-noise, noise, model.nq)
        return qpos, noise * rng.standard_normal(model.nv)

    def observe(self, rows: NDArray[np.intp], state: State) -> NDArray[np.float64]:
        parts = [state["qpos"][:, 1:], state["qvel"]]
        if self.distribution.observation in _EXTRA:
            parts.append(state[_EXTRA[self.distribution.observation]][:, _TORSO])
        return np.concatenate(parts, axis=1)

    def reward(self, rows: NDArray[np.intp], before: State, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        velocity = (after["qpos"][:, 0] - before["qpos"][:, 0]) / self.dt
        cost = self.distribution.control_cost * np.square(action).sum(1)
        return self.distribution.progress(velocity, self._target[rows]) - cost
