"""Range checks of settings, whose messages name the key, the value received and what is allowed.

The settings are an object with attributes or a mapping. Every check raises ValueError.
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

type_hints: Callable[[Any], dict[str, Any]] = functools.cache(get_type_hints)
"""Annotation of each field of a class, resolved once for each class: a sweep asks a thousand times."""


def positive(settings: Any, *names: str) -> None:
    """Checks that each named setting is above 0.

    >>> positive({"inner_lr": -0.1}, "inner_lr")
    Traceback (most recent call last):
    ValueError: inner_lr=-0.1: need a value above 0
    """
    _check(settings, names, lambda value: value > 0, "a value above 0")


def at_least(settings: Any, minimum: float, *names: str) -> None:
    """Checks that each named setting is at least `minimum`."""
    _check(settings, names, lambda value: value >= minimum, f"at least {minimum}")


def in_unit_interval(settings: Any, *names: str) -> None:
    """Checks that each named setting is in [0, 1]."""
    _check(settings, names, lambda value: 0 <= value <= 1, "a value from 0 to 1")


def positive_fraction(settings: Any, *names: str) -> None:
    """Checks that each named setting is in (0, 1]."""
    _check(settings, names, lambda value: 0 < value <= 1, "a value above 0, at most 1")


def in_open_unit_interval(settings: Any, *names: str) -> None:
    """Checks that each named setting is in (0, 1)."""
    _check(settings, names, lambda value: 0 < value < 1, "a value between 0 and 1, both excluded")


def one_of(settings: Any, name: str, allowed: Sequence[Any]) -> None:
    """Checks that the named setting is one of `allowed`."""
    _check(settings, (name,), lambda value: value in allowed, f"one of {', '.join(map(repr, allowed))}")


def choices(settings: Any) -> None:
    """Checks each field of a dataclass whose annotation lists its values: `Literal` or `bool`."""
    for name, annotation in type_hints(type(settings)).items():
        if annotation is bool or get_origin(annotation) is Literal:
            one_of(settings, name, get_args(annotation) or (False, True))


def ordered(settings: Any, *names: str) -> None:
    """Checks that each named setting is a range (low, high) of finite numbers with low ≤ high."""
    for name in names:
        value = _value(settings, name)
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise ValueError(f"{name}={value!r}: need a lower and an upper end; write {name}=[low, high]")
        low, high = value
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{name}=({low!r}, {high!r}): need two finite numbers")
        if low > high:
            raise ValueError(f"{name}=({low!r}, {high!r}): need the lower end first; write {name}=[{high!r}, {low!r}]")


def suggestion(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns the end of a message about an unknown name: the nearest known name, or all names if none is near.

    >>> suggestion("sed", ["seed", "device"])
    'did you mean seed?'
    """
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {prefix}{nearest[0]}?" if nearest else f"there are {', '.join(names)}"


def make_task(registry: Mapping[str, type[T]], name: str, settings: Mapping[str, Any]) -> T:
    """Makes the dataclass registered as `name`, the setting `task`, with `settings`, those below `task_args`."""
    if name not in registry:
        raise ValueError(f"task={name!r}: need one of {', '.join(registry)}")
    known = list(registry[name].__dataclass_fields__)  # type: ignore[attr-defined]
    for key in settings:
        if key not in known:
            raise ValueError(f"task_args.{key}: {name} has no such setting; it has {', '.join(known) or 'none'}")
    return registry[name](**settings)


def positive_ranges(settings: Any, *names: str) -> None:
    """Checks that each named setting is a range of numbers above 0, and that at least one range is not a point."""
    ordered(settings, *names)
    for name in names:
        low, high = getattr(settings, name)
        if low <= 0:
            raise ValueError(f"{name}=({low!r}, {high!r}): need values above 0; equal ends fix the quantity")
    first = getattr(settings, names[0])
    if all(low == high for low, high in (getattr(settings, name) for name in names)):
        raise ValueError(f"{names[0]}={first!r}: every task is the same, so none can be held out; need one of "
                         f"{', '.join(names)} to be wider than a point")  # fmt: skip


def _check(settings: Any, names: Sequence[str], holds: Any, allowed: str) -> None:
    for name in names:
        value = _value(settings, name)
        if not holds(value):
            raise ValueError(f"{name}={value!r}: need {allowed}")


def _value(settings: Any, name: str) -> Any:
    return settings[name] if isinstance(settings, Mapping) else getattr(settings, name)
