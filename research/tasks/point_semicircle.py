"""A point searches a goal on a half circle, and is paid only near it: exploration that no single reward guides.

Start (0, 0), goal (cos θ, sin θ) with θ ~ U[0, π], reward 1 for each step that ends within `goal_radius` of it, else 0.
An action in [-1, 1]² moves the point by `step_size` times the action; episodes end at the horizon only.

The goals, start, steps and radius 0.2 are those of PEARL's sparse point robot (Rakelly et al. 2019, arXiv:1903.08254,
section 6.4), whose reward in the radius is 1 − distance and whose episodes have 20 steps. The constant reward and the
60 steps are those of off-policy variBAD (Dorfman, Shenfeld & Tamar 2021, arXiv:2008.02598), with trials of 2 episodes.

Knowing the goal, k steps are enough to reach it from the offset (x, y) if the square [-k·step_size, k·step_size]² has a
point within the radius of it:  max(|x| − k·step_size, 0)² + max(|y| − k·step_size, 0)² ≤ goal_radius²
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research.oracles.semicircle import mean_arrival, steps_to_disc, sweep_return
from research.tasks.base import Bounds, ContinuousTasks
from research.tasks.rows import Moved, PointEnvs
from research.validation import positive


class SemicircleTasks(NamedTuple):
    """Tasks: `goal [tasks, 2]`, on the upper half of the unit circle."""

    goal: NDArray[np.float64]


@dataclass(frozen=True)
class PointSemicircle(ContinuousTasks):
    """The task distribution.

    Attributes:
        horizon: Number of steps of an episode.
        goal_radius: Distance from the goal within which a step pays, less than 1.
        step_size: Distance per step and axis at an action of 1.
    """

    test_stream = "point_semicircle/test"
    horizon: int = 60
    goal_radius: float = 0.2
    step_size: float = 0.1

    def __post_init__(self) -> None:
        positive(self, "horizon", "goal_radius", "step_size")
        if self.goal_radius >= 1:
            raise ValueError(f"goal_radius={self.goal_radius}: need less than 1, the distance of the goals")

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The position; the plane has no walls."""
        return gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """The move on each axis in units of `step_size`."""
        return gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    @property
    def inference_space(self) -> gymnasium.spaces.Box:
        """The coordinates of the goal. See `InferredTasks`."""
        return gymnasium.spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 1.0]), dtype=np.float64)

    def inference_targets(self, tasks: SemicircleTasks) -> NDArray[np.float64]:
        return np.array(tasks.goal, np.float64)

    def sample(self, num_tasks: int, rng: np.random.Generator) -> SemicircleTasks:
        angle = rng.uniform(0, np.pi, num_tasks)
        return SemicircleTasks(np.stack([np.cos(angle), np.sin(angle)], -1))

    def make_envs(self, tasks: SemicircleTasks, episodes: int) -> SemicircleEnvs:
        return SemicircleEnvs(self, tasks, episodes)

    def describe(self, tasks: SemicircleTasks) -> dict[str, list[Any]]:
        """Returns the angles of the goals. See `DescribedTasks`."""
        return {"angle": [f"{angle:.0f}°" for angle in np.degrees(np.arctan2(*tasks.goal.T[::-1]))]}

    def optimal_return(self, tasks: SemicircleTasks) -> NDArray[np.float64]:
        """Returns the most steps near the goal, `[tasks]`. See `SolvedTasks`."""
        return self._paid_steps(tasks.goal, np.array(self.horizon)).astype(np.float64)

    def mean_optimal_return(self) -> float | None:
        """Returns the mean over all angles; None if the horizon is too short for some. See `KnownOptimum`."""
        first = mean_arrival(self.step_size, self.goal_radius, self.horizon)
        return None if first is None else self.horizon - first + 1

    def bayes_optimal_return(self, episodes: int) -> Bounds | None:
        """Returns the return of a sweep along the half circle, and of knowing the goal. See `KnownBayesOptimum`."""
        known = self.mean_optimal_return()
        if known is None:
            return None
        return Bounds(sweep_return(episodes, self.horizon, self.step_size, self.goal_radius), episodes * known)

    def action_regret(
        self, tasks: SemicircleTasks, observation: NDArray[Any], action: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Returns the number of paid steps that each action loses. See `SolvedTasks`."""
        goal = tasks.goal.reshape(-1, *[1] * (np.ndim(action) - 2), 2)
        offset = goal - np.asarray(observation, np.float64)
        left = self.horizon - np.arange(np.shape(action)[-2]) % self.horizon
        following = offset - self.step_size * np.clip(action, -1.0, 1.0)
        paid = (np.square(following).sum(-1) <= self.goal_radius**2) + self._paid_steps(following, left - 1)
        return np.maximum(self._paid_steps(offset, left) - paid, 0).astype(np.float64)

    def _paid_steps(self, offset: NDArray[np.float64], left: NDArray[np.int64]) -> NDArray[np.int64]:
        """Most of the `left` steps that end near a goal at an offset: the first one that can is max(steps, 1)."""
        first = np.maximum(steps_to_disc(offset, self.step_size, self.goal_radius), 1)
        return np.maximum(left - first + 1, 0)


class SemicircleEnvs(PointEnvs[PointSemicircle, SemicircleTasks]):
    """Points on the plane of the goals."""

    def move(self, state: NDArray[Any], action: NDArray[Any]) -> Moved:
        position = state + self.distribution.step_size * action
        offset = position - self.tasks.goal
        distance = np.einsum("rc,rc->r", offset, offset)
        return position, (distance <= self.distribution.goal_radius**2).astype(np.float64), False
