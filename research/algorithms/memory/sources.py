"""Source algorithms: learners that start from nothing on every task, whose learning histories are data.

    q_learning    Q(s, a) ← Q(s, a) + α [r + γ max_a' Q(s', a') − Q(s, a)] with ε-greedy actions, ties at random
                  (Watkins & Dayan 1992); the end by the horizon bootstraps, a termination does not
    ucb1          the arm with the greatest μ_i + c √(2 ln t / T_i) (Auer et al. 2002), see `oracles/bandits.py`
    thompson      the best arm of a bandit drawn from the posterior (Thompson 1933)

Q-learning has a table of the observations that it has met. The other two are for Bernoulli bandits. All tasks are
played at once: row i of every array belongs to learner i, and what a learner draws is row i of what is drawn for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from research.algorithms.schedules import interpolate
from research.oracles import bandits
from research.sampling.histories import Histories, make_histories, num_discrete_actions, state_index, state_table
from research.spaces import is_constant
from research.tasks import TaskDistribution
from research.validation import at_least, choices, in_unit_interval, positive_fraction, refuse_unread

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_MOST_STATES = 4096


@dataclass(frozen=True)
class SourceConfig:
    """Settings of the source algorithm.

    Attributes:
        kind: `"q_learning"`, whose table has at most 4096 observations if these are not one-hot; on Bernoulli bandits
            also `"ucb1"` or `"thompson"`.
        num_episodes: Episodes of a learning history.
        learning_rate: α.
        discount: γ.
        initial_value: Q of every state and action at the start. More than what can be earned makes the learner try
            every action.
        epsilon: Probability of a random action in the first episode.
        final_epsilon: That probability in the last episode of a history and in later ones; it changes linearly.
        bonus: c of UCB1.
    """

    kind: Literal["q_learning", "ucb1", "thompson"] = "q_learning"
    num_episodes: int = 100
    learning_rate: float = 0.5
    discount: float = 0.9
    initial_value: float = 0.0
    epsilon: float = 0.3
    final_epsilon: float = 0.0
    bonus: float = 0.2

    def __post_init__(self) -> None:
        choices(self)
        at_least(self, 1, "num_episodes")
        at_least(self, 0, "bonus")
        in_unit_interval(self, "discount", "epsilon", "final_epsilon")
        positive_fraction(self, "learning_rate")
        unread = {"q_learning": ("bonus",), "ucb1": _OF_TABLES, "thompson": (*_OF_TABLES, "bonus")}
        refuse_unread(self, unread[self.kind], f"source.kind={self.kind!r} does not read it", prefix="source.")

    def check_tasks(self, tasks: TaskDistribution) -> None:
        """Raises ValueError if the source cannot learn these tasks."""
        if not num_discrete_actions(tasks.action_space):
            raise ValueError(f"source.kind={self.kind!r}: it is for discrete actions, got {tasks.action_space}; need a "
                             "file of histories (histories=...)")  # fmt: skip
        if self.kind != "q_learning" and not (is_constant(tasks.observation_space) and tasks.horizon == 1):
            raise ValueError(f"source.kind={self.kind!r}: it is for bandits, whose episodes are one pull and whose "
                             "observation never changes; need 'q_learning'")  # fmt: skip
        reward = getattr(tasks, "reward", "bernoulli")  # other tasks may have none: `learn` checks what they pay
        if self.kind != "q_learning" and reward != "bernoulli":
            raise ValueError(f"source.kind={self.kind!r}: it is for rewards 0 and 1, got task_args.reward={reward!r}; "
                             "need task_args.reward='bernoulli', or source.kind='q_learning'")  # fmt: skip

    def epsilons(self, episode: Ints) -> Floats:
        """Returns ε in episodes of these indices."""
        progress = np.minimum(1.0, episode / max(1, self.num_episodes - 1))
        return np.asarray(interpolate(self.epsilon, self.final_epsilon, progress))


_OF_TABLES = ("learning_rate", "discount", "initial_value", "epsilon", "final_epsilon")


class Learner(Protocol):
    """A learner on every task at once."""

    def act(self, state: Ints, episode: Ints) -> Ints:
        """Returns an action of each row, `[rows]`.

        Args:
            state: Index of the observation, `[rows]`.
            episode: Index of the episode, `[rows]`.
        """

    def learn(self, state: Ints, action: Ints, reward: Floats, following: Ints, terminated: NDArray[np.bool_]) -> None:
        """Learns from a transition of each row, all `[rows]`."""


class QLearning:
    """Tabular Q-learning, see the module.

    Args:
        config: The settings.
        rows: Number of learners.
        num_actions: Number of actions.
        draws: Source of random actions and ties.
    """

    def __init__(self, config: SourceConfig, rows: int, num_actions: int, draws: np.random.Generator):
        self.config, self.draws, self.rows = config, draws, np.arange(rows)
        self.values = np.full((rows, 1, num_actions), config.initial_value)

    def act(self, state: Ints, episode: Ints) -> Ints:
        self._make_room(int(state.max()))
        count, num_actions = len(self.rows), self.values.shape[2]
        explores = self.draws.random(count) < self.config.epsilons(episode)
        at_random = self.draws.integers(num_actions, size=count)
        tie = 1.0 + self.draws.random((count, num_actions))
        values = self.values[self.rows, state]
        greedy = np.where(values == values.max(1, keepdims=True), tie, 0.0).argmax(1)
        return np.where(explores, at_random, greedy)

    def learn(self, state: Ints, action: Ints, reward: Floats, following: Ints, terminated: NDArray[np.bool_]) -> None:
        self._make_room(int(following.max()))
        best = self.values[self.rows, following].max(1)
        target = reward + self.config.discount * np.where(terminated, 0.0, best)
        index = self.rows, state, action
        self.values[index] += self.config.learning_rate * (target - self.values[index])

    def _make_room(self, state: int) -> None:
        """Adds states to the table up to that of an index."""
        rows, states, actions = self.values.shape
        if state >= states:
            more = np.full((rows, max(2 * states, state + 1) - states, actions), self.config.initial_value)
            self.values = np.concatenate([self.values, more], 1)


class BanditLearner:
    """A classical policy of Bernoulli bandits.

    Args:
        policy: The policy.
        rows: Number of bandits.
        num_arms: Number of arms.
        draws: Source of the policy's random choices.
    """

    def __init__(self, policy: bandits.Policy, rows: int, num_arms: int, draws: np.random.Generator):
        self.policy, self.draws, self.rows, self.pulls = policy, draws, np.arange(rows), 0
        self.counts = bandits.Counts(np.zeros((rows, num_arms), np.int64), np.zeros((rows, num_arms), np.int64))

    def act(self, state: Ints, episode: Ints) -> Ints:
        return self.policy(self.counts, self.pulls, self.draws)

    def learn(self, state: Ints, action: Ints, reward: Floats, following: Ints, terminated: NDArray[np.bool_]) -> None:
        is_success = reward == 1
        if not (is_success | (reward == 0)).all():
            wrong = float(reward[~is_success & (reward != 0)][0])
            raise ValueError(f"source.kind: UCB1 and Thompson sampling are for rewards 0 and 1, got {wrong:g}; need "
                             "'q_learning'")  # fmt: skip
        self.counts.success[self.rows, action] += is_success
        self.counts.failure[self.rows, action] += ~is_success
        self.pulls += 1


def make_learner(config: SourceConfig, rows: int, num_actions: int, draws: np.random.Generator) -> Learner:
    """Returns the learners of the settings. The arguments are those of `QLearning`."""
    if config.kind == "q_learning":
        return QLearning(config, rows, num_actions, draws)
    policy = bandits.thompson if config.kind == "thompson" else bandits.ucb1(config.bonus)
    return BanditLearner(policy, rows, num_actions, draws)


def play(
    config: SourceConfig,
    distribution: TaskDistribution,
    tasks: Any,
    runs: int,
    episodes: int,
    draws: np.random.Generator,
) -> Histories:
    """Returns the histories of `runs` learners on each task, those of a task next to each other.

    Fewer episodes are the first ones of more.

    Args:
        config: The settings of the source.
        distribution: The task distribution.
        tasks: A task batch.
        runs: Learners of each task, each with episodes of its own.
        episodes: Episodes of each learner.
        draws: Source of all random numbers.
    """
    envs = distribution.make_envs(tasks, runs)
    rows = envs.num_envs
    states = _States(distribution.observation_space)
    learner = make_learner(config, rows, num_discrete_actions(distribution.action_space), draws)
    record = _Record((rows, episodes, distribution.horizon), states)
    observation, _ = envs.reset(seed=int(draws.integers(2**31)))
    state = states.index(observation)
    while record.is_open:
        action = learner.act(state, record.episode)
        reached, reward, terminated, truncated, _ = envs.step(action)
        following, reward = states.index(reached), np.asarray(reward, np.float64)
        learner.learn(state, action, reward, following, terminated)
        ended = terminated | truncated
        record.add(state, observation, action, reward, ended)
        state, observation = following, reached
        if ended.any():
            observation, _ = envs.reset(options={"reset_mask": ended})
            state = states.index(observation)
    envs.close()
    return record.histories()


class _States:
    """Numbers of observations: their index in the table of their space, or in the order in which they were met."""

    def __init__(self, space: Any):
        self.table, self.size = state_table(space), int(np.prod(space.shape))
        self._known: dict[bytes, int] = {}

    def index(self, observation: NDArray[Any]) -> Ints:
        """Returns the number of each observation, `[rows]`. Raises ValueError if there are too many for a table."""
        if self.table is not None:
            return state_index(self.table, observation)
        unique, inverse = np.unique(observation, axis=0, return_inverse=True)
        numbers = [self._known.setdefault(row.tobytes(), len(self._known)) for row in unique]
        if len(self._known) > _MOST_STATES:
            raise ValueError(f"source.kind='q_learning': it learns a table, and met more than {_MOST_STATES} "
                             "different observations; need a file of histories (histories=...)")  # fmt: skip
        return np.array(numbers, np.int64)[inverse.reshape(-1)]


class _Record:
    """The episodes so far, and the place in them of each row."""

    def __init__(self, size: tuple[int, int, int], states: _States):
        self.is_numbered = states.table is not None
        seen = np.zeros(size, np.int64) if self.is_numbered else np.zeros((*size, states.size), np.float32)
        self._fields = seen, np.zeros(size, np.int64), np.zeros(size)
        self._length = np.zeros(size[:2], np.int64)
        self.episode, self._step = np.zeros(size[0], np.int64), np.zeros(size[0], np.int64)

    @property
    def is_open(self) -> bool:
        """Whether a row has not ended its last episode."""
        return int(self.episode.min()) < self._length.shape[1]

    def add(
        self, state: Ints, observation: NDArray[Any], action: Ints, reward: Floats, ended: NDArray[np.bool_]
    ) -> None:
        """Records a step of every row that has not ended its last episode."""
        row = np.flatnonzero(self.episode < self._length.shape[1])
        place = row, self.episode[row], self._step[row]
        seen = state if self.is_numbered else observation
        for field, values in zip(self._fields, (seen, action, reward), strict=True):
            field[place] = values[row]
        self._step += 1
        self._length[place[:2]] = self._step[row]
        self.episode += ended
        self._step[ended] = 0

    def histories(self) -> Histories:
        """Returns the histories."""
        return make_histories(*self._fields, self._length)
