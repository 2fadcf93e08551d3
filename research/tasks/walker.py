"""Walker: run forward with a body that differs from task to task.

The body is that of Gymnasium's Walker2d-v5 with the factors of `BodyTasks`, and so are observation, start and reward,
v + 1 − 0.001 ‖a‖². An episode ends unless the torso is between 0.8 and 2 high and leans less than 1 radian. (Model and
frame skip are those of Gymnasium; the first code to randomise it used an older model and 5 physics steps per action.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from research.sampling.mujoco import Robot, State, load_robot
from research.tasks.body_params import BodyEnvs, BodyParams, BodyTasks


@dataclass(frozen=True)
class WalkerParams(BodyParams):
    """The task distribution. See `BodyParams` for the settings."""

    @property
    def name(self) -> str:
        return "walker_params"

    @property
    def robot(self) -> Robot:
        return load_robot("walker2d_v5.xml")

    def make_envs(self, tasks: BodyTasks, episodes: int) -> BodyEnvs:
        """See `TaskDistribution.make_envs`."""
        return WalkerEnvs(self, tasks, episodes)


class WalkerEnvs(BodyEnvs):
    """Walkers with bodies of their own."""

    def healthy(self, state: State) -> NDArray[np.bool_]:
        height, angle = state["qpos"][:, 1], state["qpos"][:, 2]
        return (height > 0.8) & (height < 2.0) & (np.abs(angle) < 1.0)
