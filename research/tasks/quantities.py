"""Quantities that differ from task to task: ranges and choices from settings, draws, and held-out combinations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.rng import generator
from research.tasks.attributes import is_integer, is_number

_TEST_SEED = 0
_TEST_STREAM = "gym_tasks/test"
_VALIDATION_STREAM = "gym_tasks/validation"
_MAX_HELD_OUT = 10_000


class Quantity(NamedTuple):
    """A quantity that differs from task to task.

    Attributes:
        setting: The setting that names it, e.g. `"randomize"`.
        name: Path of an attribute, or name of an argument.
        low: Lower end of the range; 0 for choices.
        high: Upper end of the range; the last index for choices.
        num_values: Number of values; 0 for a range of real numbers.
        choices: The listed values of choices; empty for a range.
    """

    setting: str
    name: str
    low: float
    high: float
    num_values: int = 0
    choices: tuple[Any, ...] = ()

    @property
    def key(self) -> str:
        """Its name in settings and messages, e.g. `"randomize.length"`."""
        return f"{self.setting}.{self.name}"

    def decode(self, drawn: float) -> Any:
        """Returns the value that an entry of a task batch encodes: a choice, an integer or a real number."""
        if self.choices:
            return self.choices[int(drawn)]
        return int(drawn) if self.num_values > 1 else float(drawn)


def entries(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields (path, value) of a nested mapping; on a command line every dot opens a level."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from ((f"{key}.{path}", inner) for path, inner in entries(value))
        else:
            yield str(key), value


def from_range(setting: str, name: str, value: Any, like: Any) -> Quantity:
    """Returns a quantity that is uniform in [low, high]; equal ends fix it.

    Args:
        setting: The setting that names it.
        name: Path of an attribute, or name of an argument.
        value: The range [low, high].
        like: The value that it replaces. The range is one of integers if both ends and `like` are integers.

    Raises:
        ValueError: The value is not a range.
    """
    key = f"{setting}.{name}"
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_number, value))
    if not is_pair or not all(map(math.isfinite, value)):
        raise ValueError(f"{key}={value!r}: need a range of two numbers; write {key}=[low,high]")
    low, high = value
    if low > high:
        raise ValueError(f"{key}={list(value)!r}: need the lower end first: [{high!r},{low!r}]")
    if is_integer(low) and is_integer(high) and is_integer(like):
        return Quantity(setting, name, low, high, high - low + 1)
    return Quantity(setting, name, low, high, int(low == high))


def from_choices(setting: str, name: str, value: Any) -> Quantity:
    """Returns a quantity that is one of the listed values with equal probability.

    Raises:
        ValueError: The value is not a list, is empty, or has equal entries.
    """
    key = f"{setting}.{name}"
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{key}={value!r}: need a list of values; write {key}=[first,second]")
    if any(value[i] == value[j] for i in range(len(value)) for j in range(i)):
        raise ValueError(f"{key}={list(value)!r}: need every value once")
    return Quantity(setting, name, 0, len(value) - 1, len(value), tuple(value))


class Space:
    """All combinations of the values of quantities, split into training tasks and held-out tasks.

    If a quantity is a range of real numbers, the held-out tasks are one fixed sequence of draws that other draws never
    equal. If all are integers and choices, the number of tasks is finite: a fixed fraction is held out for tests, and
    training and validation have the others.

    Args:
        quantities: The quantities.
        test_fraction: Fraction of finitely many tasks that is held out, at most 10,000 tasks.

    Attributes:
        quantities: The quantities.
        is_finite: Whether the number of tasks is finite.
        size: Number of tasks; 0 if it is not finite.
        num_held_out: Number of held-out tasks; 0 if the number of tasks is not finite.

    Raises:
        ValueError: There is only one task, or more than 2^62.
    """

    def __init__(self, quantities: Sequence[Quantity], test_fraction: float):
        self.quantities = tuple(quantities)
        self.is_finite = all(quantity.num_values for quantity in quantities)
        self.size = math.prod(quantity.num_values for quantity in quantities) if self.is_finite else 0
        if self.is_finite and self.size < 2:
            given = ", ".join(quantity.key for quantity in quantities)
            raise ValueError(f"{given}: every task is the same, so none can be held out; need a wider range")
        if self.size > 2**62:
            raise ValueError(f"{quantities[0].key}: {self.size} tasks are too many to count; write a range of "
                             "integers as one of real numbers, e.g. [0.0,1e9]")  # fmt: skip
        wanted = min(round(test_fraction * self.size), _MAX_HELD_OUT)
        self.num_held_out = min(max(wanted, 1), self.size - 1) if self.is_finite else 0

    def draw(self, num_tasks: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draws training tasks, `[tasks, quantities]`: values, or indices of choices."""
        if not self.is_finite:
            return self._independent(num_tasks, rng)
        return self._training(rng.integers(self.size - self.num_held_out, size=num_tasks))

    def validation(self, num_tasks: int) -> NDArray[np.float64]:
        """Returns the first `num_tasks` validation tasks, `[tasks, quantities]`.

        Of finitely many tasks, they are tasks of training in a fixed order, again from the first after the last.
        """
        rng, count = generator(_TEST_SEED, _VALIDATION_STREAM), self.size - self.num_held_out
        if not self.is_finite or count > _MAX_HELD_OUT:  # an order of more takes too long
            return self.draw(num_tasks, rng)
        return self._training(rng.permutation(count)[np.arange(num_tasks) % count])

    def _training(self, rank: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns training tasks by their rank among all of them."""
        held_out = np.sort(self._held_out())
        # Every held-out task before the one of this rank adds 1 to its index.
        return self._decode(rank + np.searchsorted(held_out - np.arange(self.num_held_out), rank, side="right"))

    def held_out(self, num_tasks: int) -> NDArray[np.float64]:
        """Returns the first `num_tasks` held-out tasks, `[tasks, quantities]`. Raises ValueError if there are fewer."""
        if not self.is_finite:
            return self._independent(num_tasks, generator(_TEST_SEED, _TEST_STREAM))
        if num_tasks > self.num_held_out:
            raise ValueError(f"num_eval_tasks={num_tasks}: of the {self.size} tasks that there are, "
                             f"{self.num_held_out} are held out; need at most {self.num_held_out}, or a larger "
                             "task_args.test_fraction")  # fmt: skip
        return self._decode(self._held_out()[:num_tasks])

    def _held_out(self) -> NDArray[np.int64]:
        return generator(_TEST_SEED, _TEST_STREAM).choice(self.size, self.num_held_out, replace=False)

    def _independent(self, num_tasks: int, rng: np.random.Generator) -> NDArray[np.float64]:
        columns = []
        for quantity, u in zip(self.quantities, rng.random((num_tasks, len(self.quantities))).T, strict=True):
            span = quantity.high - quantity.low
            columns.append(quantity.low + (np.floor(u * quantity.num_values) if quantity.num_values else u * span))
        return np.stack(columns, 1)

    def _decode(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        parts = np.unravel_index(index, [quantity.num_values for quantity in self.quantities])
        return np.stack([quantity.low + part for quantity, part in zip(self.quantities, parts, strict=True)], 1)
