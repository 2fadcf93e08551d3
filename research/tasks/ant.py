"""Ant: run in a given direction, at a given velocity, or to a given goal.

Body, observation and start are those of Gymnasium's Ant-v5. With the velocity v = Δ(x, y)/dt of the torso over a step
and the contact forces F (`cfrc_ext`), each clipped to [-1, 1], the reward is one of

    ant_dir:   direction · v                          direction ∈ {(−1, 0), (1, 0)}, or uniform on the unit circle
    ant_vel:   1 − |v_x − velocity|                   velocity ~ U[velocity_low, velocity_high]
    ant_goal:  goal_bonus − ‖(x, y) − goal‖₁          goal ~ U[goal_low, goal_high]²

plus survive − control ‖a‖² − 0.0005 ‖F‖². An episode terminates unless the torso is between 0.2 and 1 m high.
(Finn et al. 2017, arXiv:1703.03400, section 5.3.)

The setting `reward` selects the factors: `"maml_rl"`, those of that paper's code (survive 0.05, control 0.005,
goal_bonus 4), or `"promp"`, those of ProMP and variBAD (survive 1, control 0.5; for goals survive 0, control 0.1,
goal_bonus 0. Rothfuss et al. 2019, arXiv:1810.06784). ProMP's goals are on a disc, and its episodes end at the horizon
only: `goals=disc terminate=false`. In both codes the step that ends an episode has the survive bonus; here it has none,
as in Gymnasium.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.sampling.mujoco import Columns, State
from research.tasks.base import ContinuousTasks
from research.tasks.locomotion import (
    DirectionTarget,
    DirectionTasks,
    UprightEnvs,
    UprightLocomotion,
    VelocityTarget,
    VelocityTasks,
    flat,
    low_below_high,
)
from research.tasks.robots import uniform_on_disc

Floats = NDArray[np.float64]

_TORSO = 1  # index of its body
_CONTACT_COST = 5e-4
_MAX_FORCE = 1.0
_HEALTHY_LOW, _HEALTHY_HIGH = 0.2, 1.0
_NUM_POSITIONS, _NUM_VELOCITIES, _NUM_FORCES = 15, 14, 78
_GOAL_RADIUS = 0.15


class Factors(NamedTuple):
    """Factors of the parts of the reward, see the head of this file."""

    survive: float
    control: float
    goal_bonus: float


_RUNNING = {"maml_rl": Factors(0.05, 0.005, 4.0), "promp": Factors(1.0, 0.5, 0.0)}
_GOAL = {"maml_rl": _RUNNING["maml_rl"], "promp": Factors(0.0, 0.1, 0.0)}


class AntGoalTasks(NamedTuple):
    """Tasks of running to a goal: `goal [tasks, 2]`, in metres from the middle, around which episodes start."""

    goal: NDArray[np.float64]


@dataclass(frozen=True)
class Ant(UprightLocomotion):
    """Settings of the three families.

    Attributes:
        reward: Factors of the reward, see the head of this file.
        observe_position: Whether x and y are observed, as with Gymnasium's
            `exclude_current_positions_from_observation=False`.
        observe_forces: Whether the clipped contact forces are observed, as with Gymnasium's
            `include_cfrc_ext_in_observation`. Without them the 105 numbers are 27: positions without x and y, and
            velocities.
    """

    model_file = "ant.xml"
    reward: Literal["maml_rl", "promp"] = "maml_rl"
    observe_position: bool = False
    observe_forces: bool = True

    @property
    def observation_size(self) -> int:
        hidden = 0 if self.observe_position else 2
        return _NUM_POSITIONS - hidden + _NUM_VELOCITIES + (_NUM_FORCES if self.observe_forces else 0)

    @property
    def factors(self) -> Factors:
        """The factors that `reward` selects."""
        return _RUNNING[self.reward]

    def make_envs(self, tasks: Any, episodes: int) -> AntEnvs:
        return AntEnvs(self, tasks, episodes, fields=("qpos", "qvel", "xpos", "cfrc_ext"))

    @abstractmethod
    def progress(self, position: Floats, velocity: Floats, target: Floats) -> Floats:
        """Returns the part of the reward that depends on the task, `[rows]`, without the survive bonus.

        Args:
            position: (x, y) of the torso, `[rows, 2]`.
            velocity: Velocity of the torso, `[rows, 2]`.
            target: The task, `[rows, ...]`.
        """


@dataclass(frozen=True)
class AntDir(Ant, DirectionTarget):
    """Running in a direction. Settings: see `Ant` and `DirectionTarget`."""

    test_stream = "ant_dir/test"

    def progress(self, position: Floats, velocity: Floats, target: Floats) -> Floats:
        return (target * velocity).sum(1)


@dataclass(frozen=True)
class AntVel(Ant, VelocityTarget):
    """Running along x at a velocity from a range. Settings: see `Ant` and `VelocityTarget`."""

    test_stream = "ant_vel/test"

    def progress(self, position: Floats, velocity: Floats, target: Floats) -> Floats:
        """Returns 1 − |v_x − velocity|; the 1 makes falling a loss."""
        return 1.0 - np.abs(velocity[:, 0] - target)


@dataclass(frozen=True)
class AntGoal(Ant, ContinuousTasks):
    """Running to a goal that is not observed. The position is observed, which is not Gymnasium's default.

    Attributes:
        goal_low: Lower end of the range of the goals on both axes, in metres.
        goal_high: Upper end of that range, in metres.
        goals: `"square"`: uniform in the square of that range. `"disc"`: uniform on the disc in it, as in ProMP.
    """

    test_stream = "ant_goal/test"
    observe_position: bool = True
    goal_low: float = -3.0
    goal_high: float = 3.0
    goals: Literal["square", "disc"] = "square"

    def __post_init__(self) -> None:
        super().__post_init__()
        low_below_high(self, "goal")

    @property
    def factors(self) -> Factors:
        return _GOAL[self.reward]

    def sample(self, num_tasks: int, rng: np.random.Generator) -> AntGoalTasks:
        if self.goals == "square":
            return AntGoalTasks(rng.uniform(self.goal_low, self.goal_high, (num_tasks, 2)))
        middle = (self.goal_low + self.goal_high) / 2
        return AntGoalTasks(middle + uniform_on_disc((self.goal_high - self.goal_low) / 2, num_tasks, rng))

    def progress(self, position: Floats, velocity: Floats, target: Floats) -> Floats:
        return self.factors.goal_bonus - np.abs(position - target).sum(1)


class AntEnvs(UprightEnvs[Ant, DirectionTasks | VelocityTasks | AntGoalTasks]):
    """Rows of ants."""

    contact_forces = True
    normal_velocities = True

    def positions(self) -> NDArray[np.float64]:
        """Returns (x, y) of each torso, `[rows, 2]`; a copy."""
        return self._state["xpos"][:, _TORSO, :2].copy()

    def markers(self, row: int) -> Sequence[Sequence[float]]:
        return [(*self.tasks.goal[row], _GOAL_RADIUS)] if isinstance(self.tasks, AntGoalTasks) else ()

    @property
    def observed(self) -> Sequence[Columns]:
        parts = [Columns("qpos", start=0 if self.distribution.observe_position else 2), Columns("qvel")]
        if self.distribution.observe_forces:
            parts.append(Columns("cfrc_ext", start=6, limit=_MAX_FORCE))  # the first body is the world
        return parts

    @property
    def survive_reward(self) -> float:
        return self.distribution.factors.survive

    def progress(self, rows: NDArray[np.intp], before: State, after: State) -> NDArray[np.float64]:
        position = after["xpos"][:, _TORSO, :2]
        velocity = (position - before["xpos"][:, _TORSO, :2]) / self.dt
        return self.distribution.progress(position, velocity, self.tasks[0][rows])

    def costs(self, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        control = self.distribution.factors.control * np.square(action).sum(1)
        return control + _CONTACT_COST * np.square(_forces(after)).sum(1)

    def healthy(self, state: State) -> NDArray[np.bool_]:
        height = state["qpos"][:, 2]
        return (height >= _HEALTHY_LOW) & (height <= _HEALTHY_HIGH)


def _forces(state: State) -> NDArray[np.float64]:
    """Clipped contact forces on all bodies, `[rows, 6 × bodies]`."""
    return flat(np.clip(state["cfrc_ext"], -_MAX_FORCE, _MAX_FORCE))
