"""The settings of an experiment in one namespace: those of its algorithm, of the run and of Sacred's ingredients."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sacred import Ingredient
from sacred.config import load_config_file

from research.tasks import REGRESSION_TASKS, TASKS
from research.tracking.config import ConfigError, construct, convert_fields, flatten, merge, to_mapping
from research.tracking.records import read_config
from research.validation import suggestion


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run that do not belong to the algorithm.

    Attributes:
        runs_dir: Directory of the records, one directory for each run.
        run: Id of the recorded run that `resume` continues, `evaluate` evaluates, `render` draws or `ensure` completes.
        checkpoint: Path of a checkpoint, as an alternative to `run`; `.pt` may be left out.
    """

    runs_dir: str = "runs"
    run: int | str | None = None
    checkpoint: str | None = None


RUN_KEYS = frozenset(RunConfig.__dataclass_fields__)


class Settings:
    """The settings that an experiment has, and the checks of their values.

    Args:
        config_class: Dataclass of the algorithm's settings.
        ingredients: Sacred's ingredients. Their settings lie below their paths (`data.path=...`), which must be plain
            names.
        named_configs: The named configs of the experiment, to which more may be added later.
    """

    def __init__(
        self,
        config_class: type[Any],
        ingredients: Sequence[Ingredient],
        named_configs: Mapping[str, Callable[[], Mapping[str, Any]]],
    ):
        self.config_class = config_class
        self._named_configs = named_configs
        self._all = _union_of(config_class, RunConfig)
        self._ingredients = {str(one.path): {"seed", *_keys_of(one)} for one in ingredients}

    def defaults(self) -> dict[str, Any]:
        """Plain values of all settings but those of ingredients, which Sacred knows."""
        return to_mapping(self.config_class()) | to_mapping(RunConfig())

    def typed(self, values: Mapping[str, Any]) -> tuple[Any, RunConfig]:
        """The settings of the algorithm and those of the run. Raises ConfigError."""
        arguments = convert_fields(self._all, self._own(values))
        task: Any = {**TASKS, **REGRESSION_TASKS}.get(arguments.get("task", ""))
        if task is not None and "task_args" in arguments:
            reserved = frozenset(field.name for field in dataclasses.fields(self.config_class))
            arguments["task_args"] = convert_fields(task, arguments["task_args"], "task_args", reserved)
            construct(task, arguments["task_args"], "task_args")  # checks the ranges
        if not 0 <= arguments.get("seed", 0) < 2**32:
            raise ConfigError(f"seed={arguments['seed']}: need an integer from 0 to {2**32 - 1}")
        own = {name: arguments.pop(name) for name in RUN_KEYS & arguments.keys()}
        return construct(self.config_class, arguments), construct(RunConfig, own)

    def checked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values without those of ingredients, unconverted. Raises ConfigError for a wrong key or type."""
        own = self._own(values)
        convert_fields(self._all, own)
        return own

    def given(self, updates: Mapping[str, Any], named_configs: Sequence[str]) -> dict[str, Any]:
        """The values that named configs and updates set, nested; updates win, and later named configs over earlier."""
        values: dict[str, Any] = {}
        for name in named_configs:
            named = self._named_configs[name]() if name in self._named_configs else load_config_file(name)
            values = merge(values, dict(named))
        return merge(values, updates)

    def refuse_unknown_names(self, named_configs: Sequence[str]) -> None:
        """Raises ConfigError unless each is a named config or a file."""
        for name in named_configs:
            if name not in self._named_configs and not Path(name).is_file():
                raise ConfigError(
                    f"{name}: no such named config (and no key=value); {suggestion(name, self._named_configs)}"
                )

    def of_ingredients(self, values: Mapping[str, Any], record: Path | None = None) -> dict[str, Any]:
        """The values that belong to ingredients; those of the record of a run, if one is named.

        Raises:
            ConfigError: A value differs from that of the record, which cannot change.
        """
        given = {path: value for path, value in values.items() if path in self._ingredients}
        if record is None or not self._ingredients:
            return given
        recorded = {path: value for path, value in read_config(record).items() if path in self._ingredients}
        flat = flatten(recorded)
        for key, value in flatten(given).items():
            if flat.get(key) != value:
                raise ConfigError(f"{key}={value!r}: {record} has {flat.get(key)!r} and keeps to it; leave the key out")
        return recorded

    def _own(self, values: Mapping[str, Any]) -> dict[str, Any]:
        for path, known in self._ingredients.items():
            for key, value in values.get(path, {}).items():
                if key not in known:
                    advice = suggestion(key, sorted(known), f"{path}.")
                    raise ConfigError(f"{path}.{key}={value!r}: no such key; {advice}")
        return {key: value for key, value in values.items() if key not in self._ingredients}


def _keys_of(ingredient: Ingredient) -> set[str]:
    return {key for configuration in ingredient.configurations for key in configuration()}


def _union_of(*classes: type[Any]) -> type[Any]:
    """A dataclass with the fields of all classes: settings share one namespace on the command line."""
    fields: dict[str, Any] = {}
    for cls in classes:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if field.name in fields:
                raise TypeError(f"{cls.__name__}.{field.name}: another class of settings has this field already")
            fields[field.name] = (field.name, hints[field.name], dataclasses.field(default=None))
    return dataclasses.make_dataclass("Settings", fields.values())
