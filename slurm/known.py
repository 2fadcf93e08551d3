"""Configurations that already have a run, completed or in progress."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from research.tracking import records
from slurm.checking import config_hash
from slurm.folder import all_folders
from slurm.scheduler import Queued, Task
from slurm.states import LIVE, RunState, survey

_TRAINING = ("train", "resume", "ensure")


def known_runs(runs_dir: Path, queue: Mapping[Task, Queued]) -> tuple[dict[str, int], dict[str, int]]:
    """Returns the run ids of completed runs, and those of runs that wait or run, both by configuration hash.

    Args:
        runs_dir: Directory of runs. Completed runs that were started without a sweep count too.
        queue: Slurm's queue, see `scheduler.queue`; empty without Slurm.
    """
    states = [state for folder in all_folders(runs_dir) for state in survey(folder, queue)]
    completed = _by_hash(states, ("completed", "diverged")) | _completed_records(runs_dir)
    live = {hash_: run for hash_, run in _by_hash(states, LIVE).items() if hash_ not in completed}
    return completed, live


def _by_hash(states: Iterable[RunState], chosen: Iterable[str]) -> dict[str, int]:
    return {state.entry.hash: state.entry.run for state in states if state.state in chosen}


def _completed_records(runs_dir: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for directory in records.run_directories(runs_dir):
        try:
            run = records.read_run(directory)
            is_trained = run["status"] == "COMPLETED" and run["command"] in _TRAINING and directory.name.isdigit()
            if is_trained:
                found[config_hash(run["experiment"]["name"], records.read_config(directory))] = int(directory.name)
        except (OSError, KeyError, json.JSONDecodeError):
            continue  # not a record of a completed run
    return found
