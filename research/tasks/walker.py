"""Walker: run forward with a body that differs from task to task.

The body is that of Gymnasium's Walker2d-v5 with the factors of `BodyTasks`. Observation, start and reward are
Gymnasium's too: v + 1 − 0.001 ‖a‖². An episode terminates unless the torso is between 0.8 and 2 m high and leans less
than 1 radian. (rand_param_envs, which randomised this robot first, has an older model and 5 physics steps per action.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from research.sampling.mujoco import State
from research.tasks.body_params import BodyEnvs, BodyParams, BodyTasks


@dataclass(frozen=True)
class WalkerParams(BodyParams):
    """The task distribution. Settings: see `BodyParams`."""

    model_file = "walker2d_v5.xml"
    test_stream = "walker_params/test"

    def make_envs(self, tasks: BodyTasks, episodes: int) -> BodyEnvs:
        return WalkerEnvs(self, tasks, episodes)


class WalkerEnvs(BodyEnvs):
    """Walkers, one body per task."""

    def healthy(self, state: State) -> NDArray[np.bool_]:
        height, angle = state["qpos"][:, 1], state["qpos"][:, 2]
        return (height > 0.8) & (height < 2.0) & (np.abs(angle) < 1.0)
