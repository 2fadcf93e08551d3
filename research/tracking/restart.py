"""Starts from a record or a checkpoint: which one a command line names, and which settings it may change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from research import checkpoint
from research.checkpoint import Checkpoint, CheckpointError
from research.conversion import ConfigError, from_mapping, merge, to_mapping
from research.tracking.adopting import Adopted, find_adopted
from research.tracking.kept_settings import keep_schedules, refuse_contradictions, with_recorded
from research.tracking.place import Place, place_of_checkpoint, place_of_run, sort_key
from research.tracking.records import (
    METRICS,
    Extent,
    MissingError,
    RecordError,
    has_remains,
    missing_rows,
    read_config,
    read_run,
)
from research.tracking.settings import RUN_KEYS, RunConfig, Settings
from research.validation import recorded

COMMANDS = ("resume", "ensure", "evaluate", "render")
"""The commands that start from a record or a checkpoint."""

TRAINING = ("train", "resume", "ensure")
"""The commands whose records can be continued."""

OWN_DEFAULTS: dict[str, dict[str, Any]] = {"render": {"num_eval_tasks": 3}}
"""By command: settings whose default is not the value in the checkpoint."""


@dataclass(frozen=True)
class Start:
    """The start of a command.

    Attributes:
        checkpoint: The checkpoint with the first state; None for the initial state.
        config: Plain values of all settings: those of the checkpoint, changed by the command line.
        place: The record to write; None for one with the next number.
        resume_at: Number of finished iterations at which the record is continued; None for a new record.
        is_complete: Whether the run is complete already.
        result: The result of a complete run.
        adopts: The state of another run with which it goes on, see `research.tracking.adopting`; None for its own.
        recorded: Plain values of the settings that a record or a checkpoint has, see `research.validation.recorded`.
    """

    checkpoint: Checkpoint | None
    config: dict[str, Any]
    place: Place | None = None
    resume_at: int | None = None
    is_complete: bool = False
    result: Any = None
    adopts: Adopted | None = None
    recorded: Mapping[str, Any] = field(default_factory=dict)


def find_place(command: str, given: Mapping[str, Any]) -> Place | None:
    """Returns the place of the record that a command continues; None for a command that writes a new one.

    Nothing of the record is read: that is for its lock to allow.

    Raises:
        ConfigError: The run is not named clearly, or there is none.
        CheckpointError: There is no such checkpoint.
    """
    if command not in ("resume", "ensure"):
        return None
    run_config = _run_config(given)
    if command == "ensure":
        if run_config.run is None or run_config.checkpoint is not None:
            raise ConfigError(
                "ensure needs run=<id> and no checkpoint: it starts that run, continues it, or finds it complete, e.g. "
                "`ensure with run=7`"
            )
        return place_of_run(run_config.runs_dir, run_config.run)
    path = _path(command, run_config)
    if run_config.checkpoint is None:
        return place_of_run(run_config.runs_dir, run_config.run)  # type: ignore[arg-type]
    place = place_of_checkpoint(path)
    if place is None:
        raise ConfigError(
            f"checkpoint={str(path)!r}: resume continues the record of a run, and this checkpoint is in none; "
            f"need <runs_dir>/<id>/checkpoints/<name>.pt"
        )
    if "runs_dir" in given and Path(run_config.runs_dir).resolve() != place.runs_dir.resolve():
        raise ConfigError(
            f"runs_dir={run_config.runs_dir!r}: {path} belongs to a run in {place.runs_dir}, where resume "
            "continues it; leave runs_dir out"
        )
    return place


def find_start(
    command: str,
    name: str,
    settings: Settings,
    given: Mapping[str, Any],
    place: Place | None = None,
    adopt: str | None = None,
) -> Start:
    """Returns the start of a command.

    Args:
        command: One of `COMMANDS`.
        name: Name of the algorithm.
        settings: The settings of the experiment.
        given: Nested plain values from the command line.
        place: The record to continue, from `find_place`, whose lock is held.
        adopt: Path of a file with an `Adoption`; None for none.

    Raises:
        ConfigError: The run is not named clearly, or a setting contradicts its record or checkpoint.
        CheckpointError: The checkpoint cannot be used.
        RecordError: A file of the record is damaged.
    """
    if adopt is not None and (command != "ensure" or place is None):
        raise ConfigError(f"--adopt={adopt}: {command} has no such option; need ensure")
    adopted = None if adopt is None or place is None else find_adopted(Path(adopt), name, settings, given, place)
    if adopted is not None and place is not None:
        own, start_at = {"runs_dir": str(place.runs_dir), "run": place.id, "checkpoint": None}, adopted.own.iteration
        start = Start(adopted.own, adopted.settings | own, place, start_at, adopts=adopted, recorded=adopted.before)
    elif place is not None and command == "ensure":
        start = _find_ensured(name, settings, given, place)
    else:
        start = _find_checkpoint(command, name, settings, given, place)
    if start.place is not None and start.resume_at is not None:  # a record keeps the settings of its ingredients
        start.config.update(settings.of_ingredients(given, start.place.directory))
    elif not start.is_complete:
        start.config.update(settings.of_ingredients(given))
    return start


def is_free(directory: Path, command: str) -> bool:
    """Returns whether a command may write a new record in a directory, whose lock is held.

    It may if there is nothing of a run. Commands that start from the beginning each time may also replace a record of
    themselves that is not complete; training is continued by `ensure` instead. Raises RecordError.
    """
    run = _if_there(read_run, directory)
    if run is None:
        return not has_remains(directory)
    return command in ("evaluate", "render") and run.get("command") == command and run["status"] != "COMPLETED"


def _find_ensured(name: str, settings: Settings, given: Mapping[str, Any], place: Place) -> Start:
    record, own = place.directory, {"runs_dir": str(place.runs_dir), "run": place.id, "checkpoint": None}
    run = _if_there(read_run, record)
    trained = None if run is None else _if_there(read_config, record)
    # Without one of them, the run was stopped while it started, or files are lost.
    if run is not None and trained is not None:
        _refuse_other_commands(run, place)
        values = with_recorded(settings, given, trained, record) | own
        finished = (run.get("result") or {}).get("iteration", -1)
        is_complete = run["status"] == "COMPLETED" and finished >= values["num_iterations"]
        if is_complete and not _missing(record, run.get("metrics_file")):
            return Start(None, values, place, is_complete=True, result=run["result"], recorded=trained)
    found = _usable_checkpoint(name, settings, place, run, trained)
    if run is None or trained is None:
        if found is None:
            return Start(None, to_mapping(settings.typed(given)[0]) | own, place)
        trained = found.config
        values = with_recorded(settings, given, trained, found.path) | own
    if found is None:
        return Start(None, values, place, None if run and run["status"] == "QUEUED" else 0, recorded=trained)
    return Start(found, values, place, found.iteration, recorded=trained)


def _usable_checkpoint(
    name: str, settings: Settings, place: Place, run: Mapping[str, Any] | None, recorded: Mapping[str, Any] | None
) -> Checkpoint | None:
    """Returns the latest checkpoint or, if that is damaged or counts rows that are lost, the best one; None without."""
    directory = place.directory
    for path in (directory / "checkpoints" / "latest.pt", directory / "checkpoints" / "best.pt"):
        if not path.exists():
            continue
        try:
            found = checkpoint.load(path)
        except CheckpointError as error:
            _warn(str(error))
            continue
        found.require_algorithm(name)
        _require_own("ensure", settings, found, place, run, recorded)
        missing = _missing(directory, found.record)
        if not missing:
            return found
        _warn(
            f"{directory / METRICS}: {missing} of the {found.record['rows']} rows up to iteration {found.iteration} "
            f"are missing or damaged; {path} is not used, and their steps are computed again"
        )
    return None


def _missing(directory: Path, written: Mapping[str, Any] | None) -> int:
    """Returns how many of the rows that a run has written are lost. Runs of older versions have not counted them."""
    if not written or "rows" not in written:
        return 0
    return missing_rows(directory, Extent(written["rows"], written["crc"]))


def _warn(message: str) -> None:
    print(f"warning: {message}", flush=True)


def _find_checkpoint(
    command: str, name: str, settings: Settings, given: Mapping[str, Any], place: Place | None
) -> Start:
    run = None if place is None else _read_continued(place)
    found = checkpoint.load(_path(command, _run_config(given)))
    found.require_algorithm(name)
    try:
        config_class = settings.class_of(found.config)
        with recorded(found.config):
            trained = to_mapping(from_mapping(config_class, found.config))
    except ConfigError as error:
        raise CheckpointError(
            f"{found.path} was made with other settings than this version of the code has: {error}. "
            f"Use the version that wrote it, whose commit run.json of the run names under `repositories`."
        ) from error
    with recorded(found.config):
        given = settings.checked(given, trained)
    changes = {key: value for key, value in given.items() if key not in RUN_KEYS}
    refuse_contradictions(command, config_class, found.path, trained, changes)
    config = merge(merge(trained, OWN_DEFAULTS.get(command, {})), changes)
    if place is not None and run is not None:
        _require_own(command, settings, found, place, run, _if_there(read_config, place.directory))
        keep_schedules(config, trained)
        return _resume(found, config, place)
    of_run = _own_runs_dir(found, given) | {key: given[key] for key in RUN_KEYS & given.keys()}
    return Start(found, config | of_run, recorded=found.config)


def _own_runs_dir(found: Checkpoint, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the directory of runs of a checkpoint, if the working directory is inside of it and none is given."""
    try:
        place = None if "runs_dir" in given else place_of_checkpoint(found.path)
    except ConfigError:  # the folder of a copy, such as "3 (1)", whose checkpoints can be evaluated
        return {}
    is_inside = place is not None and Path.cwd().is_relative_to(place.runs_dir.resolve())
    return {"runs_dir": str(place.runs_dir)} if place is not None and is_inside else {}


def _run_config(given: Mapping[str, Any]) -> RunConfig:
    return from_mapping(RunConfig, {key: value for key, value in given.items() if key in RUN_KEYS})


def _path(command: str, run_config: RunConfig) -> Path:
    if (run_config.run is None) == (run_config.checkpoint is None):
        raise ConfigError(
            f"{command} needs either run=<id> or checkpoint=<path>, e.g. `{command} with run=3` or "
            f"`{command} with checkpoint={run_config.runs_dir}/3/checkpoints/best`"
        )
    if run_config.checkpoint is not None:
        return checkpoint.existing(Path(run_config.checkpoint))
    record = Path(run_config.runs_dir, str(run_config.run))
    if not record.is_dir():
        runs = sorted((path.name for path in record.parent.glob("[0-9]*")), key=sort_key)
        there = f"the last there is {runs[-1]}" if runs else "there is none"
        raise ConfigError(f"run={run_config.run!r}: no such run in {record.parent}; {there}")
    return record / "checkpoints" / "latest.pt"


def _read_continued(place: Place) -> dict[str, Any]:
    """Returns the run.json of a run that `resume` continues."""
    run = read_run(place.directory)
    _refuse_other_commands(run, place)
    if run["status"] == "QUEUED":
        raise ConfigError(f"run={place.id!r}: it is queued and has not begun; `ensure` starts it")
    return run


def _resume(found: Checkpoint, config: dict[str, Any], place: Place) -> Start:
    if config["num_iterations"] < found.iteration:
        raise ConfigError(
            f"num_iterations={config['num_iterations']}: {found.path} has finished {found.iteration} already; "
            f"need at least as many"
        )
    if missing := _missing(place.directory, found.record):
        best = place.directory / "checkpoints" / "best.pt"
        raise RecordError(
            place.directory / METRICS,
            f"{missing} of the {found.record['rows']} rows up to iteration {found.iteration} are missing or damaged",
            f"`resume with checkpoint={best}` or, from the beginning, `ensure with run={place.id}` and the settings of "
            "the run compute them again",
        )
    config |= {"runs_dir": str(place.runs_dir), "run": place.id}
    return Start(found, config, place, found.iteration, recorded=found.config)


def _if_there(read: Callable[[Path], dict[str, Any]], directory: Path) -> dict[str, Any] | None:
    """Returns what a reader returns; None if its file is missing."""
    try:
        return read(directory)
    except MissingError:
        return None


def _refuse_other_commands(run: Mapping[str, Any], place: Place) -> None:
    if run.get("command", "train") not in TRAINING:
        raise ConfigError(f"run={place.id!r}: {place.directory} is the record of {run['command']!r}, which is not "
                          "continued; need the id of a training")  # fmt: skip


def _require_own(
    command: str,
    settings: Settings,
    found: Checkpoint,
    place: Place,
    run: Mapping[str, Any] | None,
    recorded: Mapping[str, Any] | None,
) -> None:
    """Raises CheckpointError or ConfigError if another run than that of the place has written the checkpoint.

    Older versions did not note the run in a checkpoint: there only the settings tell.
    """
    writer, uid = found.record.get("uid"), (run or {}).get("uid")
    if writer is not None and uid is not None and writer != uid:
        raise CheckpointError(
            f"{found.path} was written by another run than the one whose folder it lies in. Put the checkpoint of that "
            "run back, or train a new run."
        )
    own = {key: value for key, value in found.config.items() if key in (recorded or {})}
    refuse_contradictions(command, settings.class_of(found.config), place.directory, recorded or {}, own)
