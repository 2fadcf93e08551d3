"""Reads settings from files and command lines as plain values. Nothing that is read can run code.

Sacred restores the objects that a file or a value describes (`{"py/reduce": ...}`, pickle), which can call any
function. Therefore neither the paths nor the values of a command line reach its readers.

YAML files have the plain scalars of YAML 1.2. PyYAML reads YAML 1.1: here `1e-3` is a number and not a string,
`4:00:00` a string and not 14400, `no` a string and not False, and `2026-11-21` a string and not a date.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from research.conversion import ConfigError, flatten, merge

_MOST_VALUES = 1_000_000  # in a file: YAML can repeat a part so often that a few lines stand for billions of values


def read_settings(path: Path, option: str = "") -> dict[str, Any]:
    """Returns the settings in a `.json`, `.yaml` or `.yml` file as nested mappings; its keys may be nested or dotted.

    Args:
        path: The file.
        option: The option that named the file, for messages. Such a file, which may be a pipe, may have any other name
            if it holds JSON.

    Raises:
        ConfigError: The file cannot be read, its name ends otherwise, or it holds something other than plain settings.
    """
    readers = {".json": parse_json, ".yaml": parse_yaml, ".yml": parse_yaml}
    try:
        if path.suffix not in readers and not option:
            raise ConfigError(f"settings are read from files with names in {', '.join(readers)}; save it as JSON")
        values = readers.get(path.suffix, parse_json)(path.read_text(encoding="utf-8-sig"))
        if not isinstance(values, dict):
            raise ConfigError(f"need keys and values, got {values!r:.60}")
        return nested(values)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{option}{path}: {error}") from error


def parse_json(text: str) -> Any:
    """Returns the plain value of a JSON text. Raises ValueError for invalid JSON, NaN, or a key given twice."""
    try:
        return plain(json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique))
    except RecursionError:
        raise ConfigError("nested too deeply") from None


def parse_yaml(text: str) -> Any:
    """Returns the plain value of a YAML text. Raises ValueError for invalid YAML, a tag, or a key given twice."""
    try:
        return plain(yaml.load(text, _Loader))
    except yaml.YAMLError as error:
        raise ConfigError(f"invalid YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError("nested too deeply") from None


def read_updates(updates: Sequence[str] | None) -> tuple[dict[str, Any], list[str]]:
    """Returns the `key=value` parts of a command line as nested mappings, and the other parts, which name configs.

    >>> read_updates(["inner_lr=1e-3", "policy.hidden_sizes=(8, 8)", "runs_dir=2024_01_05", "fast"])
    ({'inner_lr': 0.001, 'policy': {'hidden_sizes': [8, 8]}, 'runs_dir': '2024_01_05'}, ['fast'])

    Raises:
        ConfigError: A value is `0,1`, which would be a list and often means 0.1, or a key is none.
    """
    values: dict[str, Any] = {}
    names: list[str] = []
    for update in filter(None, updates or ()):
        key, equals, text = (part.strip() for part in update.partition("="))
        if equals:
            values = merge(values, nested({key: parse_literal(text, key)}))
        else:
            names.append(key)
    return values, names


def parse_literal(text: str, key: str) -> Any:
    """Returns the plain value of a Python literal, or the text itself if it is none.

    Digits with underscores are a text (`2024_01_05`), which Python would read as one number.

    Args:
        text: The text to the right of `key=`.
        key: The setting, for messages.

    Raises:
        ConfigError: The text has a comma outside of brackets.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text.lstrip(" \t"), mode="eval")
            value = ast.literal_eval(tree)
        is_plain_number = all("_" not in number for number in _numbers(text.lstrip(" \t"), tree))
        value = plain(value) if is_plain_number else text
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    if isinstance(tree.body, ast.Tuple) and not text.startswith("("):
        raise ConfigError(
            f"{key}={text}: a comma outside of brackets; write {key}={text.replace(',', '.', 1)} for a number or "
            f"{key}=[{text}] for a list"
        )
    return value


def _numbers(text: str, tree: ast.AST) -> Iterator[str]:
    """Yields the numbers of a parsed text as they were typed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            yield ast.get_source_segment(text, node) or ""


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with nested or dotted keys as nested mappings.

    >>> nested({"policy.activation": "tanh", "policy": {"hidden_sizes": [8]}})
    {'policy': {'activation': 'tanh', 'hidden_sizes': [8]}}

    Raises:
        ConfigError: A setting is there twice.
    """
    result: dict[str, Any] = {}
    for key, value in values.items():
        inner = nested(value) if isinstance(value, Mapping) and value else value
        for part in reversed(key.split(".")):
            inner = {part: inner}
        merged = merge(result, inner)
        if len(flatten(merged)) < len(flatten(result)) + len(flatten(inner)):
            raise ConfigError(f"{key} is there twice, as one key and as keys below it; keep one")
        result = merged
    return result


def plain(value: Any) -> Any:
    """Returns a value as JSON has it: lists for tuples, text for the integers that are keys.

    Raises:
        ValueError: A part of it is not plain, is no finite number, or has a key that Sacred cannot record.
    """
    return _plain(value, iter(range(_MOST_VALUES)))


def _plain(value: Any, budget: Iterator[int]) -> Any:
    if next(budget, None) is None:
        raise ConfigError(f"more than {_MOST_VALUES} values")
    if isinstance(value, dict):
        return {_key(key): _plain(inner, budget) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, budget) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{value}: need a finite number, a record cannot hold another")
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ConfigError(f"{value!r:.60}: need a number, a text, True, False, None, a list or keys with values")


def _key(key: Any) -> str:
    if type(key) not in (str, int) or not key or str(key).startswith(("$", "py/", "json://")):
        raise ConfigError(f"{key!r:.60}: no key of a setting")
    return str(key)


def _refuse_constant(constant: str) -> None:
    raise ConfigError(f"{constant} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise ConfigError(f"{key} is there twice; keep one")
    return dict(pairs)


class _Loader(yaml.SafeLoader):
    """Reads mappings, lists and the scalars of `_PLAIN`; refuses tags, which name types (`!!python/object`)."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML reads this class attribute

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise ConfigError(f"line {event.start_mark.line + 1}: {event.tag}: a tag; leave it out")
        return super().compose_node(parent, index)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line, key = key_node.start_mark.line + 1, key_node.value
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"line {line}: need a text as a key")
        if key in values:
            raise ConfigError(f"line {line}: {key} is there twice; keep one")
        values[key] = loader.construct_object(value_node, deep=True)
    return values


_PLAIN = {
    "null": ("null|Null|NULL|~|", "~nN"),
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": ("[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", "-+.0123456789"),
}
for _tag, (_pattern, _first) in _PLAIN.items():
    first = [*_first, ""] if _tag == "null" else [*_first]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), first)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
