"""Hopper: hop forward with a body that differs from task to task.

The body is that of Gymnasium's Hopper-v5 with the factors of `BodyTasks`, and so are observation, start and reward,
v + 1 − 0.001 ‖a‖². An episode ends unless the torso is higher than 0.7 and leans less than 0.2 radians, and the angles
and velocities are below 100.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from research.sampling.mujoco import Robot, State, load_robot
from research.tasks.body_params import BodyEnvs, BodyParams, BodyTasks


@dataclass(frozen=True)
class HopperParams(BodyParams):
    """The task distribution. See `BodyParams` for the settings."""

    @property
    def name(self) -> str:
        return "hopper_params"

    @property
    def robot(self) -> Robot:
        return load_robot("hopper.xml")

    def make_envs(self, tasks: BodyTasks, episodes: int) -> BodyEnvs:
        """See `TaskDistribution.make_envs`."""
        return HopperEnvs(self, tasks, episodes)


class HopperEnvs(BodyEnvs):
    """Hoppers with bodies of their own."""

    def healthy(self, state: State) -> NDArray[np.bool_]:
        height, angle = state["qpos"][:, 1], state["qpos"][:, 2]
        bounded = (np.abs(state["qpos"][:, 2:]) < 100).all(1) & (np.abs(state["qvel"]) < 100).all(1)
        return bounded & (height > 0.7) & (np.abs(angle) < 0.2)
