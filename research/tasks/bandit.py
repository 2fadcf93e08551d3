"""Multi-armed bandits: an episode is one pull, and only rewards carry information about the task.

The mean reward of each arm is drawn independently. Bernoulli arms pay 1 with probability mean ~ U[0, 1], else 0;
Gaussian arms pay N(mean, reward_std²) with mean ~ N(0, 1). The observation is constant, so a learner needs its rewards
as input.
(Duan et al. 2016, arXiv:1611.02779, section 3.1.1: Bernoulli arms.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research.tasks.base import ContinuousTasks
from research.tasks.rows import Moved, RowEnvs
from research.validation import at_least, choices


class BanditTasks(NamedTuple):
    """Bandits: `mean [tasks, arms]`, the expected reward of each arm."""

    mean: NDArray[np.float64]


@dataclass(frozen=True)
class Bandit(ContinuousTasks):
    """The task distribution.

    Attributes:
        horizon: Number of pulls of an episode: 1. A trial has several pulls because it has several episodes.
        num_arms: Number of arms, at least 2.
        reward: Reward distribution of the arms.
        reward_std: Standard deviation of the rewards of Gaussian arms; ignored for Bernoulli arms.
    """

    test_stream = "bandit/test"
    horizon: int = 1
    num_arms: int = 5
    reward: Literal["bernoulli", "gaussian"] = "bernoulli"
    reward_std: float = 1.0

    def __post_init__(self) -> None:
        if self.horizon != 1:
            raise ValueError(f"horizon={self.horizon!r}: need 1, an episode of a bandit is one pull; for more pulls "
                             "take more episodes of a task")  # fmt: skip
        at_least(self, 2, "num_arms")
        choices(self)
        at_least(self, 0, "reward_std")

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The constant 0."""
        return gymnasium.spaces.Box(0.0, 0.0, (1,), np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """The arm to pull."""
        return gymnasium.spaces.Discrete(self.num_arms)

    def sample(self, num_tasks: int, rng: np.random.Generator) -> BanditTasks:
        size = (num_tasks, self.num_arms)
        return BanditTasks(rng.random(size) if self.reward == "bernoulli" else rng.normal(size=size))

    @property
    def inference_space(self) -> gymnasium.spaces.Box:
        """The mean of each arm. See `InferredTasks`."""
        low, high = (0.0, 1.0) if self.reward == "bernoulli" else (-np.inf, np.inf)
        return gymnasium.spaces.Box(low, high, (self.num_arms,), np.float64)

    def inference_targets(self, tasks: BanditTasks) -> NDArray[np.float64]:
        return np.array(tasks.mean, np.float64)

    def make_envs(self, tasks: BanditTasks, episodes: int) -> BanditEnvs:
        return BanditEnvs(self, tasks, episodes)

    def optimal_return(self, tasks: BanditTasks) -> NDArray[np.float64]:
        """Returns the mean of the best arm, `[tasks]`. See `SolvedTasks`."""
        return tasks.mean.max(-1)

    def mean_optimal_return(self) -> float | None:
        """Returns k/(k + 1), the mean of the largest of k numbers uniform on [0, 1]; None for Gaussian arms."""
        return self.num_arms / (self.num_arms + 1) if self.reward == "bernoulli" else None

    def action_regret(self, tasks: BanditTasks, observation: NDArray[Any], action: NDArray[Any]) -> NDArray[np.float64]:
        """Returns the mean of the best arm minus that of the arm pulled, `[tasks, ..., time]`. See `SolvedTasks`."""
        gap = tasks.mean.max(-1, keepdims=True) - tasks.mean
        task = np.arange(len(action)).reshape(-1, *[1] * (np.ndim(action) - 1))
        return gap[task, action]


class BanditEnvs(RowEnvs[Bandit, BanditTasks]):
    """Rows of bandits. The state is constant and carries no information."""

    def __init__(self, distribution: Bandit, tasks: BanditTasks, episodes: int):
        super().__init__(distribution, tasks, episodes)
        self._mean, self._first = self.tasks.mean.ravel(), np.arange(self.num_envs) * distribution.num_arms
        self._std = None if distribution.reward == "bernoulli" else distribution.reward_std
        self.state = np.zeros(self.num_envs)

    def start(self) -> NDArray[np.float64]:
        return self.state

    def move(self, state: NDArray[Any], action: NDArray[Any]) -> Moved:
        mean, batch = self._mean[self._first + action], self.batch
        if self._std is None:
            return state, (self.np_random.random(batch.total)[batch.number] < mean).astype(np.float64), False
        return state, mean + self._std * self.np_random.standard_normal(batch.total)[batch.number], False

    def observe(self, state: NDArray[Any]) -> NDArray[np.float32]:
        return np.zeros((self.num_envs, 1), np.float32)
