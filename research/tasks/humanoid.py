"""Humanoid: run in a given direction.

The body, its observation and its start are those of Gymnasium's Humanoid-v5. With v the velocity of the centre of mass
over a step and F the contact forces (`cfrc_ext`), the reward is

    1.25 direction · v + 5 − 0.1 ‖a‖² − min(5e-7 ‖F‖², 10)

An episode ends unless the torso is between 1 and 2 high. (Rothfuss et al. 2019, arXiv:1810.06784.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research.sampling.mujoco import State, action_space, load_robot, observation_space
from research.tasks.base import Split
from research.tasks.locomotion import (
    Directions,
    DirectionTasks,
    Locomotion,
    LocomotionEnvs,
    direction_split,
    flat,
    held_out_directions,
    sample_directions,
)
from research.validation import one_of

_MODEL = "humanoid.xml"
_FRAME_SKIP = 5
_SIZES = {"gymnasium": 348, "positions": 45}
_ROOT = 6  # velocities of the free joint, which no motor drives


@dataclass(frozen=True)
class HumanoidDir(Locomotion):
    """The task distribution.

    Attributes:
        directions: `"plane"`: any direction, as in ProMP. `"line"`: forward or backward.
        observation: `"gymnasium"`: positions without x and y, velocities, inertias and velocities of the bodies about
            the centre of mass, torques and contact forces, 348 numbers. `"positions"`: the first two, 45 numbers.
        horizon: This and the others: see `Locomotion`.
    """

    start_noise: float = 0.01
    directions: Directions = "plane"
    observation: Literal["gymnasium", "positions"] = "gymnasium"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "directions", ("line", "plane"))
        one_of(self, "observation", tuple(_SIZES))

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return observation_space(_SIZES[self.observation])

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """Torques of the seventeen joints, in [-0.4, 0.4]."""
        return action_space(load_robot(_MODEL).model)

    @property
    def split(self) -> Split:
        return direction_split(self.directions)

    def sample(self, num_tasks: int, rng: np.random.Generator) -> DirectionTasks:
        """Directions for training."""
        return sample_directions(self.directions, num_tasks, rng)

    def test_tasks(self, num_tasks: int) -> DirectionTasks:
        """See `held_out_directions`."""
        return held_out_directions(self.directions, num_tasks, "humanoid_dir/test")

    def make_envs(self, tasks: DirectionTasks, episodes: int) -> HumanoidEnvs:
        """See `TaskDistribution.make_envs`."""
        return HumanoidEnvs(self, tasks, episodes)


class HumanoidEnvs(LocomotionEnvs):
    """Humanoids that are to run in directions of their own."""

    def __init__(self, distribution: HumanoidDir, tasks: DirectionTasks, episodes: int):
        robot = load_robot(_MODEL)
        extra = ("cinert", "cvel", "qfrc_actuator") if distribution.observation == "gymnasium" else ()
        super().__init__(
            distribution,
            robot,
            [robot.model],
            len(tasks.direction),
            episodes,
            survive_reward=5.0,
            observation_size=_SIZES[distribution.observation],
            frame_skip=_FRAME_SKIP,
            fields=("qpos", "qvel", "xipos", "cfrc_ext", *extra),
            contact_forces=True,
        )
        self.distribution = distribution
        self._direction = np.repeat(np.asarray(tasks.direction, np.float64), episodes, axis=0)

    def observe(self, rows: NDArray[np.intp], state: State) -> NDArray[np.float64]:
        parts = [state["qpos"][:, 2:], state["qvel"]]
        if self.distribution.observation == "gymnasium":
            # The first body is the world.
            inertia, velocity, force = (flat(state[name][:, 1:]) for name in ("cinert", "cvel", "cfrc_ext"))
            parts += [inertia, velocity, state["qfrc_actuator"][:, _ROOT:], force]
        return np.concatenate(parts, axis=1)

    def progress(self, rows: NDArray[np.intp], before: State, after: State) -> NDArray[np.float64]:
        velocity = (self._centre_of_mass(after) - self._centre_of_mass(before)) / self.dt
        return 1.25 * (self._direction[rows] * velocity).sum(1)

    def costs(self, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        contact = np.minimum(5e-7 * np.square(flat(after["cfrc_ext"])).sum(1), 10.0)
        return 0.1 * np.square(action.astype(np.float64)).sum(1) + contact

    def healthy(self, state: State) -> NDArray[np.bool_]:
        height = state["qpos"][:, 2]
        return (height > 1.0) & (height < 2.0)

    def _centre_of_mass(self, state: State) -> NDArray[np.float64]:
        """Where it is on the ground, `[rows, 2]`."""
        mass = self.robot.model.body_mass
        return (np.einsum("b,rbj->rj", mass, state["xipos"]) / mass.sum())[:, :2]
