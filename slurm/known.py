"""Runs that exist already: their states, and the settings by which a submission recognises them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.conversion import flatten
from research.files import is_number
from research.terminal import printable
from research.tracking import records
from slurm import guard
from slurm.arrays import adopt
from slurm.errors import SlurmError
from slurm.folder import Folder, all_folders, read_object, read_settings
from slurm.scheduler import Queued, Task
from slurm.states import LIVE, RunState, jobs_of, survey

_TRAINING = ("train", "resume", "ensure")
_KINDS = {"completed": "completed", "diverged": "completed", "missing": "unstarted"} | dict.fromkeys(LIVE, "live")


class Past(NamedTuple):
    """A run that a submission need not repeat, if it is of one of its configurations.

    Attributes:
        run: Id of the run.
        kind: `completed`; `live`, if it waits or runs; or `unstarted`, if it has neither a record nor a job.
        command: Command of the run.
        hash: Hash of the manifest; empty for a run without a sweep.
        name: Name of the experiment; None if it is unknown.
        settings: Nested plain values of all settings at its time; None if they are unknown.
        given: Dotted keys whose value was not the default of the time, or that were given; None if they are unknown.
        overrides: Settings by dotted key that the sweep gave.
        task: Its task in the queue; None if it is not queued.
    """

    run: int
    kind: str
    command: str
    hash: str = ""
    name: str | None = None
    settings: Mapping[str, Any] | None = None
    given: Sequence[str] | None = None
    overrides: Mapping[str, Any] = {}
    task: Task | None = None


def survey_all(folders: Sequence[Folder], queue: Mapping[Task, Queued]) -> dict[Folder, list[RunState]]:
    """Returns the states of the runs of several sweeps, after `adopt`. Prints a warning for what is damaged."""
    for folder in folders:
        for text in folder.damage():
            _warn(text)
        if not guard.is_held_by_another(folder.submitting):
            try:
                adopted = adopt(folder, queue)
            except OSError as error:
                _warn(f"{folder.path}: cannot record jobs of the queue ({error.strerror})")
                continue
            if adopted:
                _warn(f"{folder.name}: its submission was stopped; {adopted} arrays in the queue belong to it")
    jobs = jobs_of(folders)
    found = {}
    for folder in folders:
        try:
            found[folder] = survey(folder, queue, jobs=jobs)
        except SlurmError as error:
            _warn(f"{folder.name} is left out: {error}")
    return found


def past_runs(runs_dir: Path, queue: Mapping[Task, Queued]) -> list[Past]:
    """Returns the runs in a directory that a submission may not have to repeat. Completed runs come last.

    Args:
        runs_dir: Directory of runs. Completed runs that were started without a sweep count too.
        queue: Slurm's queue, see `scheduler.queue`; empty without Slurm.
    """
    found: list[Past] = []
    for folder, states in survey_all(all_folders(runs_dir), queue).items():
        found += _of_sweep(folder, states)
    ids = {past.run for past in found}
    found += [past for past in _completed_records(runs_dir) if past.run not in ids]
    return sorted(found, key=lambda past: ("unstarted", "live", "completed").index(past.kind))


def _of_sweep(folder: Folder, states: Iterable[RunState]) -> Iterable[Past]:
    name, rows = read_settings(folder)
    for state in states:
        entry, kind = state.entry, _KINDS.get(state.state)
        if kind is None:
            continue
        past = Past(entry.run, kind, entry.command, entry.hash, overrides=entry.overrides, task=state.task)
        if state.stage == 0 and state.line < len(rows):
            settings, given = rows[state.line]
            past = past._replace(name=name, settings=settings, given=given)
        elif state.stage == 0 and kind == "completed":
            past = _from_record(folder.runs_dir / str(entry.run)) or past
        yield past


def _completed_records(runs_dir: Path) -> Iterable[Past]:
    for directory in records.run_directories(runs_dir):
        if is_number(directory.name) and (past := _from_record(directory)) is not None:
            yield past


def _from_record(directory: Path) -> Past | None:
    """Returns the completed training in a directory; None if there is none, or its record is damaged."""
    run, config = read_object(directory / "run.json"), read_object(directory / "config.json")
    if run is None or config is None or run.get("status") != "COMPLETED" or run.get("command") not in _TRAINING:
        return None
    experiment, meta = run.get("experiment"), run.get("meta")
    name = experiment.get("name") if isinstance(experiment, dict) else None
    given = None
    if isinstance(meta, dict) and isinstance(meta.get("config_updates"), dict) and not meta.get("named_configs"):
        given = list(flatten(meta["config_updates"]))
    return Past(int(directory.name), "completed", run["command"], name=name, settings=config, given=given)


def _warn(text: str) -> None:
    print(f"warning: {printable(text)}", file=sys.stderr)
