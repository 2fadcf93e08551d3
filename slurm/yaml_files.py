"""Reads YAML files with the plain scalars of YAML 1.2, and refuses duplicate keys.

Differs from PyYAML, which reads YAML 1.1: `1e-3` is a number instead of a string, `4:00:00` a string instead of 14400,
`no` a string instead of False, and `2026-11-21` a string instead of a date.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from slurm.errors import SlurmError


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML reads this class attribute


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node, deep=True))
        if key in values:
            raise SlurmError(f"line {key_node.start_mark.line + 1}: {key} is there twice; keep one")
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


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping in a file. Raises SlurmError if the file does not exist or holds something else."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        there = ", ".join(sorted(near.stem for near in path.parent.glob("*.yaml"))) or "no *.yaml"
        raise SlurmError(f"{path}: no such file; {path.parent} has {there}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SlurmError(f"{path}: cannot read the file: {' '.join(str(error).split())}") from error
    except SlurmError as error:
        raise SlurmError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise SlurmError(f"{path}: need keys and values, got {values!r:.60}")
    return values
