"""Replay buffer: the last transitions of environments, in NumPy, as one ring buffer per row.

Draws are uniform, or in proportion to priorities (Schaul et al. 2016, arXiv:1511.05952, section 3.3):

    P(i) = p_i^a / Σ_j p_j^a,   w_i = (N P(i))^−b / max_j w_j,   p_i = |δ_i| + 1e-6

with TD errors δ; new transitions get the largest p so far. Returns over n steps are computed when a transition is
drawn, up to the end of its episode or of the stored transitions of its row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.sampling.sum_tree import SumTree
from research.validation import at_least, in_unit_interval

_LEAST_PRIORITY = 1e-6


class Transitions(NamedTuple):
    """Transitions in the order of time, `[time, rows, ...]`; flat in a buffer, `[transitions, ...]`.

    Attributes:
        observation: `[..., obs]`, before the action.
        action: `[...]`, integers.
        reward: `[...]`.
        next_observation: `[..., obs]`, after the action, also at the end of an episode.
        terminated: `[...]`, whether the task ended, so that no value is bootstrapped.
        ended: `[...]`, whether the episode ended, by termination or truncation.
    """

    observation: NDArray[np.floating]
    action: NDArray[np.integer]
    reward: NDArray[np.floating]
    next_observation: NDArray[np.floating]
    terminated: NDArray[np.bool_]
    ended: NDArray[np.bool_]


class Drawn(NamedTuple):
    """A minibatch; `shape` is the shape of its indices.

    Attributes:
        observation: `[*shape, obs]`, before the action.
        action: `[*shape]`, integers.
        reward: `[*shape]`, the n-step return Σ_k γᵏ r_{t+k}.
        bootstrap: `[*shape]`, the factor γⁿ of the value after the n steps; 0 if the task ended within them.
        next_observation: `[*shape, obs]`, after the n steps.
        weight: `[*shape]`, the importance weight w; ones for uniform draws.
    """

    observation: NDArray[np.floating]
    action: NDArray[np.integer]
    reward: NDArray[np.floating]
    bootstrap: NDArray[np.floating]
    next_observation: NDArray[np.floating]
    weight: NDArray[np.floating]


class Contents(NamedTuple):
    """Contents of a buffer, from which another buffer continues as the first one would have.

    Attributes:
        transitions: `[filled, ...]`, in the order of the ring buffers.
        num_added: Number of time steps that were added since the start.
        priority: `[filled]`, p^a; empty for uniform draws.
        largest: The largest p^a since the start, which new transitions get.
    """

    transitions: Transitions
    num_added: int
    priority: NDArray[np.float64]
    largest: float


class ReplayBuffer:
    """The last transitions of `num_rows` environments.

    Args:
        capacity: Number of transitions of all rows together; rounded down to a multiple of `num_rows`.
        num_rows: Number of rows of the environments.
        like: An observation with the shape and the dtype of all others.
        num_actions: Number of actions, which sets the integer type of the stored actions.
        num_tasks: Number of tasks of the rows; the rows of a task are adjacent.
        priority_exponent: a, from 0 (uniform draws) to 1.

    Raises:
        ValueError: `capacity` is below `num_rows`, or the exponent is not in [0, 1].
    """

    def __init__(
        self,
        capacity: int,
        num_rows: int,
        like: NDArray[np.floating],
        num_actions: int,
        num_tasks: int = 1,
        priority_exponent: float = 0.0,
    ):
        in_unit_interval(dict(priority_exponent=priority_exponent), "priority_exponent")
        at_least(dict(buffer_size=capacity), num_rows, "buffer_size")
        self.num_slots, self.num_rows, self.num_tasks = capacity // num_rows, num_rows, num_tasks
        self.num_added, self.exponent = 0, priority_exponent
        size = self.num_slots * num_rows
        action = np.empty(size, np.min_scalar_type(num_actions - 1))
        flags = [np.empty(size, bool) for _ in range(2)]
        seen = [np.empty((size, *like.shape), like.dtype) for _ in range(2)]
        self._data = Transitions(seen[0], action, np.empty(size, np.float32), seen[1], *flags)
        self._tree = SumTree(size) if priority_exponent else None
        self._largest = 1.0

    def __len__(self) -> int:
        """Number of stored transitions."""
        return min(self.num_added, self.num_slots) * self.num_rows

    def add(self, transitions: Transitions) -> None:
        """Adds time steps `[time, rows, ...]` and drops the oldest. Raises ValueError for another number of rows."""
        time, rows = transitions.reward.shape
        if rows != self.num_rows:
            raise ValueError(f"transitions: got {rows} rows, need {self.num_rows}")
        kept = min(time, self.num_slots)
        slots = np.arange(self.num_added + time - kept, self.num_added + time) % self.num_slots
        index = (slots[:, None] * rows + np.arange(rows)).ravel()
        for ours, theirs in zip(self._data, transitions, strict=True):
            ours[index] = theirs[time - kept :].reshape(-1, *theirs.shape[2:])
        if self._tree is not None:
            self._tree.set(index, np.full(kept * rows, self._largest))
        self.num_added += time

    def draw_uniformly(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draws indices with replacement: `[*shape]` for one task, `[tasks, *shape]` for more.

        Raises:
            ValueError: The buffer is empty.
        """
        self._refuse_if_empty()
        if self.num_tasks == 1:
            return rng.integers(len(self), size=shape)
        rows = self.num_rows // self.num_tasks
        drawn = rng.integers(len(self) // self.num_tasks, size=(self.num_tasks, *shape))
        slot, row = np.divmod(drawn, rows)
        first = rows * np.arange(self.num_tasks).reshape(-1, *[1] * len(shape))
        return slot * self.num_rows + first + row

    def draw_by_priority(
        self, count: int, rng: np.random.Generator, exponent: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Draws indices in proportion to their priorities, one from each of `count` equal parts of their sum.

        Returns indices and importance weights with exponent b, `[count]`. Raises ValueError if the buffer is empty.
        """
        self._refuse_if_empty()
        assert self._tree is not None
        total = self._tree.total
        index = np.minimum(self._tree.find((np.arange(count) + rng.random(count)) * (total / count)), len(self) - 1)
        weight = (len(self) * self._tree.get(index) / total) ** -exponent
        return index, weight / weight.max()

    def take(
        self, index: NDArray[np.int64], discount: float, n_step: int = 1, weight: NDArray[np.float64] | None = None
    ) -> Drawn:
        """Returns the transitions at `index`, of any shape, with returns over up to `n_step` steps.

        `weight` are the importance weights in the shape of `index`; None stands for ones.
        """
        data = self._data
        reward, bootstrap, last = self._follow(index, discount, n_step)
        ones = np.ones(index.shape, np.float32) if weight is None else weight.astype(np.float32)
        return Drawn(
            data.observation.take(index, 0),
            data.action.take(index),
            reward,
            bootstrap,
            data.next_observation.take(last, 0),
            ones,
        )

    def set_priorities(self, index: NDArray[np.int64], error: NDArray[np.floating]) -> None:
        """Sets the priorities of the transitions at `index` to |TD error| + 1e-6."""
        assert self._tree is not None
        priority = (np.abs(error).astype(np.float64) + _LEAST_PRIORITY) ** self.exponent
        self._largest = max(self._largest, float(priority.max()))
        self._tree.set(index, priority)

    def contents(self) -> Contents:
        """Returns the contents, as copies."""
        filled = len(self)
        priority = np.empty(0) if self._tree is None else self._tree.get(np.arange(filled))
        held: list[Any] = [field[:filled].copy() for field in self._data]
        return Contents(Transitions(*held), self.num_added, priority, self._largest)

    def restore(self, contents: Contents) -> None:
        """Replaces the contents by those of another buffer. Raises ValueError if their size does not fit."""
        filled = len(contents.transitions.reward)
        if filled != min(contents.num_added, self.num_slots) * self.num_rows:
            raise ValueError(f"contents: {filled} transitions after {contents.num_added} steps do not fit a buffer of "
                             f"{self.num_slots} steps of {self.num_rows} rows; need the same buffer_size")  # fmt: skip
        for ours, theirs in zip(self._data, contents.transitions, strict=True):
            ours[:filled] = theirs
        self.num_added, self._largest = contents.num_added, contents.largest
        if self._tree is not None:
            self._tree.set(np.arange(filled), contents.priority)

    def _follow(
        self, index: NDArray[np.int64], discount: float, n_step: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """n-step returns, factors of the value after them, and indices of the last transitions."""
        data, size = self._data, len(self._data.reward)
        newest = (self.num_added - 1) % self.num_slots
        reward, last = data.reward.take(index), index
        power = np.full(index.shape, discount, np.float32)
        for _ in range(1, n_step):
            goes_on = ~data.ended.take(last) & (last // self.num_rows != newest)
            last = np.where(goes_on, (last + self.num_rows) % size, last)
            reward = reward + np.where(goes_on, power * data.reward.take(last), np.float32(0))
            power = np.where(goes_on, power * np.float32(discount), power)
        return reward, np.where(data.terminated.take(last), np.float32(0), power), last

    def _refuse_if_empty(self) -> None:
        if not len(self):
            raise ValueError("the replay buffer is empty: need at least 1 transition before a batch is drawn; "
                             "raise learning_starts or add transitions first")  # fmt: skip
