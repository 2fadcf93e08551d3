"""Commands for submitted sweeps: `status`, `logs`, `cancel`, `retry`, `reset-stale`, `sync-mongo`."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from research.files import write_json
from research.terminal import printable
from research.tracking import lock, records
from slurm import guard, local, scheduler
from slurm.arrays import Terms, adopt, can_follow
from slurm.errors import SlurmError
from slurm.execute import array_size, execute
from slurm.folder import Folder, all_folders, find_folder, find_in, find_run, sweeps_dir
from slurm.known import survey_all
from slurm.profile import load_profile, read_profile, write_profile
from slurm.scheduler import Queued, Task
from slurm.search.folder import all_studies, find_study
from slurm.states import LEFT, STATES, RunState
from slurm.tables import as_json, duration, runs_table, seconds_left, sweeps_table
from slurm.task import ROOT


def status(arguments: argparse.Namespace) -> None:
    """Prints the state of all sweeps, or of the runs of one, or of the trials of a search."""
    study = None if arguments.sweep is None else find_study(arguments.runs_dir, arguments.sweep)
    if study is not None and find_in(sweeps_dir(arguments.runs_dir), arguments.sweep, "manifest.jsonl") is None:
        from slurm.search.shown import show  # Optuna takes most of a second to import

        show(study, arguments)
        return
    surveys = list(_surveys(arguments, _queue()).values())
    if arguments.json:
        print(json.dumps([as_json(run) for runs in surveys for run in runs], indent=2, allow_nan=False))
        return
    # Output to a pipe is read by programs: its lines are not wrapped at the width of a terminal.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    if not surveys:
        damaged, directory = len(all_folders(arguments.runs_dir)), printable(sweeps_dir(arguments.runs_dir))
        print(f"No sweep in {directory} can be read: {damaged} damaged." if damaged else f"No sweep is in {directory}.")
    elif arguments.sweep is None:
        console.print(sweeps_table(surveys))
        _name_searches(arguments.runs_dir)
    else:
        console.print(runs_table(surveys[0], arguments.all))
        counts = collections.Counter(run.state for run in surveys[0])
        console.print("\n" + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]), end="")
        left = seconds_left(surveys[0])
        console.print(f"; about {duration(left)} left" if left is not None else "")


def _name_searches(runs_dir: Path) -> None:
    studies = all_studies(runs_dir)
    if studies:
        print(f"\nSearches, which `status NAME` shows: {printable(', '.join(study.name for study in studies))}")


def logs(arguments: argparse.Namespace) -> None:
    """Prints the last lines of a run's output, of all its starts. Raises SlurmError if there is none."""
    found = (study.path / "logs" / f"run_{arguments.run}.log" for study in all_studies(arguments.runs_dir))
    paths = dict.fromkeys(path for path in found if path.exists())
    if not paths:
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
    if arguments.run and guard.holder(folder.working):
        raise SlurmError(
            f"--run: {folder.name} runs on this machine and can only be cancelled as a whole; leave --run out"
        )
    local.stop(folder)
    chosen = set(arguments.run or ())
    stages = folder.stages()
    unknown = chosen - {entry.run for entries in stages for entry in entries}
    if unknown:
        raise SlurmError(f"--run {min(unknown)}: {folder.name} has no such run; `status {folder.name}` lists its runs")
    queue = _queue()
    adopt(folder, queue)
    queued = {job for job, _ in queue}
    jobs = []
    for array in {array.job: array for array in folder.arrays()}.values():
        if array.job in queued:
            own = [index for index in array.indices if stages[array.stage][array.offset + index].run in chosen]
            jobs += [f"{array.job}_{index}" for index in own] if chosen else [str(array.job)]
    scheduler.cancel(jobs)
    print(f"Cancelled {len(jobs)} {'tasks' if chosen else 'arrays'} of {folder.name}.")


def retry(arguments: argparse.Namespace) -> int:
    """Continues runs that did not complete. Returns the exit status."""
    chosen = _chosen_states(arguments)
    worst, taken, is_submission = 0, set[int](), not (arguments.dry_run or arguments.local)
    with contextlib.ExitStack() as until_the_end:
        locks, refused = _lock(arguments, until_the_end) if is_submission else ({}, {})
        # Several sweeps may have the same run. The code and the settings are those of the last one.
        for folder, states in reversed(_surveys(arguments, _queue()).items()):
            queued = {run.line: run.task for run in states if run.stage == 0 and run.task}
            size = array_size(arguments) if queued else None
            lines = _to_retry(states, taken, chosen, arguments.run, can_follow(queued, size, queued))
            if not any(lines):
                continue
            if is_submission and folder not in locks:
                worst = max(worst, 1)
                reason = refused.get(folder, "it was submitted meanwhile; repeat the command")
                print(f"{printable(folder.name)} is left out: {printable(reason)}")
                continue
            taken |= {run.entry.run for run in states if run.line in lines[run.stage]}
            print(f"{printable(folder.name)}: {sum(map(len, lines))} runs to continue.")
            worst = max(worst, _continue(folder, lines, queued, arguments, locks.get(folder, -1)))
    if not taken and not worst:
        print(f"Nothing to retry: no run is {', '.join(chosen)}.")
    return worst


def _lock(
    arguments: argparse.Namespace, until: contextlib.ExitStack
) -> tuple[dict[Folder, int], dict[Folder, Exception]]:
    """Takes the locks of the chosen sweeps, before anything is read. Returns them, and why others are not taken."""
    runs_dir, name = arguments.runs_dir, arguments.sweep
    locks, refused = dict[Folder, int](), dict[Folder, Exception]()
    for folder in [find_folder(runs_dir, name)] if name else all_folders(runs_dir):
        try:
            locks[folder] = until.enter_context(guard.hold(folder.submitting, "submits it"))
        except (SlurmError, OSError) as error:
            refused[folder] = error
    return locks, refused


def _continue(
    folder: Folder, lines: Sequence[Sequence[int]], queued: Mapping[int, Task], arguments: argparse.Namespace, lock: int
) -> int:
    """Submits or runs lines of a sweep again, with the same or another profile. Returns the exit status."""
    profile = load_profile(arguments.profile) if arguments.profile else read_profile(folder.profile)
    profile = profile.throttled(arguments.throttle)
    terms = Terms(profile, folder.code_or(ROOT))
    if not arguments.dry_run:
        write_profile(folder.path, profile)
    return execute(folder, lines, terms, arguments, queued, lock)


def reset_stale(arguments: argparse.Namespace) -> None:
    """Marks stale runs as interrupted: their record says RUNNING, but the process is dead and not in the queue."""
    count = 0
    for folder, states in _surveys(arguments, _queue()).items():
        for run in states:
            directory = folder.runs_dir / str(run.entry.run)
            if run.state == "stale" and _mark_interrupted(directory):
                count += 1
                print(f"run {run.entry.run} of {printable(folder.name)}: interrupted")
    print(f"{count} runs were stale." + (" `retry` continues them." if count else ""))


def sync_mongo(arguments: argparse.Namespace) -> int:
    """Runs `python -m research.tracking sync`. Returns the exit status."""
    from research.tracking.mongo.sync import main  # the MongoDB driver is slow to import

    return main(
        ["sync", str(arguments.runs_dir), *(word for run in arguments.run or () for word in ("--run", str(run)))]
    )


def _surveys(arguments: argparse.Namespace, queue: Mapping[Task, Queued]) -> dict[Folder, list[RunState]]:
    """Returns the states of the runs of all sweeps, the oldest first, or of the one that the command line names.

    Raises:
        SlurmError: There is no such sweep, or its manifest is damaged. Other sweeps that are damaged are reported.
    """
    everything = all_folders(arguments.runs_dir)
    if arguments.sweep is None:
        return survey_all(everything, queue)
    chosen = find_folder(arguments.runs_dir, arguments.sweep)
    chosen.stages()  # raises an error if one is damaged
    states = survey_all([*(folder for folder in everything if folder != chosen), chosen], queue)
    return {chosen: states[chosen]}


def _queue() -> Mapping[Task, Queued]:
    return scheduler.queue() if scheduler.is_here() else {}


def _chosen_states(arguments: argparse.Namespace) -> Sequence[str]:
    chosen = [state for state in ("failed", "interrupted", "missing") if getattr(arguments, state)]
    return [*chosen, *(["stale"] if "failed" in chosen else [])] or LEFT


def _to_retry(
    runs: Sequence[RunState],
    taken: Collection[int],
    chosen: Sequence[str],
    ids: Sequence[int] | None,
    queued: Iterable[int],
) -> list[list[int]]:
    """Returns the lines of each stage to submit.

    A run of a later stage needs a first run that has completed, is retried too, or can be waited for.

    Args:
        runs: The runs of a sweep.
        taken: Ids of runs that another sweep continues.
        chosen: States of the runs to continue.
        ids: Ids of the runs to continue; None for all.
        queued: Lines whose first run is in the queue and can be waited for.
    """
    runs = [run for run in runs if run.entry.run not in taken]
    picked = [run for run in runs if run.state in chosen and (ids is None or run.entry.run in ids)]
    first = {run.line for run in picked if run.stage == 0}
    done = {run.line for run in runs if run.stage == 0 and run.state in ("completed", "diverged")} | set(queued)
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
