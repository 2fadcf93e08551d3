"""Past transitions that a value is learned from, in NumPy: a ring for each row of the environments.

Draws are uniform, or in proportion to priorities (Schaul et al. 2016, arXiv:1511.05952, section 3.3):

    P(i) = p_i^a / Σ_j p_j^a,   w_i = (N P(i))^−b / max_j w_j,   p_i = |δ_i| + 1e-6

with TD errors δ; new transitions get the largest p so far. Returns over n steps are added up when a transition is
drawn, along its row as far as the episode and the record go.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.sampling.sum_tree import SumTree
from research.validation import at_least, in_unit_interval

_LEAST_PRIORITY = 1e-6


class Transitions(NamedTuple):
    """Transitions in the order of time: `[time, rows, ...]`; flat in a buffer, `[transitions, ...]`.

    Attributes:
        observation: `[..., obs]`.
        action: Integers.
        reward: Of the step.
        next_observation: `[..., obs]`, what followed, be it the last of an episode.
        terminated: The task ended: nothing is bootstrapped beyond.
        ended: The episode ended, terminated or truncated: what comes next in this row is another one.
    """

    observation: NDArray[np.floating]
    action: NDArray[np.integer]
    reward: NDArray[np.floating]
    next_observation: NDArray[np.floating]
    terminated: NDArray[np.bool_]
    ended: NDArray[np.bool_]


class Drawn(NamedTuple):
    """A minibatch; `shape` is that of the indices.

    Attributes:
        observation: `[*shape, obs]`.
        action: `[*shape]`.
        reward: `[*shape]`, Σ_k γᵏ r over the n steps.
        bootstrap: `[*shape]`, γⁿ; 0 where the task ended within.
        next_observation: `[*shape, obs]`, after the n steps.
        weight: `[*shape]`, w; ones if draws are uniform.
    """

    observation: NDArray[np.floating]
    action: NDArray[np.integer]
    reward: NDArray[np.floating]
    bootstrap: NDArray[np.floating]
    next_observation: NDArray[np.floating]
    weight: NDArray[np.floating]


class Contents(NamedTuple):
    """The contents of a buffer: a buffer that is restored from them continues like the one that they were taken from.

    Attributes:
        transitions: `[filled, ...]`, as they lie in the ring.
        num_added: Time steps that were ever added.
        priority: `[filled]`, p^a; empty if draws are uniform.
        largest: The largest p^a that there ever was, which new transitions get.
    """

    transitions: Transitions
    num_added: int
    priority: NDArray[np.float64]
    largest: float


class ReplayBuffer:
    """The last transitions of `num_rows` environments.

    Args:
        capacity: Transitions of all rows together; rounded down to a multiple of `num_rows`.
        num_rows: Rows of the environments.
        num_tasks: Tasks that the rows belong to, those of a task next to each other.
        like: An observation: its shape and dtype.
        num_actions: Actions, which decides how many bytes one takes.
        priority_exponent: a; 0 draws uniformly.
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
        """Transitions that it holds."""
        return min(self.num_added, self.num_slots) * self.num_rows

    def add(self, transitions: Transitions) -> None:
        """Appends time steps `[time, rows, ...]`; the oldest make way. Raises ValueError for another number of rows."""
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
        """Indices of transitions, with replacement: `[*shape]` for one task, `[tasks, *shape]` for more."""
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
        """Indices `[count]`, one from each of as many equal parts of all priorities, and their weights with b."""
        self._refuse_if_empty()
        assert self._tree is not None
        total = self._tree.total
        index = np.minimum(self._tree.find((np.arange(count) + rng.random(count)) * (total / count)), len(self) - 1)
        weight = (len(self) * self._tree.get(index) / total) ** -exponent
        return index, weight / weight.max()

    def take(
        self, index: NDArray[np.int64], discount: float, n_step: int = 1, weight: NDArray[np.float64] | None = None
    ) -> Drawn:
        """The transitions at `index`, each followed for up to `n_step` steps with the discount γ."""
        data = self._data
        reward, last = data.reward.take(index), index
        if n_step == 1:
            bootstrap = np.where(data.terminated.take(index), np.float32(0), np.float32(discount))
        else:
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
        """Makes |TD error| the priority of these transitions."""
        assert self._tree is not None
        priority = (np.abs(error).astype(np.float64) + _LEAST_PRIORITY) ** self.exponent
        self._largest = max(self._largest, float(priority.max()))
        self._tree.set(index, priority)

    def contents(self) -> Contents:
        """Copies of all that it holds."""
        filled = len(self)
        priority = np.empty(0) if self._tree is None else self._tree.get(np.arange(filled))
        held: list[Any] = [field[:filled].copy() for field in self._data]
        return Contents(Transitions(*held), self.num_added, priority, self._largest)

    def restore(self, contents: Contents) -> None:
        """Takes over what another buffer held. Raises ValueError if it does not fit."""
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
        """Rewards added up, what to multiply the value after them with, and the last transition of each."""
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
