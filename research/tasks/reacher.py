"""Reacher: bring the tip of an arm with two joints to a place that is not shown.

The arm, its start and its reward are those of Gymnasium's Reacher-v5, except that the goal belongs to the task and not
to the episode, and that neither it nor the way to it is observed:

    −‖tip − goal‖₂ − control_cost ‖a‖²

Episodes end at the horizon only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research import rng as random
from research.sampling.mujoco import MujocoEnvs, State, action_space, load_robot, observation_space
from research.tasks.base import Split
from research.validation import at_least, one_of, positive

_MODEL = "reacher.xml"
_FRAME_SKIP = 2
_SIZES = {"tip": 8, "gymnasium": 10}
_TIP, _TARGET = 3, 4  # their bodies
_START_POSITION, _START_VELOCITY = 0.1, 0.005
_REACH = 0.27  # the range of the target's joints


class ReacherTasks(NamedTuple):
    """Tasks of reaching: `goal [tasks, 2]`, in metres from the shoulder."""

    goal: NDArray[np.float64]


@dataclass(frozen=True)
class ReacherGoal:
    """The task distribution.

    Attributes:
        horizon: Steps of an episode.
        observation: `"tip"`: cosines and sines of the joints' angles, their velocities, and where the tip is, 8
            numbers. `"gymnasium"`: Gymnasium's 10, which show the goal: what an agent could do that knows the task.
        goal_radius: Goals are uniform on the disc of this radius about the shoulder; the arm is 0.21 long.
        control_cost: Factor of ‖a‖².
        clip_actions: Whether ‖a‖² is that of the action clipped to [-1, 1]. The motors clip in any case.
    """

    horizon: int = 50
    observation: Literal["tip", "gymnasium"] = "tip"
    goal_radius: float = 0.2
    control_cost: float = 1.0
    clip_actions: bool = False

    def __post_init__(self) -> None:
        positive(self, "horizon", "goal_radius")
        if self.goal_radius > _REACH:
            raise ValueError(f"goal_radius={self.goal_radius}: need at most {_REACH}, where the table ends")
        at_least(self, 0, "control_cost")
        one_of(self, "observation", tuple(_SIZES))
        one_of(self, "clip_actions", (False, True))

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return observation_space(_SIZES[self.observation])

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """Torques of the two joints, in [-1, 1]."""
        return action_space(load_robot(_MODEL).model)

    @property
    def split(self) -> Split:
        return Split(True, "goals of one fixed sequence that training never draws from")

    def sample(self, num_tasks: int, rng: np.random.Generator) -> ReacherTasks:
        """Goals for training."""
        area, turn = rng.random((num_tasks, 2)).T
        radius, angle = self.goal_radius * np.sqrt(area), 2 * math.pi * turn
        return ReacherTasks(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1))

    def test_tasks(self, num_tasks: int) -> ReacherTasks:
        """The first `num_tasks` goals of a fixed sequence of its own."""
        return self.sample(num_tasks, random.generator(0, "reacher_goal/test"))

    def make_envs(self, tasks: ReacherTasks, episodes: int) -> ReacherEnvs:
        """See `TaskDistribution.make_envs`."""
        return ReacherEnvs(self, tasks, episodes)


class ReacherEnvs(MujocoEnvs):
    """Arms. A seed does not start them as it starts Gymnasium's, where it says the goal, too."""

    def __init__(self, distribution: ReacherGoal, tasks: ReacherTasks, episodes: int):
        positive(dict(episodes=episodes), "episodes")
        robot = load_robot(_MODEL)
        super().__init__(
            robot,
            [robot.model],
            len(tasks.goal) * episodes,
            horizon=distribution.horizon,
            observation_size=_SIZES[distribution.observation],
            frame_skip=_FRAME_SKIP,
            fields=("qpos", "qvel", "xpos"),
            clip_actions=distribution.clip_actions,
        )
        self.distribution = distribution
        self._goal = np.repeat(np.asarray(tasks.goal, np.float64), episodes, axis=0)

    def start(self, row: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        model = self.robot.model
        qpos = rng.uniform(-_START_POSITION, _START_POSITION, model.nq) + model.qpos0
        qvel = rng.uniform(-_START_VELOCITY, _START_VELOCITY, model.nv)
        qpos[2:], qvel[2:] = self._goal[row], 0.0  # the target has joints, too
        return qpos, qvel

    def positions(self) -> NDArray[np.float64]:
        """Where each tip is, `[rows, 2]`."""
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
        squared = (offset[:, None, :] @ offset[:, :, None])[:, 0, 0]  # sums as np.linalg.norm does for one vector
        return -np.sqrt(squared) - self.distribution.control_cost * np.square(action).sum(1)


def _offset(state: State) -> NDArray[np.float64]:
    return state["xpos"][:, _TIP] - state["xpos"][:, _TARGET]
