"""The settings of an experiment in one namespace: those of its algorithm, of the run and of Sacred's ingredients."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.algorithms import ALGORITHMS
from research.conversion import (
    ConfigError,
    construct,
    convert_fields,
    flatten,
    merge,
    refuse_not_finite,
    to_mapping,
)
from research.tasks import REGRESSION_TASKS, TASKS
from research.tracking.place import check_id
from research.tracking.records import MissingError, read_config
from research.tracking.sacred_parts import Ingredient
from research.tracking.settings_file import read_settings
from research.validation import suggestion, type_hints


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

    def __post_init__(self) -> None:
        if self.run is not None:
            check_id(self.run)


RUN_KEYS = frozenset(RunConfig.__dataclass_fields__)


@dataclass(frozen=True)
class Choice:
    """Several classes of settings for one experiment; a setting chooses the class of a run.

    A named config may hold differences for each class below the key: `{"design": {"reptile": {"num_inner_steps": 2}}}`
    sets `num_inner_steps` in runs with `design="reptile"` and does not choose the design.

    Attributes:
        key: The setting that chooses. It is a field of every class.
        classes: The classes by the value of that field, which is also its default in the class. The first class is
            that of runs which do not choose. Several values may have the same class, which has the first of them as the
            default: then the setting chooses among the differences of named configs alone. The name of an algorithm in
            `ALGORITHMS` stands for the class of its settings, which is then imported when it is needed.
    """

    key: str
    classes: Mapping[str, type[Any] | str]

    def class_of(self, values: Mapping[str, Any]) -> type[Any]:
        """Returns the class that the values choose. Raises ConfigError without one, or for a key of another class."""
        chosen = values.get(self.key, next(iter(self.classes)))
        if chosen not in self.classes:
            raise ConfigError(f"{self.key}={chosen!r}: need one of {', '.join(self.classes)}")
        config_class = _class_of(self.classes[chosen])
        for key, value in values.items():
            owners = [name for name, other in self.classes.items() if key in _names(_class_of(other))]
            if owners and chosen not in owners:
                owner = " or ".join(f"{self.key}={name!r}" for name in owners)
                raise ConfigError(f"{key}={value!r}: no such key with {self.key}={chosen!r}; {owner} has it")
        return config_class

    def merged(self, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns several layers of values as one: later layers win, and differences for other classes are left out."""
        choices = [layer[self.key] for layer in layers if not isinstance(layer.get(self.key, {}), Mapping)]
        chosen = choices[-1] if choices else next(iter(self.classes))
        values: dict[str, Any] = {}
        for layer in layers:
            own = layer.get(self.key)
            if isinstance(own, Mapping):
                layer = merge({key: layer[key] for key in layer if key != self.key}, own.get(chosen, {}))
            values = merge(values, layer)
        return values


class Settings:
    """The settings that an experiment has, and the checks of their values.

    Args:
        config_class: Dataclass of the algorithm's settings, the name of the algorithm in `ALGORITHMS`, or a choice of
            several.
        ingredients: Sacred's ingredients. Their settings lie below their paths (`data.path=...`), which must be plain
            names.
        named_configs: The named configs of the experiment, to which more may be added later.

    Raises:
        ValueError: A name is not in `ALGORITHMS`.
    """

    def __init__(
        self,
        config_class: type[Any] | str | Choice,
        ingredients: Sequence[Ingredient],
        named_configs: Mapping[str, Callable[[], Mapping[str, Any]]],
    ):
        self._choice = config_class if isinstance(config_class, Choice) else Choice("", {"": config_class})
        for name in self._choice.classes.values():
            if isinstance(name, str) and name not in ALGORITHMS:
                raise ValueError(f"config_class={name!r}: no such algorithm; {suggestion(name, ALGORITHMS)}")
        self._named_configs = named_configs
        self._ingredients = {
            str(one.path): {"seed"}.union(*(keys() for keys in one.configurations)) for one in ingredients
        }

    def class_of(self, values: Mapping[str, Any]) -> type[Any]:
        """Returns the class of the algorithm's settings in a run with these values. Raises ConfigError."""
        return self._choice.class_of(values)

    def defaults(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the plain defaults of a run with these values, without those of ingredients, which Sacred knows."""
        return to_mapping(self.class_of(values)()) | to_mapping(RunConfig())

    def typed(self, values: Mapping[str, Any]) -> tuple[Any, RunConfig]:
        """Returns the settings of the algorithm and those of the run. Raises ConfigError."""
        config_class, arguments = self._converted(self._own(values))
        task = _task(arguments)
        if task is not None and "task_args" in arguments:
            arguments["task_args"] = convert_fields(task, arguments["task_args"], "task_args", _names(config_class))
            construct(task, arguments["task_args"], "task_args")  # checks the ranges
        if not 0 <= arguments.get("seed", 0) < 2**32:
            raise ConfigError(f"seed={arguments['seed']}: need an integer from 0 to {2**32 - 1}")
        own = {name: arguments.pop(name) for name in RUN_KEYS & arguments.keys()}
        return construct(config_class, arguments), construct(RunConfig, own)

    def complete(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns plain values of all settings of the algorithm, all arguments of the task and all given ingredients.

        Raises:
            ConfigError: A value is invalid.
        """
        config, _ = self.typed(values)
        settings = to_mapping(config)
        task = _task(settings)
        if task is not None and "task_args" in settings:
            arguments = to_mapping(construct(task, settings["task_args"], "task_args"))
            settings["task_args"] = {key: arguments[key] for key in arguments if key not in _names(type(config))}
        return settings | self.of_ingredients(values)

    def choices(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values on which depends which settings there are: that of the choice, and the task."""
        return {key: values[key] for key in (self._choice.key, "task") if key in values}

    def checked(self, values: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values without those of ingredients, unconverted. Raises ConfigError for a wrong key or type.

        Args:
            values: Values for a command that continues from a checkpoint.
            trained: The values in the checkpoint, which choose the class of settings.
        """
        own, key = self._own(values), self._choice.key
        self._converted({key: trained[key], **own} if key in trained else own)
        return own

    def given(self, updates: Mapping[str, Any], named_configs: Sequence[str]) -> dict[str, Any]:
        """Returns the values that are set, as nested mappings: updates win over named configs, later ones over earlier.

        Raises:
            ConfigError: A name is neither that of a named config nor the path of a file with settings.
        """
        for name in named_configs:
            if name not in self._named_configs and not Path(name).is_file():
                advice = suggestion(name, self._named_configs)
                raise ConfigError(f"{name}: no such named config (and no key=value); {advice}")
        return self._choice.merged([*map(self._named, named_configs), updates])

    @contextlib.contextmanager
    def naming_source(self, updates: Mapping[str, Any], named_configs: Sequence[str]) -> Iterator[None]:
        """A context whose ConfigError names the named config, or file, that is refused for the same reason alone."""
        try:
            yield
        except ConfigError as error:
            for name in named_configs:
                if self._why_refused(name, updates) == str(error):
                    raise ConfigError(f"{name}: {error}") from error
            raise

    def _why_refused(self, name: str, updates: Mapping[str, Any]) -> str:
        """Returns why a named config, or file, is refused with no other value than those of `choices`; empty if not."""
        try:
            named = self._named(name)
        except (ConfigError, OSError):
            return ""  # the message names it already
        try:
            self.typed(self._choice.merged([named, self.choices(updates)]))
        except ConfigError as error:
            return str(error)
        return ""

    def _named(self, name: str) -> dict[str, Any]:
        return dict(self._named_configs[name]() if name in self._named_configs else read_settings(Path(name)))

    def of_ingredients(self, values: Mapping[str, Any], record: Path | None = None) -> dict[str, Any]:
        """Returns the values that belong to ingredients, or those in the record of a run, if one is given.

        Raises:
            ConfigError: A value differs from that of the record, which cannot change, or the record has lost them.
        """
        given = {path: value for path, value in values.items() if path in self._ingredients}
        if record is None or not self._ingredients:
            return given
        try:
            recorded = {path: value for path, value in read_config(record).items() if path in self._ingredients}
        except MissingError as error:
            names = ", ".join(self._ingredients)
            raise ConfigError(f"{error.path}: missing, and only it has the settings of {names}; restore it from a copy"
                              ) from None  # fmt: skip
        flat = flatten(recorded)
        for key, value in flatten(given).items():
            if flat.get(key) != value:
                raise ConfigError(f"{key}={value!r}: {record} has {flat.get(key)!r} and keeps to it; leave the key out")
        return recorded

    def _converted(self, own: Mapping[str, Any]) -> tuple[type[Any], dict[str, Any]]:
        refuse_not_finite(own)
        config_class: Any = self.class_of(own)
        return config_class, convert_fields(_union_of(config_class, RunConfig), own)

    def _own(self, values: Mapping[str, Any]) -> dict[str, Any]:
        for path, known in self._ingredients.items():
            for key, value in values.get(path, {}).items():
                if key not in known:
                    advice = suggestion(key, sorted(known), f"{path}.")
                    raise ConfigError(f"{path}.{key}={value!r}: no such key; {advice}")
        return {key: value for key, value in values.items() if key not in self._ingredients}


def _task(values: Mapping[str, Any]) -> Any:
    """Returns the class of the task that the values name; None without one."""
    name = values.get("task", "")
    return TASKS.get(name) or REGRESSION_TASKS.get(name)


def _class_of(config_class: type[Any] | str) -> type[Any]:
    """Returns the class of settings; a name is that of an algorithm."""
    return ALGORITHMS[config_class].Config if isinstance(config_class, str) else config_class


def _names(cls: type[Any]) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(cls))


@functools.cache
def _union_of(*classes: type[Any]) -> type[Any]:
    """Returns a dataclass with the fields of all classes: settings share one namespace on the command line."""
    fields: dict[str, Any] = {}
    for cls in classes:
        hints = type_hints(cls)
        for field in dataclasses.fields(cls):
            if field.name in fields:
                raise TypeError(f"{cls.__name__}.{field.name}: another class of settings has this field already")
            own = dataclasses.field(default=field.default, default_factory=field.default_factory)
            fields[field.name] = (field.name, hints[field.name], own)
    return dataclasses.make_dataclass("Settings", fields.values(), kw_only=True)
