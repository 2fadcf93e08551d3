"""2D navigation: a point walks to a goal that it is not shown.

Start (0, 0), goal uniform in a square, reward −‖position − goal‖₂ after each move, done within `done_radius` of the
goal on both axes. An action in [-1, 1]² moves the point by `step_size` times itself.
(Finn et al. 2017, arXiv:1703.03400, section 5.3.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from research import rng as random
from research.tasks.base import Split
from research.validation import positive

_TEST_SEED = 0


class NavigationTasks(NamedTuple):
    """Tasks of 2D navigation: `goal [tasks, 2]`."""

    goal: NDArray[np.float64]


@dataclass(frozen=True)
class Navigation2D:
    """The task distribution.

    Attributes:
        horizon: Steps of an episode.
        goal_range: Goals are uniform in [-goal_range, goal_range]².
        step_size: Distance per step and axis of an action of 1.
        done_radius: An episode ends when both axes are nearer to the goal than this.
    """

    horizon: int = 100
    goal_range: float = 0.5
    step_size: float = 0.1
    done_radius: float = 0.01

    def __post_init__(self) -> None:
        positive(self, "horizon", "goal_range", "step_size", "done_radius")

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The position; walks are not fenced in."""
        return gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    @property
    def split(self) -> Split:
        return Split(True, "goals of one fixed sequence that training never draws from")

    def sample(self, num_tasks: int, rng: np.random.Generator) -> NavigationTasks:
        """Goals for training."""
        return NavigationTasks(rng.uniform(-self.goal_range, self.goal_range, (num_tasks, 2)))

    def test_tasks(self, num_tasks: int) -> NavigationTasks:
        """The first `num_tasks` goals of a fixed sequence of its own."""
        return self.sample(num_tasks, random.generator(_TEST_SEED, "navigation_2d/test"))

    def make_envs(self, tasks: NavigationTasks, episodes: int) -> NavigationEnvs:
        """See `TaskDistribution.make_envs`."""
        return NavigationEnvs(self, tasks, episodes)


class NavigationEnvs(gymnasium.vector.VectorEnv[NDArray[np.float32], NDArray[Any], NDArray[Any]]):
    """Walks on the plane, all rows in one NumPy operation.

    A row that is done stands still with reward 0 until it is reset (autoreset is off, `reset(options={"reset_mask":
    rows})` resets some rows). The start is the same for every episode, so nothing here is random.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - Gymnasium declares it so

    def __init__(self, distribution: Navigation2D, tasks: NavigationTasks, episodes: int):
        positive(dict(episodes=episodes), "episodes")
        self.distribution = distribution
        self.num_envs = len(tasks.goal) * episodes
        self.single_observation_space = distribution.observation_space
        self.single_action_space = distribution.action_space
        batch = gymnasium.vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, self.num_envs)
        self.action_space = batch(self.single_action_space, self.num_envs)
        self._goal = np.repeat(np.asarray(tasks.goal, np.float64), episodes, axis=0)
        self._position = np.zeros((self.num_envs, 2))
        self._steps = np.zeros(self.num_envs, np.int64)
        self._done = np.zeros(self.num_envs, bool)

    def positions(self) -> NDArray[np.float64]:
        """Where each row is, `[rows, 2]`."""
        return self._position.copy()

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Puts every row, or those of `options["reset_mask"]`, back to the start."""
        super().reset(seed=seed if isinstance(seed, int) else None, options=options)
        rows = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self._position[rows], self._steps[rows], self._done[rows] = 0.0, 0, False
        return self._position.astype(np.float32), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Moves every row that is not done. Actions beyond [-1, 1] act as the nearest bound."""
        active = ~self._done
        self._position += self.distribution.step_size * np.clip(actions, -1.0, 1.0) * active[:, None]
        self._steps += active
        offset = self._position - self._goal
        reward = -np.sqrt(np.einsum("rc,rc->r", offset, offset)) * active
        terminated = (np.abs(offset) < self.distribution.done_radius).all(1) & active
        truncated = (self._steps >= self.distribution.horizon) & active & ~terminated
        self._done |= terminated | truncated
        return self._position.astype(np.float32), reward, terminated, truncated, {}
