"""Random tabular MDPs with unknown transitions and rewards.

P(·|s, a) ~ Dirichlet(1, …, 1), mean reward of (s, a) ~ N(1, 1), rewards ~ N(mean, reward_std²); every episode starts in
state 0 and ends at the horizon. The observation is the one-hot state, without the time step.
(Duan et al. 2016, arXiv:1611.02779, section 3.1.2, after Osband, Russo & Van Roy 2013, arXiv:1306.0940.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research.oracles.planning import optimal_action_values
from research.rng import generator
from research.spaces import OneHot
from research.tasks.base import ContinuousTasks
from research.tasks.rows import Moved, RowEnvs
from research.validation import at_least, positive

_REWARD_MEAN, _REWARD_SPREAD = 1.0, 1.0


class TabularTasks(NamedTuple):
    """A batch of tabular MDPs.

    Attributes:
        transition: `[tasks, states, actions, states]`, P(s'|s, a).
        reward: `[tasks, states, actions]`, the mean reward.
    """

    transition: NDArray[np.float64]
    reward: NDArray[np.float64]


@dataclass(frozen=True)
class TabularMDP(ContinuousTasks):
    """The task distribution.

    Attributes:
        horizon: Number of steps of an episode.
        num_states: Number of states, at least 2.
        num_actions: Number of actions, at least 2.
        reward_std: Standard deviation of the Gaussian noise on rewards.
    """

    test_stream = "tabular_mdp/test"
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
        """The one-hot state."""
        return OneHot(self.num_states)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        return gymnasium.spaces.Discrete(self.num_actions)

    def sample(self, num_tasks: int, rng: np.random.Generator) -> TabularTasks:
        return self._draw(num_tasks, rng, rng)

    def test_tasks(self, num_tasks: int) -> TabularTasks:
        return self._sequence(num_tasks, self.test_stream)

    def validation_tasks(self, num_tasks: int) -> TabularTasks:
        return self._sequence(num_tasks, f"{self.test_stream}/validation")

    @property
    def inference_space(self) -> gymnasium.spaces.Box:
        """The transition probabilities, then the mean rewards, of all states and actions. See `InferredTasks`."""
        pairs = self.num_states * self.num_actions
        low = np.concatenate([np.zeros(pairs * self.num_states), np.full(pairs, -np.inf)])
        high = np.concatenate([np.ones(pairs * self.num_states), np.full(pairs, np.inf)])
        return gymnasium.spaces.Box(low, high, dtype=np.float64)

    def inference_targets(self, tasks: TabularTasks) -> NDArray[np.float64]:
        return np.concatenate([np.reshape(field, (len(field), -1)) for field in tasks], 1)

    def make_envs(self, tasks: TabularTasks, episodes: int) -> TabularEnvs:
        return TabularEnvs(self, tasks, episodes)

    def optimal_return(self, tasks: TabularTasks) -> NDArray[np.float64]:
        """Returns the optimal value of state 0 at time 0, `[tasks]`. See `SolvedTasks`."""
        return optimal_action_values(tasks.transition, tasks.reward, self.horizon)[:, 0, 0].max(-1)

    def action_regret(
        self, tasks: TabularTasks, observation: NDArray[Any], action: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Returns V*_t(s) − Q*_t(s, a), `[tasks, ..., time]`. See `SolvedTasks`."""
        values = optimal_action_values(tasks.transition, tasks.reward, self.horizon)
        gap = values.max(-1, keepdims=True) - values
        task = np.arange(len(action)).reshape(-1, *[1] * (np.ndim(action) - 1))
        time = np.arange(np.shape(action)[-1]) % self.horizon
        return gap[task, time, np.argmax(observation, -1), action]

    def _sequence(self, num_tasks: int, stream: str) -> TabularTasks:
        # Two streams: with one, the first tasks of more would not be those of fewer.
        return self._draw(num_tasks, *(generator(0, f"{stream}/{name}") for name in ("transition", "reward")))

    def _draw(self, num_tasks: int, moves: np.random.Generator, rewards: np.random.Generator) -> TabularTasks:
        size = (num_tasks, self.num_states, self.num_actions)
        transition = moves.dirichlet(np.ones(self.num_states), size)
        return TabularTasks(transition, rewards.normal(_REWARD_MEAN, _REWARD_SPREAD, size))


class _Pairs(NamedTuple):
    """Index of the first (state, action) pair of each task in an array of the pairs of all tasks, `[tasks]`."""

    first: NDArray[np.int64]


class TabularEnvs(RowEnvs[TabularMDP, _Pairs]):
    """Episodes in tabular MDPs. The state is the index of the MDP's state, `[rows]`."""

    def __init__(self, distribution: TabularMDP, tasks: TabularTasks, episodes: int):
        num_tasks, states, actions = tasks.reward.shape
        super().__init__(distribution, _Pairs(np.arange(num_tasks) * states * actions), episodes)
        self._reward = np.array(tasks.reward, np.float64).ravel()
        # Without the last column, which is 1 up to rounding: no draw is above the last state.
        self._cumulative = np.cumsum(tasks.transition, -1)[..., :-1].reshape(-1, states - 1)
        self._one_hot = np.eye(states, dtype=np.float32)
        self._num_actions, self._std = actions, distribution.reward_std

    def start(self) -> NDArray[np.int64]:
        return np.zeros(self.num_envs, np.int64)

    def move(self, state: NDArray[Any], action: NDArray[Any]) -> Moved:
        pair, batch = self.tasks.first + state * self._num_actions + action, self.batch
        noise = self.np_random.standard_normal(batch.total)[batch.number]
        passed = self.np_random.random((batch.total, 1))[batch.number] >= self._cumulative[pair]
        return np.count_nonzero(passed, 1), self._reward[pair] + self._std * noise, False

    def observe(self, state: NDArray[Any]) -> NDArray[np.float32]:
        return self._one_hot[state]
