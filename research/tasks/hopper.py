"""Hopper: hop forward with a body that differs from task to task.

The body is that of Gymnasium's Hopper-v5 with the factors of `BodyTasks`. Observation, start and reward are
Gymnasium's too: v + 1 − 0.001 ‖a‖². An episode terminates unless the torso is higher than 0.7 m and leans less than 0.2
radians, and angles and velocities are below 100.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from research.sampling.mujoco import State
from research.tasks.body_params import BodyEnvs, BodyParams, BodyTasks


@dataclass(frozen=True)
class HopperParams(BodyParams):
    """The task distribution. Settings: see `BodyParams`."""

    model_file = "hopper.xml"
    test_stream = "hopper_params/test"

    def make_envs(self, tasks: BodyTasks, episodes: int) -> BodyEnvs:
        return HopperEnvs(self, tasks, episodes)


class HopperEnvs(BodyEnvs):
    """Hoppers, one body per task."""

    def healthy(self, state: State) -> NDArray[np.bool_]:
        height, angle = state["qpos"][:, 1], state["qpos"][:, 2]
        bounded = (np.abs(state["qpos"][:, 2:]) < 100).all(1) & (np.abs(state["qvel"]) < 100).all(1)
        return bounded & (height > 0.7) & (np.abs(angle) < 0.2)
