"""Base of environments that are NumPy arrays with one row per episode; a task family adds three functions."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, TypeVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research import rng
from research.sampling.vector import Options, Seed, Started, Stepped, TaskEnvs, per_row, reset_mask
from research.tasks.base import TaskDistribution

D = TypeVar("D", bound=TaskDistribution)
T = TypeVar("T", bound=tuple[Any, ...])

Moved = tuple[NDArray[Any], NDArray[np.float64] | float, NDArray[np.bool_] | np.bool_ | bool]
"""Next state `[rows, ...]`, reward and termination, `[rows]` or one value for all rows."""


class RowEnvs(TaskEnvs, Generic[D, T]):
    """Episodes of `horizon` steps in rows. A family adds `start`, `move` and `observe` as functions of a state array.

    This class keeps the state of rows that are done, counts steps, truncates at the horizon, and checks and clips
    actions, which are Discrete (from 0) or a Box.

    All rows draw from one generator, `np_random`, and for every row at every step, done or not: so the numbers of a
    row do not depend on the resets and actions of others. Rows may be part of a larger batch (`options={"rows":
    Rows(...)}` of a reset with a seed). Draw for that whole batch and take the own rows:

        self.np_random.random(self.batch.total)[self.batch.number]

    Args:
        distribution: The task distribution; it has the spaces and the horizon.
        tasks: A task batch.
        episodes: Rows of each task.

    Attributes:
        distribution: The task distribution.
        tasks: The task of each row: the batch with a leading `[rows]` axis.
        batch: Position of the rows in the larger batch.
        state: State of each row, `[rows, ...]`.

    Raises:
        ValueError: `episodes` is not above 0.
    """

    def __init__(self, distribution: D, tasks: Any, episodes: int):
        self.tasks: T = per_row(tasks, episodes)
        super().__init__(len(self.tasks[0]), distribution.observation_space, distribution.action_space)
        self.distribution = distribution
        self.batch = rng.rows_of(None, self.num_envs)
        self.state: NDArray[Any] = np.empty(0)
        self._horizon = distribution.horizon
        self._steps = np.zeros(self.num_envs, np.int64)
        self._done = np.ones(self.num_envs, bool)

    @abstractmethod
    def start(self) -> NDArray[Any]:
        """Returns the state of every row at the start of an episode, `[rows, ...]`, as a new array."""

    @abstractmethod
    def move(self, state: NDArray[Any], action: NDArray[Any]) -> Moved:
        """Returns the next state, the reward and the termination of every row. The next state is a new array.

        Args:
            state: `[rows, ...]`.
            action: `[rows, ...]`, within the bounds of the action space.
        """

    @abstractmethod
    def observe(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """Returns the observation of every row, `[rows, obs]`, as a new array."""

    def generator(self, seed: int) -> np.random.Generator:
        """Returns the generator of all draws after a reset with `seed`.

        It has a stream of its own, so that rewards are independent of random actions from `action_space.seed(seed)`.
        """
        return rng.generator(seed, "tasks/rows")

    def reset(self, *, seed: Seed = None, options: Options = None) -> Started:
        """Starts an episode in every row, or in those of `options["reset_mask"]`.

        Raises:
            ValueError: The seed is a list, or the mask is not a mask of some rows.
        """
        if isinstance(seed, list):
            raise ValueError(f"seed: got a list of {len(seed)}; need one integer, all rows draw from one generator")
        rows = reset_mask(options, self.num_envs)
        if seed is not None:
            self.np_random, self.batch = self.generator(seed), rng.rows_of(options, self.num_envs)
        self._begin(rows, self.start())
        return self.observe(self.state), {}

    def step(self, actions: NDArray[Any]) -> Stepped:
        """Moves every row that is not done. Box actions beyond their bounds act as the nearest bound.

        Raises:
            ValueError: The actions have another shape, or a Discrete action does not exist.
            gymnasium.error.ResetNeeded: No row was ever reset.
        """
        if not self.state.size:
            raise gymnasium.error.ResetNeeded("step: call reset first")
        state, reward, terminates = self.move(self.state, self._checked(np.asarray(actions)))
        if state is not self.state and np.count_nonzero(self._done):
            np.copyto(state, self.state, where=_column(self._done, state))
        self.state, active = state, ~self._done
        self._steps += active
        terminated = active & terminates
        truncated = active & ~terminated & (self._steps == self._horizon)
        self._done |= terminated | truncated
        return self.observe(self.state), np.where(active, reward, 0.0), terminated, truncated, {}

    def _begin(self, rows: NDArray[np.bool_], start: NDArray[Any]) -> None:
        """Puts the rows of a mask at the state `start [rows, ...]`. Rows that were never reset are done."""
        if not self.state.size:
            self.state = start
        np.copyto(self.state, start, where=_column(rows, start))
        self._steps[rows], self._done[rows] = 0, False

    def _checked(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Returns the actions, clipped to the bounds of a Box."""
        space, rows = self.single_action_space, self.action_space
        if actions.shape != rows.shape:
            raise ValueError(f"actions: got shape {actions.shape}, need {rows.shape}")
        if isinstance(rows, gymnasium.spaces.Box):
            return np.minimum(np.maximum(actions, rows.low), rows.high)  # several times as fast as np.clip
        assert isinstance(space, gymnasium.spaces.Discrete)
        if np.count_nonzero(actions.astype(np.uint64) >= space.n):  # a negative number becomes a large one
            wrong = actions[(actions < 0) | (actions >= space.n)][0]
            raise ValueError(f"actions: got {wrong}, need integers from 0 to {space.n - 1}")
        return actions


class PointEnvs(RowEnvs[D, T]):
    """Points on the plane that start at (0, 0) and observe their position. The state is the position, `[rows, 2]`."""

    def positions(self) -> NDArray[np.float64]:
        """Returns the position of each row, `[rows, 2]`; a copy."""
        return self.state.copy()

    def start(self) -> NDArray[np.float64]:
        return np.zeros((self.num_envs, 2))

    def observe(self, state: NDArray[Any]) -> NDArray[np.float32]:
        return state.astype(np.float32)


def _column(mask: NDArray[np.bool_], state: NDArray[Any]) -> NDArray[np.bool_]:
    """A mask `[rows]` in a shape that broadcasts to `state [rows, ...]`."""
    return mask.reshape(-1, *[1] * (state.ndim - 1))
