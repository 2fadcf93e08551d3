"""Humanoid: run in a given direction.

Body, observation and start are those of Gymnasium's Humanoid-v5. With the velocity v of the centre of mass over a step
and the contact forces F (`cfrc_ext`), the reward is

    1.25 direction · v + 5 − 0.1 ‖a‖² − min(5e-7 ‖F‖², 10)

An episode terminates unless the torso is between 1 and 2 m high. (Rothfuss et al. 2019, arXiv:1810.06784.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from research.sampling.mujoco import Columns, State
from research.tasks.locomotion import DirectionTarget, DirectionTasks, UprightEnvs, UprightLocomotion, flat

_SIZES = {"gymnasium": 348, "positions": 45}
_ROOT = 6  # number of velocities of the free joint, which no motor drives


@dataclass(frozen=True)
class HumanoidDir(UprightLocomotion, DirectionTarget):
    """The task distribution.

    Attributes:
        observation: `"gymnasium"`: positions without x and y, velocities, inertias and velocities of the bodies about
            the centre of mass, torques and contact forces, 348 numbers. `"positions"`: positions without x and y, and
            velocities, 45 numbers.
        directions: See `DirectionTarget`. ProMP has `"plane"`.
    """

    model_file = "humanoid.xml"
    test_stream = "humanoid_dir/test"
    start_noise: float = 0.01
    directions: Literal["line", "plane"] = "plane"
    observation: Literal["gymnasium", "positions"] = "gymnasium"

    @property
    def observation_size(self) -> int:
        return _SIZES[self.observation]

    def make_envs(self, tasks: DirectionTasks, episodes: int) -> HumanoidEnvs:
        extra = ("cinert", "cvel", "qfrc_actuator") if self.observation == "gymnasium" else ()
        return HumanoidEnvs(self, tasks, episodes, fields=("qpos", "qvel", "xipos", "cfrc_ext", *extra))


class HumanoidEnvs(UprightEnvs[HumanoidDir, DirectionTasks]):
    """Rows of humanoids."""

    contact_forces = True
    survive_reward = 5.0

    @property
    def observed(self) -> Sequence[Columns]:
        parts = [Columns("qpos", start=2), Columns("qvel")]
        if self.distribution.observation == "gymnasium":
            # The first body is the world.
            parts += [Columns("cinert", start=10), Columns("cvel", start=6)]
            parts += [Columns("qfrc_actuator", start=_ROOT), Columns("cfrc_ext", start=6)]
        return parts

    def progress(self, rows: NDArray[np.intp], before: State, after: State) -> NDArray[np.float64]:
        velocity = (self._centre_of_mass(after) - self._centre_of_mass(before)) / self.dt
        return 1.25 * (self.tasks.direction[rows] * velocity).sum(1)

    def costs(self, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        contact = np.minimum(5e-7 * np.square(flat(after["cfrc_ext"])).sum(1), 10.0)
        return 0.1 * np.square(action.astype(np.float64)).sum(1) + contact

    def healthy(self, state: State) -> NDArray[np.bool_]:
        height = state["qpos"][:, 2]
        return (height > 1.0) & (height < 2.0)

    def _centre_of_mass(self, state: State) -> NDArray[np.float64]:
        """(x, y) of the centre of mass, `[rows, 2]`."""
        mass = self.robot.model.body_mass
        return (np.einsum("b,rbj->rj", mass, state["xipos"]) / mass.sum())[:, :2]
