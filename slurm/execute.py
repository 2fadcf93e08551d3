"""Runs lines of a sweep with Slurm or on this machine; a dry run prints what would be done."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence

from research.terminal import printable
from slurm import scheduler
from slurm.arrays import Terms, commands, order, submit_arrays
from slurm.folder import Folder
from slurm.local import chain, do
from slurm.scheduler import Task


def execute(
    folder: Folder,
    lines: Sequence[Sequence[int]],
    terms: Terms,
    arguments: argparse.Namespace,
    queued: Mapping[int, Task] = {},
    lock: int = -1,
) -> int:
    """Runs lines of each stage, or submits them. Returns the exit status.

    Args:
        folder: Folder of the sweep.
        lines: Lines to run, for each stage.
        terms: Settings of the submission.
        arguments: Parsed command line with `local`, `jobs`, `max_array` and `dry_run`.
        queued: Tasks in the queue of lines of the first stage that are not submitted now.
        lock: Descriptor of the lock `folder.submitting`, which is held; not used for local work and dry runs.
    """
    count = sum(map(len, lines))
    if arguments.local:
        if arguments.dry_run:
            print(f"Would start {count} runs on this machine, {arguments.jobs} at a time.")
            return 0
        return _do_here(folder, lines, arguments.jobs)
    groups = order(lines, array_size(arguments) or scheduler.DEFAULT_MAX_ARRAY_SIZE, queued)
    if arguments.dry_run:
        print("Would run:")
        for command in commands(folder, groups, terms):
            print(f"  {printable(command)}")
        return 0
    for array in submit_arrays(folder, groups, terms, lock):
        what = f" of stage {array.stage}" if array.stage else ""
        print(f"Submitted job {array.job}: {len(array.indices)} runs{what}.")
    print(f"Watch them:  python -m slurm status {_word(folder)}")
    return 0


def _do_here(folder: Folder, lines: Sequence[Sequence[int]], jobs: int) -> int:
    stages = folder.stages()
    ended = do(folder, chain(lines), jobs, lambda text: print(printable(text), flush=True))
    failed = [stages[stage][line].run for (stage, line), status in ended.items() if status != 0]
    count = sum(map(len, lines))
    print(f"{len(ended) - len(failed)} of {count} runs have completed.")
    if len(ended) - len(failed) < count:
        print(f"Continue the others:  python -m slurm retry {_word(folder)} --local -j {jobs}")
        return 1
    return 0


def _word(folder: Folder) -> str:
    """Returns the name of a sweep as a word of a shell command."""
    return printable(shlex.quote(folder.name))


def array_size(arguments: argparse.Namespace) -> int | None:
    """Returns Slurm's MaxArraySize, or that of the command line; None for local work. Raises SlurmError."""
    if arguments.local:
        return None
    if arguments.max_array:
        return int(arguments.max_array)
    if arguments.dry_run and not scheduler.is_here():
        return scheduler.DEFAULT_MAX_ARRAY_SIZE
    return scheduler.max_array_size()
