"""Multi-armed bandits: an episode is one pull, and only the reward tells anything.

The mean of every arm is drawn on its own. Bernoulli arms pay 1 with probability mean ~ U[0, 1] and 0 otherwise;
Gaussian arms pay N(mean, reward_std²) with mean ~ N(0, 1). The observation is a constant: a learner has to be told its
rewards.
(Duan et al. 2016, arXiv:1611.02779, section 3.1.1: Bernoulli arms.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research import rng as random
from research.tasks.base import Split
from research.tasks.rows import RowEnvs
from research.validation import at_least, one_of, positive

_TEST_SEED = 0


class BanditTasks(NamedTuple):
    """Bandits: `mean [tasks, arms]`, the expected reward of each arm."""

    mean: NDArray[np.float64]


@dataclass(frozen=True)
class Bandit:
    """The task distribution.

    Attributes:
        horizon: Pulls of an episode: 1. What makes several is the number of episodes of a trial.
        num_arms: Arms, at least 2.
        reward: Kind of the arms.
        reward_std: Standard deviation of a Gaussian arm's rewards; Bernoulli arms have none to set.
    """

    horizon: int = 1
    num_arms: int = 5
    reward: Literal["bernoulli", "gaussian"] = "bernoulli"
    reward_std: float = 1.0

    def __post_init__(self) -> None:
        if self.horizon != 1:
            raise ValueError(f"horizon={self.horizon!r}: need 1, an episode of a bandit is one pull; for more pulls "
                             "take more episodes of a task")  # fmt: skip
        at_least(self, 2, "num_arms")
        one_of(self, "reward", ("bernoulli", "gaussian"))
        at_least(self, 0, "reward_std")

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Always 0."""
        return gymnasium.spaces.Box(0.0, 0.0, (1,), np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """The arm to pull."""
        return gymnasium.spaces.Discrete(self.num_arms)

    @property
    def split(self) -> Split:
        return Split(True, "bandits of one fixed sequence that training never draws from")

    def sample(self, num_tasks: int, rng: np.random.Generator) -> BanditTasks:
        """Bandits for training."""
        size = (num_tasks, self.num_arms)
        return BanditTasks(rng.random(size) if self.reward == "bernoulli" else rng.normal(size=size))

    def test_tasks(self, num_tasks: int) -> BanditTasks:
        """The first `num_tasks` bandits of a fixed sequence of its own."""
        return self.sample(num_tasks, random.generator(_TEST_SEED, "bandit/test"))

    def make_envs(self, tasks: BanditTasks, episodes: int) -> BanditEnvs:
        """See `TaskDistribution.make_envs`."""
        return BanditEnvs(self, tasks, episodes)

    def optimal_return(self, tasks: BanditTasks) -> NDArray[np.float64]:
        """See `SolvedTasks`: the mean of the best arm."""
        return tasks.mean.max(-1)

    def mean_optimal_return(self) -> float | None:
        """See `KnownOptimum`: k/(k + 1), the mean of the largest of k numbers uniform on [0, 1]."""
        return self.num_arms / (self.num_arms + 1) if self.reward == "bernoulli" else None

    def action_regret(self, tasks: BanditTasks, observation: NDArray[Any], action: NDArray[Any]) -> NDArray[np.float64]:
        """See `SolvedTasks`: the mean of the best arm less that of the arm."""
        gap = tasks.mean.max(-1, keepdims=True) - tasks.mean
        task = np.arange(len(action)).reshape(-1, *[1] * (np.ndim(action) - 1))
        return gap[task, action]


class BanditEnvs(RowEnvs):
    """Pulls, all rows in one NumPy operation."""

    def __init__(self, distribution: Bandit, tasks: BanditTasks, episodes: int):
        positive(dict(episodes=episodes), "episodes")
        super().__init__(distribution, len(tasks.mean) * episodes)
        self._mean = np.repeat(np.asarray(tasks.mean, np.float64), episodes, axis=0).ravel()
        self._first = np.arange(self.num_envs) * distribution.num_arms
        self._std = None if distribution.reward == "bernoulli" else distribution.reward_std

    def _start(self, rows: NDArray[np.bool_]) -> None:
        """Nothing moves."""

    def _move(self, actions: NDArray[np.int64], active: NDArray[np.bool_]) -> NDArray[np.float64]:
        mean = self._mean[self._first + actions]
        if self._std is None:
            return (self.np_random.random(self._drawn_rows)[self._drawn] < mean).astype(np.float64)
        return mean + self._std * self.np_random.standard_normal(self._drawn_rows)[self._drawn]

    def _observe(self) -> NDArray[np.float32]:
        return np.zeros((self.num_envs, 1), np.float32)
