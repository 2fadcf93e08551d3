"""Environments that are arrays with a row for each episode: what tasks with discrete actions and one start share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from research import rng as random
from research.tasks.base import TaskDistribution


class RowEnvs(gymnasium.vector.VectorEnv[NDArray[np.float32], NDArray[Any], NDArray[Any]], ABC):
    """Episodes of `horizon` steps in rows that one NumPy operation moves.

    Autoreset is off: a row that is done stands still with reward 0 until it is reset, and
    `reset(options={"reset_mask": rows})` resets some rows. All rows draw from one generator, at every step and whether
    they are done or not, so that what a row sees does not depend on the resets and actions of others.

    A subclass draws `values = draw(size=self._drawn_rows)` and uses `values[self._drawn]`: rows that are part of a
    larger batch (`options={"rows": Rows(...)}` of a reset with a seed) take their part of what is drawn for all of it.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - Gymnasium declares it so

    def __init__(self, distribution: TaskDistribution, num_envs: int):
        assert isinstance(distribution.action_space, gymnasium.spaces.Discrete)
        self.num_envs = num_envs
        self.single_observation_space = distribution.observation_space
        self.single_action_space = distribution.action_space
        batch = gymnasium.vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, num_envs)
        self.action_space = batch(self.single_action_space, num_envs)
        self._num_actions = int(distribution.action_space.n)
        self._horizon = distribution.horizon
        self._steps = np.zeros(num_envs, np.int64)
        self._done = np.zeros(num_envs, bool)
        self._drawn, self._drawn_rows = random.rows_of(None, num_envs)

    @abstractmethod
    def _start(self, rows: NDArray[np.bool_]) -> None:
        """Puts these rows at the start of an episode."""

    @abstractmethod
    def _move(self, actions: NDArray[np.int64], active: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Moves the active rows. Returns rewards `[rows]`; those of other rows are ignored."""

    def _has_arrived(self) -> NDArray[np.bool_]:
        """Which rows are where an episode terminates, `[rows]`: none, unless a task says otherwise."""
        return np.zeros(self.num_envs, bool)

    @abstractmethod
    def _observe(self) -> NDArray[np.float32]:
        """Observations `[rows, obs]`, a new array."""

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Puts every row, or those of `options["reset_mask"]`, back to the start. A seed is that of all rows' draws."""
        if isinstance(seed, list):
            raise ValueError(f"seed: got a list of {len(seed)}; need one integer, all rows draw from one generator")
        super().reset(options=options)
        if seed is not None:
            # A stream of its own: whoever seeds the action space alike would else draw what decides on the rewards.
            self.np_random = random.generator(seed, "tasks/rows")
            self._drawn, self._drawn_rows = random.rows_of(options, self.num_envs)
        rows = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if getattr(rows, "shape", None) != (self.num_envs,) or rows.dtype != np.bool_:
            raise ValueError(f"options['reset_mask']={rows!r}: need {self.num_envs} booleans")
        self._start(rows)
        self._steps[rows], self._done[rows] = 0, False
        return self._observe(), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Moves every row that is not done. Raises ValueError for actions that do not exist."""
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,):
            raise ValueError(f"actions: got shape {actions.shape}, need {(self.num_envs,)}")
        if actions.min() < 0 or actions.max() >= self._num_actions:
            wrong = actions[(actions < 0) | (actions >= self._num_actions)][0]
            raise ValueError(f"actions: got {wrong}, need integers from 0 to {self._num_actions - 1}")
        active = ~self._done
        reward = np.where(active, self._move(actions, active), 0.0)
        self._steps += active
        terminated = active & self._has_arrived()
        truncated = active & ~terminated & (self._steps == self._horizon)
        self._done |= terminated | truncated
        return self._observe(), reward, terminated, truncated, {}
