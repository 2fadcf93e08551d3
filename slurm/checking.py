"""Every configuration of a sweep, checked against the experiment before anything is submitted."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import time
import typing
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from research.tracking.config import ConfigError, merge, to_mapping
from research.tracking.experiment import Experiment
from research.tracking.settings import RUN_KEYS
from research.validation import suggestion
from slurm.errors import SlurmError
from slurm.sweep import Command, Keys, Sweep, expand

_BUILDING_SECONDS = 2.0
"""How long what is trained is built of one configuration after the other; those that are left differ little."""


class Configuration(NamedTuple):
    """One configuration of a sweep.

    Attributes:
        overrides: Settings by dotted key.
        seed: The seed that results.
        hash: See `config_hash`.
    """

    overrides: Keys
    seed: int | None
    hash: str


class Checked(NamedTuple):
    """A sweep whose configurations are all possible.

    Attributes:
        script: Of the experiment, relative to the root of the code.
        name: Of the experiment.
        configurations: Each once.
    """

    script: str
    name: str
    configurations: list[Configuration]


def check(sweep: Sweep, path: Path, root: Path) -> Checked:
    """Expands a sweep and checks each configuration: its settings, and that what is trained can be built of them.

    Seeds make no difference to the latter, and other settings are tried for two seconds.

    Args:
        sweep: The sweep.
        path: Its file, for messages.
        root: Of the code.

    Raises:
        SlurmError: There is no such experiment, or a configuration cannot be; the file, the section and the key are
            named.
    """
    script = find_script(sweep.experiment, path, root)
    experiment = load_experiment(script)
    _refuse_unknown_names(experiment, sweep, path)
    sections = sweep.sections()
    for key, section in sections.items():
        if key in RUN_KEYS:
            raise SlurmError(f"{path}: {section}.{key}: a sweep cannot set it; the directory of runs is --runs-dir")
    found: dict[str, Configuration] = {}
    builder = _Builder(experiment)
    for overrides in expand(sweep):
        try:
            config, _ = experiment.settings.typed(experiment.settings.given(nest(overrides), sweep.named_configs))
            builder.build(config, overrides)
        except ValueError as error:
            raise SlurmError(f"{path}: {_place(str(error), sections, overrides)}{error}") from error
        digest = config_hash(experiment.name, to_mapping(config))
        found.setdefault(digest, Configuration(overrides, config.seed, digest))
    for stage in sweep.then:
        _check_stage(experiment, to_mapping(config), stage.fixed, stage.command, path)
    return Checked(str(script.relative_to(root)), experiment.name, list(found.values()))


class _Builder:
    """Builds what is trained, once for settings that differ in the seed alone."""

    def __init__(self, experiment: Experiment):
        self._trainer = experiment.trainer
        self._built: set[str] = set()
        self._seconds = 0.0

    def build(self, config: Any, overrides: Keys) -> None:
        """Raises ValueError if it cannot be. The device need not be there: that of the jobs is another one."""
        settings = repr(sorted((key, value) for key, value in overrides.items() if key != "seed"))
        if self._trainer is None or settings in self._built or self._seconds > _BUILDING_SECONDS:
            return
        began = time.perf_counter()
        self._trainer.build(replace(config, device="cpu"))
        self._built.add(settings)
        self._seconds += time.perf_counter() - began


def _check_stage(experiment: Experiment, trained: Mapping[str, Any], fixed: Keys, command: str, path: Path) -> None:
    """Raises SlurmError unless the experiment has the command, and the settings can replace those of the training."""
    if command not in experiment.commands:
        there = ", ".join(name for name in typing.get_args(Command) if name in experiment.commands) or "none"
        raise SlurmError(f"{path}: then.command={command!r}: {experiment.name} has no such command; there is {there}")
    try:
        experiment.settings.typed(merge(trained, nest(fixed)))
    except ConfigError as error:
        raise SlurmError(f"{path}: then.fixed: {error}") from error


def config_hash(name: str, config: Mapping[str, Any]) -> str:
    """Returns a hash of an experiment's name and settings: the same for 1 and 1.0, and for any order of the keys."""
    own = {key: value for key, value in config.items() if key not in RUN_KEYS}
    text = json.dumps([name, _canonical(own)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def nest(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings."""
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        *above, last = key.split(".")
        inner: dict[str, Any] = {last: value}
        for name in reversed(above):
            inner = {name: inner}
        nested = merge(nested, inner)
    return nested


def find_script(experiment: str, path: Path, root: Path) -> Path:
    """The script of an experiment's name, or of its path below the root. Raises SlurmError."""
    script = root / experiment if experiment.endswith(".py") else root / "experiments" / f"{experiment}.py"
    script = script.resolve()
    if script.is_file() and root.resolve() in script.parents:
        return script
    names = sorted(other.stem for other in (root / "experiments").glob("*.py") if "make_" in other.read_text())
    raise SlurmError(
        f"{path}: experiment={experiment!r}: no {script}, or it lies outside of {root}; {suggestion(experiment, names)}"
    )


def load_experiment(script: Path) -> Experiment:
    """The variable `experiment` of a script, which is imported and not run."""
    name = f"_experiment_{script.stem}"
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None and spec.loader is not None  # it is a .py
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    # Its folder, as when the script is run.
    sys.path.insert(0, str(script.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(script.parent))
    experiment = getattr(module, "experiment", None)
    if not isinstance(experiment, Experiment):
        raise SlurmError(f"{script}: need a variable `experiment`, made by make_experiment, and it is {experiment!r}")
    return experiment


def _refuse_unknown_names(experiment: Experiment, sweep: Sweep, path: Path) -> None:
    """Raises SlurmError unless the experiment has every named config of the sweep."""
    for name in sweep.named_configs:
        if name not in experiment.named_configs:
            advice = suggestion(name, experiment.named_configs)
            raise SlurmError(f"{path}: named_configs: {name}: {experiment.name} has no such named config; {advice}")


def _place(message: str, sections: Mapping[str, str], overrides: Keys) -> str:
    """Where in the file the key stands with which an error begins."""
    key = message.split("=")[0].split(":")[0]
    for known, section in sections.items():
        if f"{known}.".startswith(f"{key}.") or f"{key}.".startswith((f"{known}.", f"{known}[")):
            return f"{section}: "
    return f"in the configuration {json.dumps(overrides)}: "


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
