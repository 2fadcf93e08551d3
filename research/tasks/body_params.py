"""Robots whose masses, inertias, friction and damping differ from task to task.

Every number of `body_mass`, `body_inertia`, `geom_friction` and `dof_damping` has a factor of its own, log-uniform in
a range; 1.5^U(−3, 3) is log-uniform in [1.5⁻³, 1.5³]. Each task has a model of its own, whose derived quantities (the
inertia at rest, which contacts and the solver scale with) are computed anew, as they would be from an edited XML.
(Rothfuss et al. 2019, arXiv:1810.06784, appendix; Zintgraf et al. 2020, arXiv:1910.08348.)
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from research import rng as random
from research.sampling.mujoco import MujocoEnvs, Robot, State, action_space, observation_space
from research.tasks.base import Split
from research.tasks.locomotion import Locomotion, LocomotionEnvs, flat
from research.validation import ordered

_RANGES = ("mass_scale", "inertia_scale", "friction_scale", "damping_scale")
_MAX_VELOCITY = 10.0  # that is observed


class BodyTasks(NamedTuple):
    """Factors of what the robot is made of.

    Attributes:
        mass: Of `body_mass`, `[tasks, bodies]`.
        inertia: Of `body_inertia`, `[tasks, bodies, 3]`.
        friction: Of `geom_friction`, `[tasks, geoms, 3]`.
        damping: Of `dof_damping`, `[tasks, dofs]`.
    """

    mass: NDArray[np.float64]
    inertia: NDArray[np.float64]
    friction: NDArray[np.float64]
    damping: NDArray[np.float64]


@dataclass(frozen=True)
class BodyParams(Locomotion, ABC):
    """A distribution over robots that run forward in the plane, with the reward v + 1 − 0.001 ‖a‖².

    Attributes:
        mass_scale: Range of the factors of `body_mass`. Equal ends fix them.
        inertia_scale: Of `body_inertia`.
        friction_scale: Of `geom_friction`.
        damping_scale: Of `dof_damping`.
        horizon: This and the others: see `Locomotion`.
    """

    start_noise: float = 5e-3
    mass_scale: tuple[float, float] = (1.5**-3, 1.5**3)
    inertia_scale: tuple[float, float] = (1.5**-3, 1.5**3)
    friction_scale: tuple[float, float] = (1.5**-3, 1.5**3)
    damping_scale: tuple[float, float] = (1.3**-3, 1.3**3)

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered(self, *_RANGES)
        for name in _RANGES:
            low, high = getattr(self, name)
            if low <= 0:
                raise ValueError(f"{name}=({low!r}, {high!r}): need values above 0; (1.0, 1.0) changes nothing")
        if all(low == high for low, high in self._ranges()):
            raise ValueError(f"mass_scale={self.mass_scale!r}: every task is the same, so none can be held out; "
                             f"need one of {', '.join(_RANGES)} to be wider than a point")  # fmt: skip

    @property
    @abstractmethod
    def robot(self) -> Robot:
        """The robot of which all others are edited copies."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the distribution is registered as."""

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Positions without x, and velocities clipped to [-10, 10]."""
        return observation_space(self.robot.model.nq - 1 + self.robot.model.nv)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """Torques of the joints, in [-1, 1]."""
        return action_space(self.robot.model)

    @property
    def split(self) -> Split:
        return Split(True, "bodies of one fixed sequence that training never draws from")

    def sample(self, num_tasks: int, rng: np.random.Generator) -> BodyTasks:
        """Bodies for training."""
        model = self.robot.model
        shapes = (model.body_mass.shape, model.body_inertia.shape, model.geom_friction.shape, model.dof_damping.shape)
        sizes = [math.prod(shape) for shape in shapes]
        columns = np.split(rng.random((num_tasks, sum(sizes))), np.cumsum(sizes)[:-1], axis=1)
        return BodyTasks(
            *(
                low * (high / low) ** u.reshape(num_tasks, *shape)
                for (low, high), u, shape in zip(self._ranges(), columns, shapes, strict=True)
            )
        )

    def test_tasks(self, num_tasks: int) -> BodyTasks:
        """The first `num_tasks` of a fixed sequence of its own."""
        return self.sample(num_tasks, random.generator(0, f"{self.name}/test"))

    def describe(self, tasks: BodyTasks) -> dict[str, list[Any]]:
        """What to write beside each task in a picture: the geometric mean of each kind of factors."""
        log_factors = {name: np.log(flat(factors)).mean(1) for name, factors in tasks._asdict().items()}
        return {name: [f"×{math.exp(mean):.2f}" for mean in means] for name, means in log_factors.items()}

    @abstractmethod
    def make_envs(self, tasks: BodyTasks, episodes: int) -> MujocoEnvs:
        """See `TaskDistribution.make_envs`."""

    def _ranges(self) -> list[tuple[float, float]]:
        return [getattr(self, name) for name in _RANGES]


class BodyEnvs(LocomotionEnvs):
    """Robots with bodies of their own. A family adds when they are healthy."""

    frame_skip = 4

    def __init__(self, distribution: BodyParams, tasks: BodyTasks, episodes: int):
        super().__init__(
            distribution,
            distribution.robot,
            scaled_models(distribution.robot.model, tasks),
            len(tasks.mass),
            episodes,
            survive_reward=1.0,
            observation_size=distribution.observation_space.shape[0],
            frame_skip=self.frame_skip,
        )

    def observe(self, rows: NDArray[np.intp], state: State) -> NDArray[np.float64]:
        velocity = np.clip(state["qvel"], -_MAX_VELOCITY, _MAX_VELOCITY)
        return np.concatenate([state["qpos"][:, 1:], velocity], axis=1)

    def progress(self, rows: NDArray[np.intp], before: State, after: State) -> NDArray[np.float64]:
        return (after["qpos"][:, 0] - before["qpos"][:, 0]) / self.dt

    def costs(self, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        return 1e-3 * np.square(action).sum(1)


def scaled_models(model: mujoco.MjModel, tasks: BodyTasks) -> list[mujoco.MjModel]:
    """A copy of `model` for each task, with its body and the quantities that follow from it."""
    scratch = mujoco.MjData(model)
    models = []
    for mass, inertia, friction, damping in zip(*tasks, strict=True):
        scaled = copy.copy(model)
        scaled.body_mass[:] *= mass
        scaled.body_inertia[:] *= inertia
        scaled.geom_friction[:] *= friction
        scaled.dof_damping[:] *= damping
        mujoco.mj_setConst(scaled, scratch)
        models.append(scaled)
    return models
