"""Starts from a record or a checkpoint: which one a command line names, and which settings it may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research import checkpoint
from research.checkpoint import Checkpoint, CheckpointError
from research.tracking.config import ConfigError, flatten, from_mapping, merge, to_mapping
from research.tracking.place import id_of, sort_key
from research.tracking.records import read_config, read_run
from research.tracking.settings import RUN_KEYS, RunConfig, Settings

COMMANDS = ("resume", "ensure", "evaluate", "render")
"""The commands that start from a record or a checkpoint."""

OWN_DEFAULTS: dict[str, dict[str, Any]] = {"render": {"num_eval_tasks": 3}}
"""By command: settings whose default is not the value in the checkpoint."""

_ABSENT = object()


@dataclass(frozen=True)
class Start:
    """The start of a command.

    Attributes:
        checkpoint: The checkpoint with the first state; None for the initial state.
        config: Plain values of all settings: those of the checkpoint, changed by the command line.
        run_id: Id of the record to write; None for the next number.
        resume_at: Number of finished iterations at which the record is continued; None for a new record.
        is_complete: Whether the run is complete already.
        result: The result of a complete run.
    """

    checkpoint: Checkpoint | None
    config: dict[str, Any]
    run_id: int | str | None = None
    resume_at: int | None = None
    is_complete: bool = False
    result: Any = None


def find_start(command: str, name: str, settings: Settings, given: Mapping[str, Any]) -> Start:
    """Returns the start of a command. The record of a run that `ensure` completes must be locked.

    Args:
        command: One of `COMMANDS`.
        name: Name of the algorithm.
        settings: The settings of the experiment.
        given: Nested plain values from the command line.

    Raises:
        ConfigError: The run is not named clearly, or a setting contradicts its record or checkpoint.
        CheckpointError: The checkpoint cannot be used.
    """
    if command == "ensure":
        start = _find_ensured(name, *settings.typed(given))
    else:
        start = _find_checkpoint(command, name, settings, given)
    if start.resume_at is not None:  # a record keeps the settings of its ingredients
        start.config.update(settings.of_ingredients(given, Path(start.config["runs_dir"], str(start.run_id))))
    elif not start.is_complete:
        start.config.update(settings.of_ingredients(given))
    return start


def ensured_directory(run_config: RunConfig) -> Path:
    """Returns the directory of the run that `ensure` is asked for. Raises ConfigError if none is named."""
    if run_config.run is None or run_config.checkpoint is not None:
        raise ConfigError("ensure needs run=<id> and no checkpoint: it starts that run, continues it, or finds it "
                          "complete, e.g. `ensure with run=7`")  # fmt: skip
    return Path(run_config.runs_dir, str(run_config.run))


def is_free(directory: Path, command: str) -> bool:
    """Returns whether a command may write a new record in a directory.

    It may if there is no record. Commands that start from the beginning each time may also replace a record of
    themselves that is not complete; training is continued by `ensure` instead.
    """
    if not (directory / "run.json").is_file():
        return True
    run = read_run(directory)
    return command in ("evaluate", "render") and run.get("command") == command and run["status"] != "COMPLETED"


def _find_ensured(name: str, config: Any, run_config: RunConfig) -> Start:
    asked, run_id = to_mapping(config), id_of(str(run_config.run))
    values, record = asked | to_mapping(run_config), Path(run_config.runs_dir, str(run_id))
    if not (record / "run.json").is_file():
        return Start(None, values, run_id)
    recorded = read_config(record)
    _refuse_contradictions("ensure", type(config), record, recorded, asked)
    _keep_schedules(values, recorded)
    run = read_run(record)
    if run["status"] == "COMPLETED" and run["result"]["iteration"] >= asked["num_iterations"]:
        return Start(None, values, run_id, is_complete=True, result=run["result"])
    found = _usable_checkpoint(record / "checkpoints")
    if found is None:
        return Start(None, values, run_id, resume_at=0)
    found.require_algorithm(name)
    return Start(found, values, run_id, found.iteration)


def _usable_checkpoint(directory: Path) -> Checkpoint | None:
    """Returns the latest checkpoint, or the best one if it is damaged; None if neither can be read."""
    for path in (directory / "latest.pt", directory / "best.pt"):
        if path.exists():
            try:
                return checkpoint.load(path)
            except CheckpointError as error:
                print(f"warning: {error}", flush=True)
    return None


def _find_checkpoint(command: str, name: str, settings: Settings, given: Mapping[str, Any]) -> Start:
    run_config = from_mapping(RunConfig, {key: value for key, value in given.items() if key in RUN_KEYS})
    found = checkpoint.load(_path(command, run_config))
    found.require_algorithm(name)
    try:
        config_class = settings.class_of(found.config)
        trained = to_mapping(from_mapping(config_class, found.config))
    except ConfigError as error:
        raise CheckpointError(
            f"{found.path} was made with other settings than this version of the code has: {error}. "
            f"Use the version that wrote it, whose commit run.json of the run names under `repositories`."
        ) from error
    given = settings.checked(given, trained)
    changes = {key: value for key, value in given.items() if key not in RUN_KEYS}
    _refuse_contradictions(command, config_class, found.path, trained, changes)
    config = merge(merge(trained, OWN_DEFAULTS.get(command, {})), changes)
    if command == "resume":
        _keep_schedules(config, trained)
        return _resume(found, config, given)
    return Start(found, config | {key: given[key] for key in RUN_KEYS & given.keys()})


def _path(command: str, run_config: RunConfig) -> Path:
    if (run_config.run is None) == (run_config.checkpoint is None):
        raise ConfigError(
            f"{command} needs either run=<id> or checkpoint=<path>, e.g. `{command} with run=3` or "
            f"`{command} with checkpoint={run_config.runs_dir}/3/checkpoints/best`"
        )
    if run_config.checkpoint is not None:
        return Path(run_config.checkpoint)
    record = Path(run_config.runs_dir, str(run_config.run))
    if not record.is_dir():
        runs = sorted((path.name for path in record.parent.glob("[0-9]*")), key=sort_key)
        there = f"the last there is {runs[-1]}" if runs else "there is none"
        raise ConfigError(f"run={run_config.run!r}: no such run in {record.parent}; {there}")
    return record / "checkpoints" / "latest.pt"


def _resume(found: Checkpoint, config: dict[str, Any], given: Mapping[str, Any]) -> Start:
    record = found.path.resolve().parent.parent
    if not (record / "run.json").is_file():
        raise ConfigError(
            f"checkpoint={str(found.path)!r}: resume continues the record of a run, and this checkpoint is in none; "
            f"need <runs_dir>/<id>/checkpoints/<name>.pt"
        )
    if config["num_iterations"] < found.iteration:
        raise ConfigError(
            f"num_iterations={config['num_iterations']}: {found.path} has finished {found.iteration} already; "
            f"need at least as many"
        )
    run_id = id_of(record.name)
    runs_dir = given.get("runs_dir", str(found.path.parent.parent.parent))
    return Start(found, config | {"runs_dir": runs_dir, "run": run_id}, run_id, found.iteration)


def _keep_schedules(config: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Gives the schedules of a run the length that they were started with, unless another one is asked for."""
    if "schedule_iterations" in config and config["schedule_iterations"] is None:
        length = before.get("schedule_iterations") or before["num_iterations"]
        if length != config["num_iterations"]:
            config["schedule_iterations"] = length


def _refuse_contradictions(
    command: str, config_class: type[Any], path: Path, trained: Mapping[str, Any], changes: Mapping[str, Any]
) -> None:
    """Raises ConfigError if a change is neither the value in the checkpoint nor one that the Config allows."""
    is_training = command in ("resume", "ensure")
    allowed: frozenset[str] = config_class.resume_settings if is_training else config_class.evaluation_settings
    stored = flatten(trained)
    for key, value in flatten(changes).items():
        is_allowed = any(f"{key}.".startswith(f"{name}.") for name in allowed)
        if not is_allowed and stored.get(key, _ABSENT) != value:
            was = f"{stored[key]!r}" if key in stored else "nothing"
            raise ConfigError(
                f"{key}={value!r}: {path} was trained with {was}, and {command} keeps to it. Leave the key out, or "
                f"train a new run. Allowed here: {', '.join(sorted(allowed))}"
            )
