"""The space of a search: for each setting, the values that a trial may have.

    space:
      learning_rate: {log: [1.0e-4, 1.0e-2]}        a number, uniform in its logarithm
      discount: {float: [0.9, 0.999]}               a number, uniform
      num_steps: {int: [1, 8]}                      an integer, both ends included
      batch_size: {log_int: [32, 512]}              an integer, uniform in its logarithm
      activation: {choice: [tanh, relu]}            one of several values of any kind
      hidden_sizes: {widths: [16, 256], layers: [1, 3]}      a list of 1 to 3 integers, each one a log_int

A list of widths is several dimensions: the number of layers, and the width of each layer that there is. Draws are pure
functions of (seed of the search, name of the dimension, number of the trial): another key, or more trials, change none.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from research.conversion import ConfigError
from research.validation import suggestion

if TYPE_CHECKING:
    import numpy as np

STREAM = "search"
"""Prefix of the names of all random streams of a search."""


@dataclass(frozen=True)
class Dimension:
    """One number, or one choice, that is drawn.

    Attributes:
        kind: `"float"`, `"int"` or `"choice"`.
        low: Lower end, included.
        high: Upper end, included.
        log: Whether draws are uniform in the logarithm.
        labels: The labels of the options of a choice.
    """

    kind: Literal["float", "int", "choice"]
    low: float = 0
    high: float = 0
    log: bool = False
    labels: tuple[Any, ...] = ()

    def draw(self, generator: np.random.Generator) -> Any:
        """Returns a random value: the label of an option, or a number."""
        if self.kind == "choice":
            return self.labels[int(generator.integers(len(self.labels)))]
        if self.kind == "int" and not self.log:
            return int(generator.integers(int(self.low), int(self.high), endpoint=True))
        margin = 0.5 if self.kind == "int" else 0.0
        low, high = self.low - margin, self.high + margin
        value = math.exp(generator.uniform(math.log(low), math.log(high))) if self.log else generator.uniform(low, high)
        return self.clip(value)

    def clip(self, value: float) -> Any:
        """Returns the nearest value inside the ends; a label stays as it is."""
        if self.kind == "choice":
            return value
        inside = min(max(value, self.low), self.high)
        return round(inside) if self.kind == "int" else float(inside)


Suggest = Callable[[str, Dimension], Any]
"""Returns the value of a dimension by its name: a draw, or one that a sampler has chosen."""


class Spec(Protocol):
    """The values that a setting may have."""

    def ask(self, key: str, suggest: Suggest) -> Any:
        """Returns a value of the setting `key`, each of whose dimensions comes from `suggest`."""

    def corners(self) -> Sequence[Any]:
        """Returns the extreme values, or all options, which are checked before a search begins."""

    def clip(self, value: Any) -> Any:
        """Returns the nearest value of the space."""

    def describe(self) -> str:
        """Returns the values in words."""


@dataclass(frozen=True)
class Range:
    """A number between two ends."""

    dimension: Dimension

    def ask(self, key: str, suggest: Suggest) -> Any:
        """Returns what is suggested."""
        return suggest(key, self.dimension)

    def corners(self) -> Sequence[Any]:
        """Returns both ends."""
        return [self.dimension.clip(self.dimension.low), self.dimension.clip(self.dimension.high)]

    def clip(self, value: Any) -> Any:
        """Returns the number, or the nearer end."""
        return self.dimension.clip(value)

    def describe(self) -> str:
        """Returns the range in words."""
        low, high = self.corners()
        return f"{'an integer' if self.dimension.kind == 'int' else 'a number'} from {low} to {high}"


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Attributes:
        options: The values.
    """

    options: tuple[Any, ...]

    @functools.cached_property
    def dimension(self) -> Dimension:
        """The choice among the labels of the options."""
        return Dimension("choice", labels=tuple(map(_label, self.options)))

    def ask(self, key: str, suggest: Suggest) -> Any:
        """Returns the option whose label is suggested."""
        return self.options[self.dimension.labels.index(suggest(key, self.dimension))]

    def corners(self) -> Sequence[Any]:
        """Returns all options."""
        return self.options

    def clip(self, value: Any) -> Any:
        """Returns the value, which must be an option."""
        return self.options[self.dimension.labels.index(_label(value))]

    def describe(self) -> str:
        """Returns the options in words."""
        return f"one of {', '.join(map(str, self.dimension.labels))}"


@dataclass(frozen=True)
class Widths:
    """A list of integers, one for each layer.

    Attributes:
        width: A width.
        layers: The number of layers.
    """

    width: Dimension
    layers: Dimension

    def ask(self, key: str, suggest: Suggest) -> list[int]:
        """Returns as many widths as there are layers."""
        return [suggest(f"{key}.{layer}", self.width) for layer in range(suggest(f"{key}.layers", self.layers))]

    def corners(self) -> Sequence[list[int]]:
        """Returns the smallest and the largest list."""
        ends = [(self.width.low, self.layers.low), (self.width.high, self.layers.high)]
        return [[int(width)] * int(layers) for width, layers in ends]

    def clip(self, value: Sequence[int]) -> list[int]:
        """Returns the list without layers that are too many, with copies of the last if there are too few."""
        count = self.layers.clip(len(value))
        return [self.width.clip(value[min(layer, len(value) - 1)]) for layer in range(count)]

    def describe(self) -> str:
        """Returns the lists in words."""
        layers, width = self.layers, self.width
        return f"a list of {layers.low:.0f} to {layers.high:.0f} integers from {width.low:.0f} to {width.high:.0f}"


Space = Mapping[str, Spec]
"""The specification of each setting, by dotted key."""


def draws(space: Space, seed: int, trial: int) -> dict[str, Any]:
    """Returns the settings of a trial that is drawn at random, by dotted key."""
    return {key: spec.ask(key, lambda name, one: one.draw(_generator(seed, name, trial)))
            for key, spec in space.items()}  # fmt: skip


def draw_dimension(seed: int, trial: int, name: str, dimension: Dimension) -> Any:
    """Returns the random value of one dimension in a trial, as `draws` has it."""
    return dimension.draw(_generator(seed, name, trial))


def sampler_seed(seed: int, trial: int) -> int:
    """Returns the seed of the sampler that chooses the settings of a trial."""
    return int(_generator(seed, "", trial).integers(2**32))


def run_seed(seed: int, trial: int) -> int:
    """Returns the seed of the run of a trial."""
    return int(_generator(seed, "seed of the run", trial).integers(2**31))


def _generator(seed: int, name: str, trial: int) -> np.random.Generator:
    from research import rng  # imports torch, which takes seconds and which `status` does not need

    return rng.generator(seed, f"{STREAM}/{name}", trial)


def parse_space(values: Mapping[str, Any], prefix: str = "") -> dict[str, Spec]:
    """Returns a space from plain values with nested or dotted keys.

    Raises:
        ConfigError: An entry is no specification; the message names its key below `space`.
    """
    found: dict[str, Spec] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if not isinstance(value, Mapping) or not value:
            raise ConfigError(f"space.{path}={value!r}: need a kind and its values, such as {{float: [0, 1]}}; "
                              "a value that does not change belongs to `fixed`")  # fmt: skip
        kinds = [name for name in KINDS if name in value and not isinstance(value[name], Mapping)]
        if kinds:
            found[path] = _parse_spec(path, kinds[0], value)
        elif all(isinstance(inner, Mapping) for inner in value.values()):
            found |= parse_space(value, f"{path}.")
        else:
            kind = next(name for name, inner in value.items() if not isinstance(inner, Mapping))
            raise ConfigError(f"space.{path}.{kind}={value[kind]!r}: no such kind; {suggestion(kind, KINDS)}")
    return found


def _parse_spec(path: str, kind: str, value: Mapping[str, Any]) -> Spec:
    allowed = (kind, "layers") if kind == "widths" else (kind,)
    for name in value:
        if name not in allowed:
            raise ConfigError(f"space.{path}.{name}={value[name]!r}: no such key with {kind}; "
                              f"{suggestion(name, allowed)}")  # fmt: skip
    where = f"space.{path}.{kind}"
    if kind == "choice":
        return _parse_choice(where, value[kind])
    if kind == "widths":
        if "layers" not in value:
            raise ConfigError(f"space.{path}.layers: missing; need the least and the greatest number of layers, "
                              "e.g. layers: [1, 3]")  # fmt: skip
        return Widths(_parse_range(where, "log_int", value[kind]), _parse_range(f"space.{path}.layers", "int",
                      value["layers"], least=1))  # fmt: skip
    return Range(_parse_range(where, kind, value[kind]))


def _parse_choice(where: str, value: Any) -> Choice:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{where}={value!r}: need a list of at least one value")
    labels = [_label(option) for option in value]
    for index, label in enumerate(labels):
        if label in labels[:index]:
            raise ConfigError(f"{where}={value!r}: {value[index]!r} is there twice; need each value once")
    return Choice(tuple(value))


def _parse_range(where: str, kind: str, value: Any, least: float = -math.inf) -> Dimension:
    whole, log = KINDS[kind]
    type_ = (int,) if whole else (int, float)
    is_range = isinstance(value, list) and len(value) == 2
    is_range = is_range and all(isinstance(end, type_) and not isinstance(end, bool) for end in value)
    if not is_range or not all(math.isfinite(end) for end in value) or not value[0] <= value[1]:
        raise ConfigError(f"{where}={value!r}: need two {'integers' if whole else 'numbers'}, [low, high], low ≤ high")
    least = max(least, 1 if whole and log else -math.inf)
    if value[0] < least or (log and value[0] <= 0):
        raise ConfigError(f"{where}={value!r}: need ends {f'of at least {least:.0f}' if whole else 'above 0'}")
    return Dimension("int" if whole else "float", value[0], value[1], log)


KINDS: dict[str, tuple[bool, bool]] = {
    "float": (False, False),
    "log": (False, True),
    "int": (True, False),
    "log_int": (True, True),
    "choice": (False, False),
    "widths": (True, True),
}
"""The kinds of a specification: whether its values are integers, and whether they are drawn in the logarithm."""


def _label(option: Any) -> Any:
    """Returns an option as a plain text, if it is a number, a truth value or a container, so that all differ."""
    return option if isinstance(option, str) and not _is_json(option) else json.dumps(option, sort_keys=True)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
