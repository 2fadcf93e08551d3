"""Checks every configuration of a sweep against its experiment, before anything is submitted."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import typing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from research.algorithms import ChecksStates
from research.conversion import ConfigError, merge, to_mapping
from research.tracking.experiment import Experiment
from research.tracking.settings import RUN_KEYS
from research.validation import recorded, suggestion
from slurm.changes import Changes, changes_of
from slurm.errors import SlurmError
from slurm.identity import ChangedDefault, Identifier, Identity, config_hash, nest
from slurm.known import Past
from slurm.sweep import Command, Keys, Sweep, expand

_BUILDING_SECONDS = 2.0
"""Time limit for building the algorithms of a sweep's configurations; the rest is checked by type and range alone."""


class Configuration(NamedTuple):
    """One configuration of a sweep.

    Attributes:
        overrides: Settings by dotted key.
        seed: The seed of the run; None if the experiment has no seed.
        hash: Hash of all settings of the algorithm, see `config_hash`.
        identity: Hash and values of all settings, those of the task included.
    """

    overrides: Keys
    seed: int | None
    hash: str
    identity: Identity


class Checked(NamedTuple):
    """A sweep whose configurations are all valid.

    Attributes:
        script: Script of the experiment, relative to the root directory of the code.
        name: Name of the experiment.
        configurations: The configurations, without duplicates.
        past: Hash of the identity of each run that exists already; None if the code has no such run.
        changed: Defaults that have changed since completed runs, which are new configurations only for that.
        changes: Settings that may change while a run trains.
    """

    script: str
    name: str
    configurations: Sequence[Configuration]
    past: Sequence[str | None]
    changed: Sequence[ChangedDefault]
    changes: Changes


def check(sweep: Sweep, path: Path, root: Path, pasts: Sequence[Past] = ()) -> Checked:
    """Expands a sweep and checks each configuration: the names, types and ranges of its settings.

    The algorithm is also built, once for settings that differ only in the seed, and for two seconds in total.

    Args:
        sweep: The sweep.
        path: The sweep file, named in messages.
        root: Root directory of the code.
        pasts: Runs that exist already.

    Raises:
        SlurmError: The experiment does not exist, or a configuration is invalid; with the file, section and key.
    """
    script = find_script(sweep.experiment, path, root)
    experiment = load_experiment(script)
    _refuse_unknown_names(experiment, sweep, path)
    sections = sweep.sections()
    for key, section in sections.items():
        if key in RUN_KEYS:
            raise SlurmError(
                f"{path}: {section}.{key}: a sweep cannot set this key; --runs-dir sets the directory of runs"
            )
    found: dict[str, Configuration] = {}
    builder, identifier = _Builder(experiment), Identifier(experiment)
    for overrides in expand(sweep):
        try:
            given = experiment.settings.given(nest(overrides), sweep.named_configs)
            config, _ = experiment.settings.typed(given)
            builder.build(config, overrides)
            identity = identifier.identify(given)
        except ValueError as error:
            raise SlurmError(f"{path}: {_place(str(error), sections, overrides)}{error}") from error
        digest = config_hash(experiment.name, to_mapping(config))
        found.setdefault(identity.hash, Configuration(overrides, config.seed, digest, identity))
    for stage in sweep.then:
        _check_stage(experiment, to_mapping(config), stage.fixed, stage.command, path)
    configurations = list(found.values())
    recognised, changes = _recognise(configurations, pasts, identifier), changes_of(type(config))
    return Checked(str(script.relative_to(root.resolve())), experiment.name, configurations, *recognised, changes)


def _recognise(
    configurations: Sequence[Configuration], pasts: Sequence[Past], identifier: Identifier
) -> tuple[list[str | None], list[ChangedDefault]]:
    """Returns `past` and `changed` of `Checked`. A run whose settings are unknown has the hash of its manifest."""
    identities = [identifier.identify_past(past) for past in pasts]
    old = {configuration.hash: configuration.identity.hash for configuration in configurations}
    hashes = [
        then.hash if then is not None else old.get(past.hash) if past.settings is None else None
        for past, then in zip(pasts, identities, strict=True)
    ]
    new = [configuration.identity for configuration in configurations if configuration.identity.hash not in hashes]
    return hashes, identifier.changed_defaults(new, zip(pasts, identities, strict=True))


class _Builder:
    """Builds the algorithm of a configuration, once for settings that differ only in the seed."""

    def __init__(self, experiment: Experiment):
        self._trainer = experiment.trainer
        self._built: set[str] = set()
        self._seconds = 0.0

    def build(self, config: Any, overrides: Keys) -> None:
        """Raises ValueError if the algorithm cannot be built. It is built on the CPU: the jobs have other devices."""
        settings = repr(sorted((key, value) for key, value in overrides.items() if key != "seed"))
        if self._trainer is None or settings in self._built or self._seconds > _BUILDING_SECONDS:
            return
        began = time.perf_counter()
        algorithm = self._trainer.build(replace(config, device="cpu"))
        if isinstance(algorithm, ChecksStates):
            algorithm.check(algorithm.init())  # type: ignore[attr-defined]  # it is an Algorithm, too
        self._built.add(settings)
        self._seconds += time.perf_counter() - began


def _check_stage(experiment: Experiment, trained: Mapping[str, Any], fixed: Keys, command: str, path: Path) -> None:
    """Raises SlurmError unless the experiment has the command and its settings can override those of the training."""
    if command not in experiment.commands:
        there = ", ".join(name for name in typing.get_args(Command) if name in experiment.commands) or "none"
        raise SlurmError(f"{path}: then.command={command!r}: {experiment.name} has no such command; there is {there}")
    try:
        with recorded(trained):
            experiment.settings.typed(merge(trained, nest(fixed)))
    except ConfigError as error:
        raise SlurmError(f"{path}: then.fixed: {error}") from error


def find_script(experiment: str, path: Path, root: Path) -> Path:
    """Returns the script of an experiment.

    Args:
        experiment: Name of a script in `experiments/`, or the path of a script below `root`.
        path: The sweep file, named in messages.
        root: Root directory of the code.

    Raises:
        SlurmError: There is no such script.
    """
    script = root / experiment if experiment.endswith(".py") else root / "experiments" / f"{experiment}.py"
    script = script.resolve()
    if script.is_file() and root.resolve() in script.parents:
        return script
    names = sorted(
        other.stem for other in (root / "experiments").glob("*.py") if "make_" in other.read_text(encoding="utf-8")
    )
    raise SlurmError(
        f"{path}: experiment={experiment!r}: {script} does not exist or is outside of {root}; "
        f"{suggestion(experiment, names)}"
    )


def load_experiment(script: Path) -> Experiment:
    """Imports a script without running it, and returns its variable `experiment`. Raises SlurmError if it has none."""
    name = f"_experiment_{script.stem}"
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None and spec.loader is not None  # it is a .py
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    # Python adds this folder when it runs the script.
    sys.path.insert(0, str(script.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise SlurmError(f"{script}: cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(script.parent))
    experiment = getattr(module, "experiment", None)
    if not isinstance(experiment, Experiment):
        raise SlurmError(f"{script}: need a variable `experiment` made by make_experiment, got {experiment!r}")
    return experiment


def _refuse_unknown_names(experiment: Experiment, sweep: Sweep, path: Path) -> None:
    """Raises SlurmError unless the experiment has every named config of the sweep."""
    for name in sweep.named_configs:
        if name not in experiment.named_configs:
            advice = suggestion(name, experiment.named_configs)
            raise SlurmError(f"{path}: named_configs: {name}: {experiment.name} has no such named config; {advice}")


def _place(message: str, sections: Mapping[str, str], overrides: Keys) -> str:
    """Returns the section of the sweep file that has the key of an error message, as a prefix of the message."""
    key = message.split("=")[0].split(":")[0]
    for known, section in sections.items():
        if f"{known}.".startswith(f"{key}.") or f"{key}.".startswith((f"{known}.", f"{known}[")):
            return f"{section}: "
    return f"in the configuration {json.dumps(overrides)}: "
