"""Commands for submitted sweeps: `status`, `logs`, `cancel`, `retry`, `reset-stale`, `sync-mongo`."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from research.files import write_json
from research.tracking import lock, records
from slurm import scheduler
from slurm.arrays import Terms
from slurm.errors import SlurmError
from slurm.execute import execute
from slurm.folder import Folder, all_folders, find_folder, find_run, sweeps_dir
from slurm.local import worker_of
from slurm.profile import load_profile, read_profile, write_profile
from slurm.scheduler import Queued, Task
from slurm.states import LEFT, STATES, RunState, survey
from slurm.tables import as_json, duration, runs_table, seconds_left, sweeps_table
from slurm.task import ROOT


def status(arguments: argparse.Namespace) -> None:
    """Prints the state of all sweeps, or of the runs of one."""
    queue = _queue()
    surveys = [survey(folder, queue) for folder in _folders(arguments)]
    if arguments.json:
        print(json.dumps([as_json(run) for runs in surveys for run in runs], indent=2, allow_nan=False))
        return
    # Output to a pipe is read by programs: its lines are not wrapped at the width of a terminal.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    if not surveys:
        console.print(f"No sweep was submitted to {sweeps_dir(arguments.runs_dir)}.")
    elif arguments.sweep is None:
        console.print(sweeps_table(surveys))
    else:
        console.print(runs_table(surveys[0], arguments.all))
        counts = collections.Counter(run.state for run in surveys[0])
        console.print("\n" + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]), end="")
        left = seconds_left(surveys[0])
        console.print(f"; about {duration(left)} left" if left is not None else "")


def logs(arguments: argparse.Namespace) -> None:
    """Prints the last lines of a run's output, of all its starts. Raises SlurmError if there is none."""
    folder, stage, line = find_run(arguments.runs_dir, arguments.run)
    arrays = [array for array in folder.arrays() if array.stage == stage and line in array.lines]
    paths = dict.fromkeys(folder.log(array, line) for array in arrays)
    lines: list[str] = []
    for path in paths:
        if path.exists():
            lines += [f"==> {path} <==", *path.read_text(encoding="utf-8", errors="replace").splitlines()]
    if not lines:
        raise SlurmError(f"run {arguments.run}: has no output yet; its log will be {list(paths)[-1]}")
    print("\n".join(lines[-arguments.lines :] if arguments.lines else lines))


def cancel(arguments: argparse.Namespace) -> None:
    """Cancels the jobs of a sweep, or of some of its runs. Raises SlurmError for runs that are not in it."""
    folder = find_folder(arguments.runs_dir, arguments.sweep)
    worker = worker_of(folder)
    if worker is not None:
        if arguments.run:
            raise SlurmError(
                f"--run: {folder.name} runs on this machine and can only be cancelled as a whole; leave --run out"
            )
        os.kill(worker, signal.SIGTERM)
        print(f"Sent a stop signal to process {worker}; each run finishes its iteration and saves a checkpoint.")
    chosen = set(arguments.run or ())
    stages = folder.stages()
    unknown = chosen - {entry.run for entries in stages for entry in entries}
    if unknown:
        raise SlurmError(f"--run {min(unknown)}: {folder.name} has no such run; `status {folder.name}` lists its runs")
    queued = {job for job, _ in _queue()}
    jobs = []
    for array in folder.arrays():
        if array.job in queued:
            own = [index for index in array.indices if stages[array.stage][array.offset + index].run in chosen]
            jobs += [f"{array.job}_{index}" for index in own] if chosen else [str(array.job)]
    scheduler.cancel(jobs)
    print(f"Cancelled {len(jobs)} {'tasks' if chosen else 'arrays'} of {folder.name}.")


def retry(arguments: argparse.Namespace) -> int:
    """Continues runs that did not complete. Returns the exit status."""
    queue = _queue()
    chosen = _chosen_states(arguments)
    worst, found = 0, 0
    for folder in _folders(arguments):
        lines = _to_retry(survey(folder, queue), chosen, arguments.run)
        if not any(lines):
            continue
        found += 1
        print(f"{folder.name}: {sum(map(len, lines))} runs to continue.")
        profile = load_profile(arguments.profile) if arguments.profile else read_profile(folder.profile)
        profile = profile.throttled(arguments.throttle)
        if not arguments.dry_run:
            write_profile(folder.path, profile)
        terms = Terms(profile, folder.code_or(ROOT))
        worst = max(worst, execute(folder, lines, terms, arguments))
    if not found:
        print(f"Nothing to retry: no run is {', '.join(chosen)}.")
    return worst


def reset_stale(arguments: argparse.Namespace) -> None:
    """Marks stale runs as interrupted: their record says RUNNING, but the process is dead and not in the queue."""
    queue = _queue()
    count = 0
    for folder in _folders(arguments):
        for run in survey(folder, queue):
            directory = folder.runs_dir / str(run.entry.run)
            if run.state == "stale" and _mark_interrupted(directory):
                count += 1
                print(f"run {run.entry.run} of {folder.name}: interrupted")
    print(f"{count} runs were stale." + (" `retry` continues them." if count else ""))


def sync_mongo(arguments: argparse.Namespace) -> int:
    """Runs `python -m research.tracking sync`. Returns the exit status."""
    from research.tracking.mongo.sync import main  # the MongoDB driver is slow to import

    return main(
        ["sync", str(arguments.runs_dir), *(word for run in arguments.run or () for word in ("--run", str(run)))]
    )


def _folders(arguments: argparse.Namespace) -> list[Folder]:
    if arguments.sweep is None:
        return all_folders(arguments.runs_dir)
    return [find_folder(arguments.runs_dir, arguments.sweep)]


def _queue() -> Mapping[Task, Queued]:
    return scheduler.queue() if scheduler.is_here() else {}


def _chosen_states(arguments: argparse.Namespace) -> Sequence[str]:
    chosen = [state for state in ("failed", "interrupted", "missing") if getattr(arguments, state)]
    return [*chosen, *(["stale"] if "failed" in chosen else [])] or LEFT


def _to_retry(runs: Sequence[RunState], chosen: Sequence[str], ids: Sequence[int] | None) -> list[list[int]]:
    """Lines of each stage to submit. A run of a later stage needs a first run that has completed or is retried too."""
    picked = [run for run in runs if run.state in chosen and (ids is None or run.entry.run in ids)]
    first = {run.line for run in picked if run.stage == 0}
    done = {run.line for run in runs if run.stage == 0 and run.state in ("completed", "diverged")}
    # Slurm cancelled the runs that depend on a failed run. They are submitted again together with it.
    later = [run for run in runs if run.stage and run.state in LEFT]
    own = [run for run in later if (run in picked and run.line in done) or run.line in first]
    stages = range(1 + max((run.stage for run in runs), default=0))
    return [sorted(first), *([run.line for run in own if run.stage == stage] for stage in stages[1:])]


def _mark_interrupted(directory: Path) -> bool:
    """Marks a record, unless a process writes it or it does not say RUNNING. Returns whether it did."""
    try:
        held = lock.Lock(directory)
    except lock.BusyError:
        return False
    try:
        run = records.read_run(directory)
        if run["status"] != "RUNNING":
            return False
        stopped = run.get("heartbeat") or datetime.datetime.now(datetime.UTC).replace(tzinfo=None).isoformat()
        write_json(directory / "run.json", run | {"status": "INTERRUPTED", "stop_time": stopped})
        return True
    finally:
        held.release()
