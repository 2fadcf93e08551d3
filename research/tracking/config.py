"""The former path of `research.conversion`; new code imports that module."""

from __future__ import annotations

from research.conversion import (
    ConfigError,
    construct,
    convert_fields,
    describe,
    differences,
    flatten,
    from_mapping,
    merge,
    plain,
    to_mapping,
)

__all__ = [
    "ConfigError",
    "construct",
    "convert_fields",
    "describe",
    "differences",
    "flatten",
    "from_mapping",
    "merge",
    "plain",
    "to_mapping",
]
