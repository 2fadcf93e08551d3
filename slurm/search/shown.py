"""Shows the state of a search and its best trial."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import Any

from rich.console import Console

from research.conversion import flatten
from research.terminal import printable
from research.tracking.settings_file import parse_literal
from slurm.errors import SlurmError
from slurm.folder import read_object
from slurm.search.folder import StudyFolder, alive, workers_dir
from slurm.search.studies import open_study
from slurm.search.tables import as_json, best, summary, trials_table, with_interrupted
from slurm.search.trials import Trial
from slurm.states import is_alive


def show(folder: StudyFolder, arguments: argparse.Namespace) -> int:
    """Prints the state of a search. Returns 0."""
    file, study, workers = folder.file(), open_study(folder), workers_dir(folder)
    known: dict[str, bool] = {}
    trials = with_interrupted(study.trials(), lambda token: known.setdefault(token, is_alive(workers / token)))
    if arguments.json:
        print(json.dumps([as_json(trial) for trial in trials], indent=2, allow_nan=False))
        return 0
    print(summary(folder.name, file, trials, alive(folder)))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    if study.problem():
        print(f"The search cannot go on: {printable(study.problem())}")
    if trials:
        console.print(trials_table(trials, file.objective.sign, arguments.all))
    return 0


def print_best(folder: StudyFolder, arguments: argparse.Namespace) -> int:
    """Prints the command that trains the best trial again; for a member of a population, one that evaluates it.

    Returns 0. Raises SlurmError if no trial has a value.
    """
    file = folder.file()
    found = best(open_study(folder).trials(), file.objective.sign)
    if found is None:
        raise SlurmError(f"{folder.name}: no trial has a value of {file.objective.metric}")
    where = f"# trial {found.number}, run {found.run}: {file.objective.metric} = {found.value:.6g} at iteration"
    if file.method.name == "pbt":
        print(f"{where} {found.reached}\n{_member(folder, found)}")
        return 0
    print(f"{where} {found.reached}; another seed=... repeats it with other draws")
    print(printable(command_of(folder, found)))
    return 0


def _member(folder: StudyFolder, trial: Trial) -> str:
    """Returns where the state of a member came from, and the command that evaluates it."""
    directory = folder.runs_dir / str(trial.run)
    settings = " ".join(f"{key}={_text(value, key)}" for key, value in trial.settings.items())
    command = ["python", folder.facts().script, "evaluate", "with", f"checkpoint={directory}/checkpoints/latest.pt"]
    return "\n".join(map(printable, [
        "# No single training leads to it: a member copies the states of others, with other settings.",
        f"# Its copies: {directory / 'lineage.json'}",
        f"# Its last settings: {settings}",
        shlex.join(command),
    ]))  # fmt: skip


def command_of(folder: StudyFolder, trial: Trial) -> str:
    """Returns the command that trains a trial again, from the settings that its record was given."""
    from research.tracking.settings import RUN_KEYS  # imports torch

    meta = (read_object(folder.runs_dir / str(trial.run) / "run.json") or {}).get("meta")
    if not isinstance(meta, dict) or not isinstance(meta.get("config_updates"), dict):
        raise SlurmError(f"run {trial.run}: its record cannot be read; restore it from a copy")
    given = {key: value for key, value in meta["config_updates"].items() if key not in RUN_KEYS}
    words = [f"{key}={_text(value, key)}" for key, value in flatten(given).items()]
    return shlex.join(["python", folder.facts().script, "with", *meta.get("named_configs", []), *words])


def _text(value: Any, key: str) -> str:
    """Returns a value as the command line reads it."""
    return value if isinstance(value, str) and parse_literal(value, key) == value else repr(value)
