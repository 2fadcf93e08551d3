"""Hopper and walker: run forward with a body whose masses, inertias, friction and damping differ from task to task.

Observation, start and reward are those of Gymnasium's robots: v + 1 − 0.001 ‖a‖², and an episode terminates when the
robot is not healthy. (rand_param_envs, which randomised the walker first, has an older model and 5 physics steps per
action.)

Each number of `body_mass`, `body_inertia`, `geom_friction` and `dof_damping` has its own factor, log-uniform in a
range; 1.5^U(−3, 3) is log-uniform in [1.5⁻³, 1.5³]. Each task has its own model. Quantities that MuJoCo derives (the
inertia at rest, which scales contacts and the solver) are computed again, as they would be for an edited XML file.
(Rothfuss et al. 2019, arXiv:1810.06784, appendix; Zintgraf et al. 2020, arXiv:1910.08348.)
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from research.sampling.mujoco import Columns, State
from research.tasks.base import ContinuousTasks
from research.tasks.locomotion import UprightEnvs, UprightLocomotion, flat
from research.tasks.mujoco_models import completed
from research.validation import positive_ranges

_RANGES = ("mass_scale", "inertia_scale", "friction_scale", "damping_scale")
_MAX_VELOCITY = 10.0  # largest observed velocity


class BodyTasks(NamedTuple):
    """Factors of the quantities of the robot's model.

    Attributes:
        mass: Factors of `body_mass`, `[tasks, bodies]`.
        inertia: Factors of `body_inertia`, `[tasks, bodies, 3]`.
        friction: Factors of `geom_friction`, `[tasks, geoms, 3]`.
        damping: Factors of `dof_damping`, `[tasks, dofs]`.
    """

    mass: NDArray[np.float64]
    inertia: NDArray[np.float64]
    friction: NDArray[np.float64]
    damping: NDArray[np.float64]


@dataclass(frozen=True)
class BodyParams(UprightLocomotion, ContinuousTasks):
    """Settings of both families.

    The observation has the positions without x, and the velocities clipped to [-10, 10].

    Attributes:
        mass_scale: Range of the factors of `body_mass`, above 0. Equal ends fix them.
        inertia_scale: Range of the factors of `body_inertia`.
        friction_scale: Range of the factors of `geom_friction`.
        damping_scale: Range of the factors of `dof_damping`.
    """

    start_noise: float = 5e-3
    mass_scale: tuple[float, float] = (1.5**-3, 1.5**3)
    inertia_scale: tuple[float, float] = (1.5**-3, 1.5**3)
    friction_scale: tuple[float, float] = (1.5**-3, 1.5**3)
    damping_scale: tuple[float, float] = (1.3**-3, 1.3**3)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_ranges(self, *_RANGES)

    @property
    def observation_size(self) -> int:
        return self.robot.model.nq - 1 + self.robot.model.nv

    def sample(self, num_tasks: int, rng: np.random.Generator) -> BodyTasks:
        model, ranges = self.robot.model, [getattr(self, name) for name in _RANGES]
        shapes = (model.body_mass.shape, model.body_inertia.shape, model.geom_friction.shape, model.dof_damping.shape)
        sizes = [math.prod(shape) for shape in shapes]
        columns = np.split(rng.random((num_tasks, sum(sizes))), np.cumsum(sizes)[:-1], axis=1)
        return BodyTasks(
            *(
                low * (high / low) ** u.reshape(num_tasks, *shape)
                for (low, high), u, shape in zip(ranges, columns, shapes, strict=True)
            )
        )

    def make_envs(self, tasks: BodyTasks, episodes: int) -> BodyEnvs:
        return BodyEnvs(self, tasks, episodes, scaled_models(self.robot.model, tasks))

    @abstractmethod
    def healthy(self, state: State) -> NDArray[np.bool_]:
        """Returns whether the robots are upright, `[rows]`."""

    def describe(self, tasks: BodyTasks) -> dict[str, list[Any]]:
        """Returns the geometric mean of the factors of each quantity, for each task."""
        log_factors = {name: np.log(flat(factors)).mean(1) for name, factors in tasks._asdict().items()}
        return {name: [f"×{math.exp(mean):.2f}" for mean in means] for name, means in log_factors.items()}


class BodyEnvs(UprightEnvs[BodyParams, BodyTasks]):
    """Robots with one body per task."""

    frame_skip = 4
    survive_reward = 1.0

    @property
    def observed(self) -> Sequence[Columns]:
        return [Columns("qpos", start=1), Columns("qvel", limit=_MAX_VELOCITY)]

    def progress(self, rows: NDArray[np.intp], before: State, after: State) -> NDArray[np.float64]:
        return (after["qpos"][:, 0] - before["qpos"][:, 0]) / self.dt

    def costs(self, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        return 1e-3 * np.square(action).sum(1)

    def healthy(self, state: State) -> NDArray[np.bool_]:
        return self.distribution.healthy(state)


@dataclass(frozen=True)
class HopperParams(BodyParams):
    """Hoppers of Gymnasium's Hopper-v5. Settings: see `BodyParams`."""

    model_file = "hopper.xml"
    test_stream = "hopper_params/test"

    def healthy(self, state: State) -> NDArray[np.bool_]:
        """Returns whether the torso is above 0.7 m and leans less than 0.2 rad, and other coordinates are below 100."""
        height, angle = state["qpos"][:, 1], state["qpos"][:, 2]
        bounded = (np.abs(state["qpos"][:, 2:]) < 100).all(1) & (np.abs(state["qvel"]) < 100).all(1)
        return bounded & (height > 0.7) & (np.abs(angle) < 0.2)


@dataclass(frozen=True)
class WalkerParams(BodyParams):
    """Walkers of Gymnasium's Walker2d-v5. Settings: see `BodyParams`."""

    model_file = "walker2d_v5.xml"
    test_stream = "walker_params/test"

    def healthy(self, state: State) -> NDArray[np.bool_]:
        """Returns whether the torso is between 0.8 and 2 m high and leans less than 1 rad."""
        height, angle = state["qpos"][:, 1], state["qpos"][:, 2]
        return (height > 0.8) & (height < 2.0) & (np.abs(angle) < 1.0)


def scaled_models(model: mujoco.MjModel, tasks: BodyTasks) -> list[mujoco.MjModel]:
    """Returns a copy of `model` for each task, with its factors applied and the derived quantities computed again."""
    models = []
    for mass, inertia, friction, damping in zip(*tasks, strict=True):
        scaled = copy.copy(model)
        with completed(scaled):
            scaled.body_mass[:] *= mass
            scaled.body_inertia[:] *= inertia
            scaled.geom_friction[:] *= friction
            scaled.dof_damping[:] *= damping
        models.append(scaled)
    return models
