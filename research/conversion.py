"""Settings from the command line, checked against the typed dataclasses that define them.

Command lines and JSON have neither tuples, nor dataclasses, nor ranges; the dataclasses have all three. An error names
the key, the value, what is allowed and, for an unknown key, the nearest valid one.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal, TypeVar, Union

import numpy as np

from research.validation import advice, describe, type_hints

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting is invalid. The message names the key, the value and what is allowed."""


def from_mapping(cls: type[T], values: Mapping[str, Any], prefix: str = "", base: T | None = None) -> T:
    """Returns an instance of a dataclass from plain values.

    An int becomes a float, a list a tuple, a number of NumPy one of Python and a mapping a dataclass where the field
    requires it; a list also a tuple for a Sequence, and a text a path. Nothing else is converted. A mapping for a field
    holds differences from the default of that field.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     inner_lr: float = 0.1
    ...     hidden_sizes: tuple[int, ...] = (64, 64)
    >>> from_mapping(Config, {"inner_lr": 1, "hidden_sizes": [8]})
    Config(inner_lr=1.0, hidden_sizes=(8,))

    Args:
        cls: A dataclass. Its fields have the types bool, int, float, str, None, Any, Literal, or are unions, tuples,
            lists, dicts and dataclasses of these; a field of another class has an instance of it.
        values: Values by field name; a missing field takes its default.
        prefix: Dotted path of the instance within the whole configuration, for messages.
        base: Instance with the values of missing fields, instead of their defaults.

    Raises:
        ConfigError: A key is unknown or missing, a number is not finite, a value has another type, or `__post_init__`
            refuses it.
    """
    refuse_not_finite(values, prefix)
    return _made(cls, values, prefix, base)


def refuse_not_finite(value: Any, path: str = "") -> None:
    """Raises ConfigError if a number within a value, nested to any depth, is not finite, which no record can hold."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            refuse_not_finite(entry, _join(path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, entry in enumerate(value):
            refuse_not_finite(entry, f"{path}[{index}]")
    elif isinstance(value, (float, np.floating)) and not math.isfinite(value):
        raise ConfigError(f"{path}={float(value)!r}: need a finite number, a record cannot hold another")


def _made(cls: type[T], values: Mapping[str, Any], prefix: str, base: T | None) -> T:
    """Returns an instance as `from_mapping` does, also with numbers that are not finite."""
    kept = {} if base is None else {name: getattr(base, name) for name in _fields(cls)}
    return construct(cls, kept | convert_fields(cls, values, prefix, base=base), prefix)


def make_task(registry: Mapping[str, type[T]], name: str, settings: Mapping[str, Any]) -> T:
    """Makes the dataclass registered as `name`, the setting `task`, with `settings`, those below `task_args`.

    Raises:
        ValueError: There is no such name or setting, or a value has another type or is out of range.
    """
    if name not in registry:
        raise ValueError(f"task={name!r}: need one of {', '.join(registry)}")
    return registry[name](**convert_fields(registry[name], settings, "task_args"))


def construct(cls: type[T], arguments: Mapping[str, Any], prefix: str = "") -> T:
    """Returns an instance of a dataclass from converted arguments. Raises ConfigError if one is missing or invalid."""
    for field in _fields(cls).values():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in arguments:
            raise ConfigError(f"{_join(prefix, field.name)}: missing, it has no default")
    try:
        return cls(**arguments)
    except ConfigError:
        raise
    except ValueError as error:
        # The message of a nested dataclass begins with the name of its field; the reader needs the whole path.
        is_own = prefix and str(error).startswith(tuple(_fields(cls)))
        raise ConfigError(f"{prefix}.{error}" if is_own else str(error)) from error


def convert_fields(
    cls: type[Any],
    values: Mapping[str, Any],
    prefix: str = "",
    reserved: frozenset[str] = frozenset(),
    base: Any = None,
) -> dict[str, Any]:
    """Returns the arguments for a dataclass, keys and types checked, ranges not.

    Args:
        cls: The dataclass.
        values: Values by field name.
        prefix: See `from_mapping`.
        reserved: Fields that are no keys.
        base: See `from_mapping`.
    """
    hints = type_hints(cls)
    known = [name for name in _fields(cls) if name not in reserved]
    for key in values:
        if key not in known:
            raise _unknown_key(cls, key, values[key], prefix, known)
    return {
        key: _convert(hints[key], value, _join(prefix, key), _start(cls, key, base)) for key, value in values.items()
    }


def to_mapping(config: Any) -> dict[str, Any]:
    """Returns the plain JSON values of an instance: `from_mapping(type(config), to_mapping(config)) == config`."""
    return {name: plain(getattr(config, name)) for name in _fields(type(config))}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings as one mapping with dotted keys. An empty mapping stays a value.

    >>> flatten({"policy": {"hidden_sizes": [8]}, "task_args": {}})
    {'policy.hidden_sizes': [8], 'task_args': {}}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = _join(prefix, key)
        flat |= flatten(value, path) if isinstance(value, Mapping) and value else {path: value}
    return flat


def is_below(key: str, name: str) -> bool:
    """Returns whether a dotted key is a setting or lies below it.

    >>> is_below("policy.hidden_sizes", "policy"), is_below("policy", "policy"), is_below("policy_lr", "policy")
    (True, True, False)
    """
    return f"{key}.".startswith(f"{name}.")


def overlap(key: str, other: str) -> bool:
    """Returns whether one of two dotted keys is the other or lies below it, so that both set the same."""
    return is_below(key, other) or is_below(other, key)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Returns the settings that differ, as `{key: [before, after]}` with dotted keys and null for none."""
    flat = (flatten(before), flatten(after))
    keys = dict.fromkeys([*flat[0], *flat[1]])
    return {key: pair for key in keys if (pair := [values.get(key) for values in flat]) and pair[0] != pair[1]}


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Returns two nested mappings as one; where both have a value, that of `above`.

    >>> merge({"policy": {"hidden_sizes": [8], "activation": "tanh"}}, {"policy": {"hidden_sizes": [4]}})
    {'policy': {'hidden_sizes': [4], 'activation': 'tanh'}}
    """
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _fields(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _start(cls: type[Any], key: str, base: Any) -> Any:
    """Returns the value that a mapping for a field changes: that of `base`, or the default; None without one."""
    if base is not None:
        return getattr(base, key)
    field = _fields(cls)[key]
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def plain(value: Any) -> Any:
    """Returns a value as JSON has it: numbers for those of NumPy, lists for tuples and arrays, texts for paths.

    >>> plain({"seed": np.int64(3), "hidden_sizes": np.array([8, 8])})
    {'seed': 3, 'hidden_sizes': [8, 8]}
    """
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist()) if value.dtype == object else value.tolist()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _paths(cls: type[Any], prefix: str = "") -> list[str]:
    """Returns the dotted paths of all fields, nested ones included."""
    paths = []
    for name, hint in type_hints(cls).items():
        if name in _fields(cls):
            paths.append(_join(prefix, name))
            paths += _paths(hint, paths[-1]) if isinstance(hint, type) and dataclasses.is_dataclass(hint) else []
    return paths


def _unknown_key(cls: type[Any], key: str, value: Any, prefix: str, known: list[str]) -> ConfigError:
    given = f"{_join(prefix, key)}={value!r}: no such key"
    deeper = [_join(prefix, path) for path in _paths(cls) if "." in path and path.split(".")[0] in known]
    leaves = {path.split(".")[-1]: path for path in deeper}
    nearest = difflib.get_close_matches(str(key), known, n=1) or [
        leaves[leaf] for leaf in difflib.get_close_matches(str(key), leaves, n=1)
    ]
    if nearest:
        suggestion = nearest[0] if nearest[0] in deeper else _join(prefix, nearest[0])
        return ConfigError(f"{given}; did you mean {suggestion}?")
    return ConfigError(f"{given}; there are {', '.join(_join(prefix, name) for name in known) or 'none here'}")


def _convert(hint: Any, value: Any, path: str, start: Any = None) -> Any:
    """Returns the value converted to the type of `hint`; a mapping changes the instance `start`. Raises ConfigError."""
    if isinstance(value, np.generic) and hint is not Any:
        value = value.item()
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast(type, hint)):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={value!r}: need keys below it, {path}.<key>=...; there are "
                              f"{', '.join(_paths(typing.cast(Any, hint), path))}")  # fmt: skip
        return _made(typing.cast(type, hint), value, path, start if type(start) is hint else None)
    if typing.get_origin(hint) in (Union, types.UnionType):
        return _convert_union(hint, value, path, start)
    converted = _convert_plain(hint, value, path)
    if converted is _NO:
        raise ConfigError(f"{path}={value!r}: need {describe(hint)}{advice(hint, value, path)}")
    return converted


_NO = object()  # stands for "the value has another type"; None and False are values


def _convert_union(hint: Any, value: Any, path: str, start: Any) -> Any:
    members = typing.get_args(hint)
    nested = [member for member in members if dataclasses.is_dataclass(member)]
    if len(nested) == 1 and isinstance(value, Mapping):
        return _convert(nested[0], value, path, start)  # the message names the nested key
    # An int stays an int where that is allowed, whatever the order of the members.
    for member in sorted(members, key=lambda member: member is float):
        try:
            return _convert(member, value, path)
        except ConfigError:
            continue
    raise ConfigError(f"{path}={value!r}: need {describe(hint)}{advice(members[0], value, path)}")


def _convert_plain(hint: Any, value: Any, path: str) -> Any:
    """Returns the value converted to a type that is neither dataclass nor union, or `_NO`.

    Raises:
        ConfigError: An entry of a container has another type.
    """
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        return value if any(value == option and type(value) is type(option) for option in arguments) else _NO
    if origin is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(value) if is_number else _NO
    if origin is Sequence and isinstance(value, (list, tuple)):
        origin, arguments = tuple, (*(arguments or (Any,)), ...)
    if origin in (tuple, list):
        return _convert_sequence(origin, arguments, value, path) if isinstance(value, (list, tuple)) else _NO
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, Any]):
        if not isinstance(value, Mapping):
            return _NO
        entry = arguments[1] if arguments else Any
        return {key: _convert(entry, inner, _join(path, str(key))) for key, inner in value.items()}
    if isinstance(value, str) and isinstance(origin, type) and issubclass(origin, PurePath):
        return origin(value)
    return value if _is_instance(value, origin) else _NO


def _is_instance(value: Any, kind: Any) -> bool:
    """Returns whether a value is of a class; True for an annotation that is no class and says nothing about one."""
    if isinstance(value, (bool, str)) and kind in (int, Sequence):
        return False
    try:
        return isinstance(value, kind)
    except TypeError:
        return True


def _convert_sequence(origin: type[Any], arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            return _NO
        hints = list(arguments)
    else:
        hints = [arguments[0] if arguments else Any] * len(value)
    pairs = enumerate(zip(hints, value, strict=True))
    return origin(_convert(hint, inner, f"{path}[{index}]") for index, (hint, inner) in pairs)
