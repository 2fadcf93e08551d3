"""Settings of Sacred's ingredients, which have a place of their own in a configuration: `data.path=...`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sacred import Ingredient

from research.tracking.config import ConfigError, flatten
from research.tracking.records import read_config


class Ingredients:
    """The ingredients of an experiment, and which settings are theirs.

    Args:
        ingredients: Their paths must be plain names.
    """

    def __init__(self, ingredients: Sequence[Ingredient]):
        self.known: dict[str, set[str]] = {str(one.path): {"seed", *_defaults(one)} for one in ingredients}

    def without(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that are no ingredient's. Raises ConfigError if an ingredient is given one that it lacks."""
        for path, keys in self.known.items():
            for key, value in values.get(path, {}).items():
                if key not in keys:
                    nearest = difflib.get_close_matches(key, keys, n=1)
                    advice = f"did you mean {path}.{nearest[0]}?" if nearest else f"there are {', '.join(sorted(keys))}"
                    raise ConfigError(f"{path}.{key}={value!r}: no such key; {advice}")
        return {key: value for key, value in values.items() if key not in self.known}

    def of_record(self, record: Path, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a recorded run has. Raises ConfigError if others are given: a run keeps to its own."""
        if not self.known:
            return {}
        recorded = {path: value for path, value in read_config(record).items() if path in self.known}
        flat = flatten(recorded)
        for key, value in flatten({path: value for path, value in given.items() if path in self.known}).items():
            if flat.get(key) != value:
                raise ConfigError(f"{key}={value!r}: {record} has {flat.get(key)!r} and keeps to it; leave the key out")
        return recorded


def _defaults(ingredient: Ingredient) -> set[str]:
    return {key for configuration in ingredient.configurations for key in configuration()}
