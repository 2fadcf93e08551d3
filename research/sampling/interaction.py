"""Continuous stepping of environments: a row that ends starts again, and a run can stop and resume within an episode.

Environments cannot be saved, but every row is a function of the seed of its reset and of its actions. So a `Moment` has
the actions since the start of the oldest episode that still runs. `Interaction` returns to it by a replay of these
actions, which takes at most `horizon` steps, and checks that the observations are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research import rng
from research.sampling.replay_buffer import Transitions

Act = Callable[[NDArray[Any]], NDArray[np.integer]]
"""Function that maps observations `[rows, obs]` to actions `[rows]`."""


class Moment(NamedTuple):
    """State of an `Interaction`, from which it can be resumed.

    Attributes:
        clock: Number of steps of every row since the start.
        began: `[rows]`, the clock at the start of the current episode of each row.
        actions: `[steps, rows]`, the actions since the earliest of these starts.
        was_reset: `[steps]`, whether an episode of any row began at that step.
        observation: `[rows, obs]`, the current observations.
        running_return: `[rows]`, the sum of rewards of the current episodes.
    """

    clock: int
    began: NDArray[np.int64]
    actions: NDArray[np.int64]
    was_reset: NDArray[np.bool_]
    observation: NDArray[np.floating]
    running_return: NDArray[np.float64]


class Finished(NamedTuple):
    """Episodes that ended: `returns [episodes]` and `lengths [episodes]`."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]


class Interaction:
    """Environments that are stepped continuously, with the record that a `Moment` needs.

    Args:
        envs: Vector environments without autoreset that can reset the rows of `options["reset_mask"]`.
        seed: Seed of the resets; a reset at step t depends on the seed and t only.
        moment: The state to resume from; None starts new episodes.

    Attributes:
        observation: `[rows, obs]`, the current observations.

    Raises:
        RuntimeError: The replay does not lead to `moment`.
    """

    def __init__(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any], seed: int, moment: Moment | None = None):
        self.envs, self._seed = envs, seed
        none, zeros = np.empty(0), np.zeros(envs.num_envs)
        now = moment or Moment(0, zeros.astype(np.int64), none.astype(np.int64), none.astype(bool), none, zeros)
        self._clock, self._began, self._return = now.clock, now.began.copy(), now.running_return.copy()
        self._actions: list[NDArray[Any]] = list(now.actions)
        self._first = now.clock - len(now.actions)
        self._resets = [*(self._first + np.flatnonzero(now.was_reset)), self._began.max()]
        self.observation = self._replay(now)
        if moment is not None and not np.array_equal(self.observation, moment.observation):
            row = int(np.argwhere(self.observation != moment.observation)[0][0])
            raise RuntimeError(
                f"row {row}: after a replay of {len(moment.actions)} steps the observation differs; need environments "
                "whose every row is a function of the seed of its reset and its actions"
            )

    def step(self, actions: NDArray[np.integer]) -> tuple[Transitions, NDArray[np.bool_]]:
        """Steps every row. Returns the transitions `[rows, ...]`, and which rows begin another episode `[rows]`."""
        before = self.observation
        following, reward, terminated, truncated, _ = self.envs.step(actions)
        ended = terminated | truncated
        self._actions.append(actions)
        self._clock += 1
        self._return += reward
        self.observation = following
        if np.count_nonzero(ended):
            self._began[ended] = self._clock
            self._resets.append(self._clock)
            self.observation = self._reset(self._clock, ended)
        return Transitions(before, actions, reward, following, terminated, ended), ended

    def run(self, num_steps: int, act: Act) -> tuple[Transitions, Finished]:
        """Steps every row `num_steps` times, with the actions of `act`.

        Returns:
            The transitions `[time, rows, ...]`, and the episodes that ended.
        """
        steps: list[Transitions] = []
        returns, lengths = [], []
        for _ in range(num_steps):
            began = self._began.copy() if len(self._began) > 1 else int(self._began[0])
            step, ended = self.step(act(self.observation))
            steps.append(step)
            if np.count_nonzero(ended):
                returns.append(self._return[ended])
                lengths.append(self._clock - np.broadcast_to(began, ended.shape)[ended])
                self._return[ended] = 0
        finished: list[Any] = [np.concatenate([np.empty(0, int), *parts]) for parts in (returns, lengths)]
        return Transitions(*map(np.stack, zip(*steps, strict=True))), Finished(*finished)

    def moment(self) -> Moment:
        """Returns the current state, as copies."""
        start = int(self._began.min()) - self._first
        actions = np.array(self._actions[start:], np.int64).reshape(-1, len(self._began))
        was_reset = np.isin(np.arange(self._first + start, self._clock), self._resets)
        return Moment(self._clock, self._began.copy(), actions, was_reset, self.observation.copy(), self._return.copy())

    def _reset(self, clock: int, rows: NDArray[np.bool_]) -> NDArray[Any]:
        seed = int(rng.generator(self._seed, "interaction/reset", clock).integers(2**31))
        observation, _ = self.envs.reset(seed=seed, options={"reset_mask": rows})
        return observation

    def _replay(self, moment: Moment) -> NDArray[Any]:
        everything = np.ones(len(moment.began), bool)
        observation = self._reset(self._first, everything)
        for t, actions in enumerate(moment.actions, self._first):
            if t > self._first and moment.was_reset[t - self._first]:
                # Rows may share a generator, which the reset seeds. If no episode that began here still runs, any rows
                # whose current episode began later can be reset: their present states are not used.
                self._reset(t, moment.began == t if (moment.began == t).any() else moment.began > t)
            observation = self.envs.step(actions)[0]
        if self._clock > self._first and (moment.began == self._clock).any():
            observation = self._reset(self._clock, moment.began == self._clock)
        return observation
