"""Range checks of settings, and types of their fields; messages name the key, the value and what is allowed.

The settings are an object with attributes or a mapping. Every check raises ValueError, for other types, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import math
import numbers
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_recorded: ContextVar[tuple[tuple[str, Any], ...]] = ContextVar("recorded", default=())
"""Names and values of settings that a record has, see `recorded`."""


def _type_hints(cls: type[Any]) -> dict[str, Any]:
    """Returns the annotation of each field of a dataclass.

    A field whose annotation cannot be resolved, as its names are imported for type checkers alone, has Any.
    """
    try:
        return get_type_hints(cls)
    except NameError:
        return {field.name: _type_hint(cls, field.type) for field in dataclasses.fields(cls)}


def _type_hint(cls: type[Any], annotation: Any) -> Any:
    """Returns an annotation in the names of the module of a class, or of one of its bases; Any if they lack one."""
    holder = types.SimpleNamespace(__annotations__={"field": annotation})
    for base in cls.__mro__:
        names = getattr(sys.modules.get(base.__module__), "__dict__", {})
        with contextlib.suppress(NameError):
            return get_type_hints(holder, names, dict(vars(base)))["field"]
    return Any


type_hints: Callable[[Any], dict[str, Any]] = functools.cache(_type_hints)
"""Annotation of each field of a class, resolved once for each class: a sweep asks a thousand times."""


def positive(settings: Any, *names: str) -> None:
    """Checks that each named setting is above 0.

    >>> positive({"inner_lr": -0.1}, "inner_lr")
    Traceback (most recent call last):
    ValueError: inner_lr=-0.1: need a value above 0
    """
    _check_numbers(settings, names, lambda value: value > 0, "a value above 0")


def at_least(settings: Any, minimum: float, *names: str) -> None:
    """Checks that each named setting is at least `minimum`."""
    _check_numbers(settings, names, lambda value: value >= minimum, f"at least {minimum}")


def in_unit_interval(settings: Any, *names: str) -> None:
    """Checks that each named setting is in [0, 1]."""
    _check_numbers(settings, names, lambda value: 0 <= value <= 1, "a value from 0 to 1")


def positive_fraction(settings: Any, *names: str) -> None:
    """Checks that each named setting is in (0, 1]."""
    _check_numbers(settings, names, lambda value: 0 < value <= 1, "a value above 0, at most 1")


def in_open_unit_interval(settings: Any, *names: str) -> None:
    """Checks that each named setting is in (0, 1)."""
    _check_numbers(settings, names, lambda value: 0 < value < 1, "a value between 0 and 1, both excluded")


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
        if not all(_is_number(end) and math.isfinite(end) for end in value):
            raise ValueError(f"{name}=({low!r}, {high!r}): need two finite numbers")
        if low > high:
            raise ValueError(f"{name}=({low!r}, {high!r}): need the lower end first; write {name}=[{high!r}, {low!r}]")


@contextlib.contextmanager
def recorded(settings: Mapping[str, Any]) -> Iterator[None]:
    """A context in which `refuse_unread` accepts the values of a record, which older versions of the code accepted.

    Args:
        settings: The plain values of the record, nested.
    """
    token = _recorded.set((*_recorded.get(), *_leaves(settings)))
    try:
        yield
    finally:
        _recorded.reset(token)


def _leaves(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        yield from _leaves(value) if isinstance(value, Mapping) else [(name, value)]


def _is_recorded(name: str, value: Any) -> bool:
    plain = list(value) if isinstance(value, tuple) else value
    return any(name == known and plain == given for known, given in _recorded.get())


def refuse_unread(settings: Any, names: Iterable[str], reason: str, *allowed: Any, prefix: str = "") -> None:
    """Checks that settings which nothing reads have their defaults: another value would have no effect.

    Values of a record are accepted within `recorded`.

    Args:
        settings: A dataclass.
        names: Its fields that are not read.
        reason: The reason, for the message.
        allowed: Further values, which say the same.
        prefix: Path of the settings for the message, e.g. `"policy."`.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    for name in names:
        value = getattr(settings, name)
        if value != defaults[name] and value not in allowed and not _is_recorded(name, value):
            needed = " or ".join(map(repr, (defaults[name], *allowed)))
            raise ValueError(f"{prefix}{name}={value!r}: {reason}; need {needed}")


def suggestion(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns the end of a message about an unknown name: the nearest known name, or all names if none is near.

    >>> suggestion("sed", ["seed", "device"])
    'did you mean seed?'
    """
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {prefix}{nearest[0]}?" if nearest else f"there are {', '.join(names)}"


_NAMES: dict[Any, str] = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a text",
    type(None): "None",
    Any: "any value",
}


def describe(hint: Any) -> str:
    """Returns a type in words for a message."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, types.UnionType):
        return " or ".join(describe(member) for member in arguments)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"a list [{', '.join(map(describe, arguments))}]"
    kind = origin or hint
    if kind in (tuple, list, Sequence):
        return f"a list, each entry {describe(arguments[0])}" if arguments else "a list"
    if hint in _NAMES or dataclasses.is_dataclass(hint) or not isinstance(kind, type) or issubclass(kind, Mapping):
        return _NAMES.get(hint, "keys below it")
    return f"an instance of {kind.__name__}"


def advice(hint: Any, value: Any, path: str) -> str:
    """Returns the value that was probably meant, for the end of a message."""
    if hint is bool and str(value).lower() in ("true", "false", "yes", "no", "1", "0"):
        meant = str(value).lower() in ("true", "yes", "1")
        return f"; write {path}={meant}"
    if hint is int and isinstance(value, float) and value.is_integer():
        return f"; write {path}={int(value)}"
    if hint is float and isinstance(value, str) and _reads_as_number(value.replace(",", ".")):
        return f"; write {path}={value.replace(',', '.')}"
    if get_origin(hint) is dict:
        return f"; write {path}.<key>=<value>"
    if get_origin(hint) is Literal:
        nearest = difflib.get_close_matches(str(value), [str(option) for option in get_args(hint)], n=1)
        return f"; did you mean {nearest[0]}?" if nearest else ""
    return ""


def _reads_as_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


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


def _check_numbers(settings: Any, names: Sequence[str], holds: Callable[[Any], bool], allowed: str) -> None:
    """Checks that each named setting is a number, an integer where its field has no other type, and in a range."""
    hints = type_hints(type(settings)) if dataclasses.is_dataclass(settings) else {}
    for name in names:
        is_whole = hints.get(name) is not int or isinstance(_value(settings, name), numbers.Integral)
        _check(settings, (name,), _is_number, f"a number, {allowed}")
        _check(settings, (name,), lambda value, whole=is_whole: whole, f"an integer, {allowed}")
        _check(settings, (name,), holds, allowed)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check(settings: Any, names: Sequence[str], holds: Any, allowed: str) -> None:
    for name in names:
        value = _value(settings, name)
        if not holds(value):
            raise ValueError(f"{name}={value!r}: need {allowed}")


def _value(settings: Any, name: str) -> Any:
    return settings[name] if isinstance(settings, Mapping) else getattr(settings, name)
