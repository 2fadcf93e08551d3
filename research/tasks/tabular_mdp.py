"""Random tabular MDPs: neither the transitions nor the rewards are known.

P(·|s, a) ~ Dirichlet(1, …, 1), mean reward of (s, a) ~ N(1, 1), rewards ~ N(mean, reward_std²), every episode starts in
state 0 and ends at the horizon. The observation is the state, one-hot; it does not hold the time.
(Duan et al. 2016, arXiv:1611.02779, section 3.1.2, after Osband, Russo & Van Roy 2013, arXiv:1306.0940.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research import rng as random
from research.oracles.planning import optimal_action_values
from research.tasks.base import Split
from research.tasks.rows import RowEnvs
from research.validation import at_least, positive

_TEST_SEED = 0
_REWARD_MEAN, _REWARD_SPREAD = 1.0, 1.0


class TabularTasks(NamedTuple):
    """Tabular MDPs.

    Attributes:
        transition: `[tasks, states, actions, states]`, P(s'|s, a).
        reward: `[tasks, states, actions]`, the mean reward.
    """

    transition: NDArray[np.float64]
    reward: NDArray[np.float64]


@dataclass(frozen=True)
class TabularMDP:
    """The task distribution.

    Attributes:
        horizon: Steps of an episode.
        num_states: States, at least 2.
        num_actions: Actions, at least 2.
        reward_std: Standard deviation of the normal noise on rewards.
    """

    horizon: int = 10
    num_states: int = 10
    num_actions: int = 5
    reward_std: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "horizon")
        at_least(self, 2, "num_states", "num_actions")
        at_least(self, 0, "reward_std")

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The state, one-hot."""
        return gymnasium.spaces.Box(0.0, 1.0, (self.num_states,), np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        return gymnasium.spaces.Discrete(self.num_actions)

    @property
    def split(self) -> Split:
        return Split(True, "MDPs of one fixed sequence that training never draws from")

    def sample(self, num_tasks: int, rng: np.random.Generator) -> TabularTasks:
        """MDPs for training."""
        return self._draw(num_tasks, rng, rng)

    def test_tasks(self, num_tasks: int) -> TabularTasks:
        """The first `num_tasks` MDPs of a fixed sequence of its own."""
        streams = ("tabular_mdp/test/transition", "tabular_mdp/test/reward")
        return self._draw(num_tasks, *(random.generator(_TEST_SEED, stream) for stream in streams))

    def make_envs(self, tasks: TabularTasks, episodes: int) -> TabularEnvs:
        """See `TaskDistribution.make_envs`."""
        return TabularEnvs(self, tasks, episodes)

    def optimal_return(self, tasks: TabularTasks) -> NDArray[np.float64]:
        """See `SolvedTasks`. The best policy may depend on the time."""
        return optimal_action_values(tasks.transition, tasks.reward, self.horizon)[:, 0, 0].max(-1)

    def action_regret(
        self, tasks: TabularTasks, observation: NDArray[Any], action: NDArray[Any]
    ) -> NDArray[np.float64]:
        """See `SolvedTasks`."""
        values = optimal_action_values(tasks.transition, tasks.reward, self.horizon)
        gap = values.max(-1, keepdims=True) - values
        task = np.arange(len(action)).reshape(-1, *[1] * (np.ndim(action) - 1))
        time = np.arange(np.shape(action)[-1]) % self.horizon
        return gap[task, time, np.argmax(observation, -1), action]

    def _draw(self, num_tasks: int, moves: np.random.Generator, rewards: np.random.Generator) -> TabularTasks:
        size = (num_tasks, self.num_states, self.num_actions)
        transition = moves.dirichlet(np.ones(self.num_states), size)
        return TabularTasks(transition, rewards.normal(_REWARD_MEAN, _REWARD_SPREAD, size))


class TabularEnvs(RowEnvs):
    """Walks through tabular MDPs, all rows in one NumPy operation."""

    def __init__(self, distribution: TabularMDP, tasks: TabularTasks, episodes: int):
        positive(dict(episodes=episodes), "episodes")
        num_tasks, states, actions = tasks.reward.shape
        super().__init__(distribution, num_tasks * episodes)
        self._reward = np.array(tasks.reward, np.float64).ravel()
        # Without the last column, which is 1 up to rounding: no draw lands beyond the last state.
        self._cumulative = np.cumsum(tasks.transition, -1)[..., :-1].reshape(-1, states - 1)
        self._first = np.repeat(np.arange(num_tasks) * states * actions, episodes)
        self._state = np.zeros(self.num_envs, np.int64)
        self._rows = np.arange(self.num_envs)
        self._num_states, self._std = states, distribution.reward_std

    def _start(self, rows: NDArray[np.bool_]) -> None:
        self._state[rows] = 0

    def _move(self, actions: NDArray[np.int64], active: NDArray[np.bool_]) -> NDArray[np.float64]:
        pair = self._first + self._state * self._num_actions + actions
        noise = self.np_random.standard_normal(self._drawn_rows)[self._drawn]
        passed = self.np_random.random((self._drawn_rows, 1))[self._drawn] >= self._cumulative[pair]
        self._state = np.where(active, np.count_nonzero(passed, 1), self._state)
        return self._reward[pair] + self._std * noise

    def _observe(self) -> NDArray[np.float32]:
        observation = np.zeros((self.num_envs, self._num_states), np.float32)
        observation[self._rows, self._state] = 1.0
        return observation
