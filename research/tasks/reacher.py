"""Reacher: move the tip of an arm with two joints to a goal that is not observed.

Arm, start and reward are those of Gymnasium's Reacher-v5, but the goal belongs to the task instead of the episode, and
neither the goal nor the offset to it is observed:

    −‖tip − goal‖₂ − control_cost ‖a‖²

Episodes end at the horizon only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.sampling.mujoco import State
from research.tasks.base import ContinuousTasks
from research.tasks.robots import RobotEnvs, RobotTasks, uniform_on_disc
from research.validation import at_least, positive

_SIZES = {"tip": 8, "gymnasium": 10}
_TIP, _TARGET = 3, 4  # indices of their bodies
_START_POSITION, _START_VELOCITY = 0.1, 0.005
_REACH = 0.27  # range of the joints of the target


class ReacherTasks(NamedTuple):
    """Tasks of reaching: `goal [tasks, 2]`, in metres from the shoulder."""

    goal: NDArray[np.float64]


@dataclass(frozen=True)
class ReacherGoal(RobotTasks, ContinuousTasks):
    """The task distribution.

    Attributes:
        observation: `"tip"`: cosines and sines of the joint angles, their velocities, and the position of the tip, 8
            numbers. `"gymnasium"`: Gymnasium's 10 numbers, which include the goal: an upper bound for adaptation.
        goal_radius: Goals are uniform on the disc of this radius around the shoulder, in metres, at most 0.27; the arm
            has a length of 0.21.
        control_cost: Factor of ‖a‖².
    """

    model_file = "reacher.xml"
    test_stream = "reacher_goal/test"
    horizon: int = 50
    observation: Literal["tip", "gymnasium"] = "tip"
    goal_radius: float = 0.2
    control_cost: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "goal_radius")
        if self.goal_radius > _REACH:
            raise ValueError(f"goal_radius={self.goal_radius}: need at most {_REACH}, where the table ends")
        at_least(self, 0, "control_cost")

    @property
    def observation_size(self) -> int:
        return _SIZES[self.observation]

    def sample(self, num_tasks: int, rng: np.random.Generator) -> ReacherTasks:
        return ReacherTasks(uniform_on_disc(self.goal_radius, num_tasks, rng))

    def make_envs(self, tasks: ReacherTasks, episodes: int) -> ReacherEnvs:
        return ReacherEnvs(self, tasks, episodes, fields=("qpos", "qvel", "xpos"))


class ReacherEnvs(RobotEnvs[ReacherGoal, ReacherTasks]):
    """Rows of arms. A seed gives another start than in Gymnasium, whose reset also draws the goal."""

    frame_skip = 2

    def start(self, row: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        model = self.robot.model
        qpos = rng.uniform(-_START_POSITION, _START_POSITION, model.nq) + model.qpos0
        qvel = rng.uniform(-_START_VELOCITY, _START_VELOCITY, model.nv)
        qpos[2:], qvel[2:] = self.tasks.goal[row], 0.0  # the joints of the target
        return qpos, qvel

    def positions(self) -> NDArray[np.float64]:
        """Returns the position of each tip, `[rows, 2]`; a copy."""
        return self._state["xpos"][:, _TIP, :2].copy()

    def observe(self, rows: NDArray[np.intp], state: State) -> NDArray[np.float64]:
        angles, velocities = state["qpos"][:, :2], state["qvel"][:, :2]
        parts = [np.cos(angles), np.sin(angles)]
        if self.distribution.observation == "gymnasium":
            parts += [state["qpos"][:, 2:], velocities, _offset(state)[:, :2]]
        else:
            parts += [velocities, state["xpos"][:, _TIP, :2]]
        return np.concatenate(parts, axis=1)

    def reward(self, rows: NDArray[np.intp], before: State, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        offset = _offset(after)
        squared = (offset[:, None, :] @ offset[:, :, None])[:, 0, 0]  # summed as np.linalg.norm sums a single vector
        return -np.sqrt(squared) - self.distribution.control_cost * np.square(action).sum(1)


def _offset(state: State) -> NDArray[np.float64]:
    """Vector from the target to the tip, `[rows, 3]`."""
    return state["xpos"][:, _TIP] - state["xpos"][:, _TARGET]
