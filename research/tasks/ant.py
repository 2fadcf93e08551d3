"""Ant: run in a given direction, at a given speed, or to a given place.

The body, its observation and its start are those of Gymnasium's Ant-v5. With v = Δ(x, y)/dt the velocity of the torso
over a step and F the contact forces (`cfrc_ext`), each clipped to [-1, 1],

    ant_dir:   direction · v                          direction ∈ {(−1, 0), (1, 0)}, or any on the ground
    ant_vel:   1 − |v_x − velocity|                   velocity ~ U[velocity_low, velocity_high]
    ant_goal:  goal_bonus − ‖(x, y) − goal‖₁          goal ~ U[goal_low, goal_high]²

plus survive, minus control ‖a‖² + 0.0005 ‖F‖². An episode ends unless the torso is between 0.2 and 1 high.
(Finn et al. 2017, arXiv:1703.03400, section 5.3.)

`reward` says which factors: `"maml_rl"`, those of that paper's code (survive 0.05, control 0.005, goal_bonus 4), or
`"promp"`, those of ProMP and variBAD (survive 1, control 0.5; for goals survive 0, control 0.1, goal_bonus 0. Rothfuss
et al. 2019, arXiv:1810.06784). Their goals lie on a disc, and their episodes end at the horizon only: `goals=disc
terminate=false`. In both codes a step that ends an episode has its bonus; here, as in Gymnasium, it has none.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research import rng as random
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
    low_below_high,
    sample_directions,
)
from research.validation import one_of

_MODEL = "ant.xml"
_FRAME_SKIP = 5
_TORSO = 1  # its body
_CONTACT_COST = 5e-4
_HEALTHY_LOW, _HEALTHY_HIGH = 0.2, 1.0
_NUM_POSITIONS, _NUM_VELOCITIES, _NUM_FORCES = 15, 14, 78


class _Factors(NamedTuple):
    survive: float
    control: float
    goal_bonus: float


_RUNNING = {"maml_rl": _Factors(0.05, 0.005, 4.0), "promp": _Factors(1.0, 0.5, 0.0)}
_GOAL = {"maml_rl": _RUNNING["maml_rl"], "promp": _Factors(0.0, 0.1, 0.0)}


class AntVelTasks(NamedTuple):
    """Tasks of running at a speed: `velocity [tasks]`, along x, in metres per second."""

    velocity: NDArray[np.float64]


class AntGoalTasks(NamedTuple):
    """Tasks of running to a place: `goal [tasks, 2]`, in metres from the middle, about which episodes start."""

    goal: NDArray[np.float64]


@dataclass(frozen=True)
class _Ant(Locomotion, ABC):
    """What the three families share.

    Attributes:
        reward: Factors of the reward; see the head of this file.
        observe_position: Whether x and y are observed, as with Gymnasium's
            `exclude_current_positions_from_observation=False`.
        observe_forces: Whether the clipped contact forces are, as with Gymnasium's `include_cfrc_ext_in_observation`.
            Without them the 105 numbers are 27: positions without x and y, and velocities.
        horizon: This and the others: see `Locomotion`.
    """

    reward: Literal["maml_rl", "promp"] = "maml_rl"
    observe_position: bool = False
    observe_forces: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "reward", tuple(_RUNNING))
        one_of(self, "observe_position", (False, True))
        one_of(self, "observe_forces", (False, True))

    @property
    def observation_size(self) -> int:
        """Numbers of an observation."""
        hidden = 0 if self.observe_position else 2
        return _NUM_POSITIONS - hidden + _NUM_VELOCITIES + (_NUM_FORCES if self.observe_forces else 0)

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return observation_space(self.observation_size)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """Torques of the eight joints, in [-1, 1]."""
        return action_space(load_robot(_MODEL).model)

    @property
    def factors(self) -> _Factors:
        """The factors that `reward` names."""
        return _RUNNING[self.reward]

    @abstractmethod
    def progress(
        self, position: NDArray[np.float64], velocity: NDArray[np.float64], target: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What the task asks for, `[rows]`, at `position [rows, 2]` with `velocity [rows, 2]`."""


@dataclass(frozen=True)
class AntDir(_Ant):
    """Running in a direction.

    Attributes:
        directions: `"line"`: forward or backward, as in MAML. `"plane"`: any direction, as in ProMP.
        reward: This and the others: see `_Ant`.
    """

    directions: Directions = "line"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "directions", ("line", "plane"))

    @property
    def split(self) -> Split:
        return direction_split(self.directions)

    def sample(self, num_tasks: int, rng: np.random.Generator) -> DirectionTasks:
        """Directions for training."""
        return sample_directions(self.directions, num_tasks, rng)

    def test_tasks(self, num_tasks: int) -> DirectionTasks:
        """See `held_out_directions`."""
        return held_out_directions(self.directions, num_tasks, "ant_dir/test")

    def make_envs(self, tasks: DirectionTasks, episodes: int) -> AntEnvs:
        """See `TaskDistribution.make_envs`."""
        return AntEnvs(self, tasks.direction, episodes)

    def progress(
        self, position: NDArray[np.float64], velocity: NDArray[np.float64], target: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """direction · v."""
        return (target * velocity).sum(1)


@dataclass(frozen=True)
class AntVel(_Ant):
    """Running along x at a speed from a range.

    Attributes:
        velocity_low: The lowest speed, in metres per second.
        velocity_high: The highest.
        reward: This and the others: see `_Ant`.
    """

    velocity_low: float = 0.0
    velocity_high: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        low_below_high(self, "velocity")

    @property
    def split(self) -> Split:
        return Split(True, "velocities of one fixed sequence that training never draws from")

    def sample(self, num_tasks: int, rng: np.random.Generator) -> AntVelTasks:
        """Velocities for training."""
        return AntVelTasks(rng.uniform(self.velocity_low, self.velocity_high, num_tasks))

    def test_tasks(self, num_tasks: int) -> AntVelTasks:
        """The first `num_tasks` velocities of a fixed sequence of its own."""
        return self.sample(num_tasks, random.generator(0, "ant_vel/test"))

    def make_envs(self, tasks: AntVelTasks, episodes: int) -> AntEnvs:
        """See `TaskDistribution.make_envs`."""
        return AntEnvs(self, tasks.velocity, episodes)

    def progress(
        self, position: NDArray[np.float64], velocity: NDArray[np.float64], target: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """1 − |v_x − velocity|; the 1 so that it does not pay to fall."""
        return 1.0 - np.abs(velocity[:, 0] - target)


@dataclass(frozen=True)
class AntGoal(_Ant):
    """Running to a place that is not shown. The ant observes where it is, which Gymnasium's does not by default.

    Attributes:
        goal_low: Lower end of the goals' range, on both axes, in metres.
        goal_high: Upper end.
        goals: `"square"`: uniform in the square of that range. `"disc"`: on the disc within it, as in ProMP.
        reward: This and the others: see `_Ant`.
    """

    observe_position: bool = True
    goal_low: float = -3.0
    goal_high: float = 3.0
    goals: Literal["square", "disc"] = "square"

    def __post_init__(self) -> None:
        super().__post_init__()
        low_below_high(self, "goal")
        one_of(self, "goals", ("square", "disc"))

    @property
    def factors(self) -> _Factors:
        return _GOAL[self.reward]

    @property
    def split(self) -> Split:
        return Split(True, "goals of one fixed sequence that training never draws from")

    def sample(self, num_tasks: int, rng: np.random.Generator) -> AntGoalTasks:
        """Goals for training."""
        if self.goals == "square":
            return AntGoalTasks(rng.uniform(self.goal_low, self.goal_high, (num_tasks, 2)))
        middle, most = (self.goal_low + self.goal_high) / 2, (self.goal_high - self.goal_low) / 2
        area, turn = rng.random((num_tasks, 2)).T
        radius, angle = most * np.sqrt(area), 2 * math.pi * turn
        return AntGoalTasks(middle + np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1))

    def test_tasks(self, num_tasks: int) -> AntGoalTasks:
        """The first `num_tasks` goals of a fixed sequence of its own."""
        return self.sample(num_tasks, random.generator(0, "ant_goal/test"))

    def make_envs(self, tasks: AntGoalTasks, episodes: int) -> AntEnvs:
        """See `TaskDistribution.make_envs`."""
        return AntEnvs(self, tasks.goal, episodes)

    def progress(
        self, position: NDArray[np.float64], velocity: NDArray[np.float64], target: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """goal_bonus − ‖(x, y) − goal‖₁."""
        return self.factors.goal_bonus - np.abs(position - target).sum(1)


class AntEnvs(LocomotionEnvs):
    """Ants; `target [tasks, ...]` is what each task asks for."""

    def __init__(self, distribution: _Ant, target: NDArray[np.float64], episodes: int):
        robot = load_robot(_MODEL)
        super().__init__(
            distribution,
            robot,
            [robot.model],
            len(target),
            episodes,
            survive_reward=distribution.factors.survive,
            normal_velocities=True,
            observation_size=distribution.observation_size,
            frame_skip=_FRAME_SKIP,
            fields=("qpos", "qvel", "xpos", "cfrc_ext"),
            contact_forces=True,
        )
        self.distribution = distribution
        self._target = np.repeat(np.asarray(target, np.float64), episodes, axis=0)

    def positions(self) -> NDArray[np.float64]:
        """Where each torso is, `[rows, 2]`."""
        return self._state["xpos"][:, _TORSO, :2].copy()

    def markers(self, row: int) -> Sequence[Sequence[float]]:
        return [(*self._target[row], 0.15)] if isinstance(self.distribution, AntGoal) else ()

    def observe(self, rows: NDArray[np.intp], state: State) -> NDArray[np.float64]:
        parts = [state["qpos"] if self.distribution.observe_position else state["qpos"][:, 2:], state["qvel"]]
        if self.distribution.observe_forces:
            parts.append(_forces(state)[:, 6:])  # the first body is the world
        return np.concatenate(parts, axis=1)

    def progress(self, rows: NDArray[np.intp], before: State, after: State) -> NDArray[np.float64]:
        position = after["xpos"][:, _TORSO, :2]
        velocity = (position - before["xpos"][:, _TORSO, :2]) / self.dt
        return self.distribution.progress(position, velocity, self._target[rows])

    def costs(self, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        control = self.distribution.factors.control * np.square(action).sum(1)
        return control + _CONTACT_COST * np.square(_forces(after)).sum(1)

    def healthy(self, state: State) -> NDArray[np.bool_]:
        height = state["qpos"][:, 2]
        return (height >= _HEALTHY_LOW) & (height <= _HEALTHY_HIGH)


def _forces(state: State) -> NDArray[np.float64]:
    """Contact forces on every body, clipped, `[rows, 6 × bodies]`."""
    return flat(np.clip(state["cfrc_ext"], -1.0, 1.0))
