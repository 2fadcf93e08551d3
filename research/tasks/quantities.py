"""What differs from task to task, as settings say it: ranges and choices, how they are drawn, what is held out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from research import rng as random
from research.tasks.attributes import is_integer, is_number

_TEST_SEED = 0
_TEST_STREAM = "gym_tasks/test"
_MAX_HELD_OUT = 10_000


class Quantity(NamedTuple):
    """One thing that differs from task to task.

    Attributes:
        setting: The setting that names it, e.g. `"randomize"`.
        name: Path of an attribute, or name of an argument.
        low: Lower end; for choices 0.
        high: Upper end; for choices the last index.
        num_values: How many there are; 0 for a range of real numbers.
        choices: The values, if they are listed.
    """

    setting: str
    name: str
    low: float
    high: float
    num_values: int = 0
    choices: tuple[Any, ...] = ()

    @property
    def key(self) -> str:
        """What it is called in settings and messages."""
        return f"{self.setting}.{self.name}"

    def decode(self, drawn: float) -> Any:
        """The value that a column of a task batch stands for."""
        if self.choices:
            return self.choices[int(drawn)]
        return int(drawn) if self.num_values > 1 else float(drawn)


def entries(setting: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(path, value) of a nested mapping: on a command line every dot opens a level."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from ((f"{key}.{path}", inner) for path, inner in entries(setting, value))
        else:
            yield str(key), value


def from_range(setting: str, name: str, value: Any, like: Any) -> Quantity:
    """A quantity that is uniform in [low, high]; whole numbers if both ends are, and what it replaces (`like`) is.

    Equal ends fix it.

    Raises:
        ValueError: The value is no range.
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
    """A quantity that is one of the listed values, each as likely. Raises ValueError if it is no list."""
    key = f"{setting}.{name}"
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{key}={value!r}: need a list of values; write {key}=[first,second]")
    if any(value[i] == value[j] for i in range(len(value)) for j in range(i)):
        raise ValueError(f"{key}={list(value)!r}: need every value once")
    return Quantity(setting, name, 0, len(value) - 1, len(value), tuple(value))


class Space:
    """All tasks that quantities allow, in two parts: those for training, and those that are held out.

    Where a quantity is a range of real numbers, the held-out tasks are a fixed sequence of draws, which no other draw
    meets. Where all are whole numbers and choices, there are only so many tasks: a fixed share is held out, and
    training draws from the others.

    Raises:
        ValueError: There is a single task only.
    """

    def __init__(self, quantities: Sequence[Quantity], test_fraction: float):
        self.quantities = tuple(quantities)
        self.is_finite = all(quantity.num_values for quantity in quantities)
        self.size = math.prod(quantity.num_values for quantity in quantities) if self.is_finite else 0
        if self.is_finite and self.size < 2:
            given = ", ".join(quantity.key for quantity in quantities)
            raise ValueError(f"{given}: every task is the same, so none can be held out; need a wider range")
        if self.size > 2**62:
            raise ValueError(f"{quantities[0].key}: {self.size} tasks are too many to count; write a range of whole "
                             "numbers as one of real numbers, e.g. [0.0,1e9]")  # fmt: skip
        share = min(round(test_fraction * self.size), _MAX_HELD_OUT)
        self.num_held_out = min(max(share, 1), self.size - 1) if self.is_finite else 0

    def draw(self, num_tasks: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Tasks for training, `[tasks, quantities]`: each column a value, or the index of a choice."""
        if not self.is_finite:
            return self._independent(num_tasks, rng)
        held_out = np.sort(self._held_out())
        rank = rng.integers(self.size - self.num_held_out, size=num_tasks)
        # The rank counts the training tasks alone; every held-out task up to the one meant moves it on by one.
        return self._decode(rank + np.searchsorted(held_out - np.arange(self.num_held_out), rank, side="right"))

    def held_out(self, num_tasks: int) -> NDArray[np.float64]:
        """The first `num_tasks` held-out tasks. Raises ValueError if there are fewer."""
        if not self.is_finite:
            return self._independent(num_tasks, random.generator(_TEST_SEED, _TEST_STREAM))
        if num_tasks > self.num_held_out:
            raise ValueError(f"num_eval_tasks={num_tasks}: of the {self.size} tasks that there are, "
                             f"{self.num_held_out} are held out; need at most so many, or a larger "
                             "task_args.test_fraction")  # fmt: skip
        return self._decode(self._held_out()[:num_tasks])

    def _held_out(self) -> NDArray[np.int64]:
        generator = random.generator(_TEST_SEED, _TEST_STREAM)
        return generator.choice(self.size, self.num_held_out, replace=False)

    def _independent(self, num_tasks: int, rng: np.random.Generator) -> NDArray[np.float64]:
        columns = []
        for quantity, u in zip(self.quantities, rng.random((num_tasks, len(self.quantities))).T, strict=True):
            span = quantity.high - quantity.low
            columns.append(quantity.low + (np.floor(u * quantity.num_values) if quantity.num_values else u * span))
        return np.stack(columns, 1)

    def _decode(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        parts = np.unravel_index(index, [quantity.num_values for quantity in self.quantities])
        return np.stack([quantity.low + part for quantity, part in zip(self.quantities, parts, strict=True)], 1)
