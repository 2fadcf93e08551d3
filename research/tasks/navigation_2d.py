"""2D navigation: a point moves to a goal that it does not observe.

Start (0, 0), goal uniform in a square, reward −‖position − goal‖₂ after each move, termination within `done_radius` of
the goal on both axes. An action in [-1, 1]² moves the point by `step_size` times the action.
(Finn et al. 2017, arXiv:1703.03400, section 5.3.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research.tasks.base import ContinuousTasks
from research.tasks.rows import Moved, PointEnvs
from research.validation import choices, positive

_MAML_RANGE = 0.5
_MAML_GOALS = 40


class NavigationTasks(NamedTuple):
    """Tasks of 2D navigation: `goal [tasks, 2]`."""

    goal: NDArray[np.float64]


@dataclass(frozen=True)
class Navigation2D(ContinuousTasks):
    """The task distribution.

    Attributes:
        horizon: Number of steps of an episode.
        goal_range: Goals are uniform in [-goal_range, goal_range]².
        step_size: Distance per step and axis at an action of 1.
        done_radius: An episode terminates when both axes are nearer to the goal than this.
        test_goals: `"drawn"`: test tasks are a sequence of draws. `"maml"`: they are the 40 goals on which the authors
            of MAML evaluate, of `goal_range` 0.5 (their test script maml_examples/test_maml_point.py).
    """

    test_stream = "navigation_2d/test"
    horizon: int = 100
    goal_range: float = 0.5
    step_size: float = 0.1
    done_radius: float = 0.01
    test_goals: Literal["drawn", "maml"] = "drawn"

    def __post_init__(self) -> None:
        positive(self, "horizon", "goal_range", "step_size", "done_radius")
        choices(self)
        if self.test_goals == "maml" and self.goal_range != _MAML_RANGE:
            raise ValueError(
                f"goal_range={self.goal_range}: test_goals='maml' needs {_MAML_RANGE}, the range of its goals"
            )

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The position; the plane has no walls."""
        return gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """The move on each axis in units of `step_size`."""
        return gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def sample(self, num_tasks: int, rng: np.random.Generator) -> NavigationTasks:
        return NavigationTasks(rng.uniform(-self.goal_range, self.goal_range, (num_tasks, 2)))

    def test_tasks(self, num_tasks: int) -> NavigationTasks:
        if self.test_goals == "drawn":
            return cast(NavigationTasks, super().test_tasks(num_tasks))
        if num_tasks > _MAML_GOALS:
            raise ValueError(f"num_eval_tasks={num_tasks}: need at most {_MAML_GOALS}, the goals of test_goals='maml'")
        goals = np.random.RandomState(1).uniform(-_MAML_RANGE, _MAML_RANGE, (_MAML_GOALS, 2))
        return NavigationTasks(goals[:num_tasks])

    @property
    def inference_space(self) -> gymnasium.spaces.Box:
        """The square of the goals. See `InferredTasks`."""
        return gymnasium.spaces.Box(-self.goal_range, self.goal_range, (2,), np.float64)

    def inference_targets(self, tasks: NavigationTasks) -> NDArray[np.float64]:
        return np.array(tasks.goal, np.float64)

    def make_envs(self, tasks: NavigationTasks, episodes: int) -> NavigationEnvs:
        return NavigationEnvs(self, tasks, episodes)


class NavigationEnvs(PointEnvs[Navigation2D, NavigationTasks]):
    """Points on the plane of the goals."""

    def move(self, state: NDArray[Any], action: NDArray[Any]) -> Moved:
        position = state + self.distribution.step_size * action
        offset = position - self.tasks.goal
        reward = -np.sqrt(np.einsum("rc,rc->r", offset, offset))
        return position, reward, (np.abs(offset) < self.distribution.done_radius).all(1)
