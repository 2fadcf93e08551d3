"""Calls of sbatch, squeue, scancel and scontrol. Nothing here needs Slurm's accounting (sacct)."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from slurm.errors import SlurmError

DEFAULT_MAX_ARRAY_SIZE = 1001
"""Slurm's default."""

Task = tuple[str, int]
"""Task of an array: (job id of the array, index)."""


class Queued(NamedTuple):
    """A task in the queue.

    Attributes:
        state: State in squeue, e.g. `PENDING`.
        reason: Reason for waiting in squeue, e.g. `Priority`.
        name: Name of the job, see `arrays.job_name`.
    """

    state: str
    reason: str
    name: str = ""


class NoSlurmError(SlurmError):
    """There is no Slurm on this machine, or its commands are not configured for a cluster."""


def is_here() -> bool:
    """Returns whether this machine can submit. Raises SlurmError if it has Slurm but the controller does not answer."""
    try:
        _call(["scontrol", "show", "config"])
    except NoSlurmError:
        return False
    return True


def submit(command: Sequence[str], lock: int) -> str:
    """Runs an `sbatch --parsable` command. Returns the job id. Raises SlurmError if sbatch fails.

    Args:
        command: The command.
        lock: Descriptor that sbatch inherits, so that a lock is held until it ends, even if this process is killed.
    """
    return _call(command, (lock,)).strip().partition(";")[0]


def queue() -> dict[Task, Queued]:
    """Returns the array tasks of this user that wait or run. Raises SlurmError if squeue fails."""
    lines = _call(["squeue", "--me", "--array", "--noheader", "--format=%F|%K|%T|%j|%r"]).splitlines()
    fields = (line.strip().split("|", 4) for line in lines)
    tasks = (task for task in fields if len(task) == 5 and task[1].isascii() and task[1].isdecimal())
    return {(job, int(index)): Queued(state, reason, name) for job, index, state, name, reason in tasks}


def cancel(jobs: Sequence[str]) -> None:
    """Cancels jobs (`17`) or array tasks (`17_3`); those that have ended do not change."""
    if jobs:
        _call(["scancel", "--quiet", *jobs])


def max_array_size() -> int:
    """Returns Slurm's MaxArraySize: array indices are below it."""
    for line in _call(["scontrol", "show", "config"]).splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize":
            return int(value)
    return DEFAULT_MAX_ARRAY_SIZE


_ADVICE = (
    "Submit from a machine with Slurm, or run the sweep here: --local -j 2. --dry-run shows what would be submitted"
)


def _call(command: Sequence[str], inherited: Sequence[int] = ()) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=False, pass_fds=inherited
        )
    except FileNotFoundError as error:
        raise NoSlurmError(f"this machine has no Slurm (no {command[0]}). {_ADVICE}") from error
    if done.returncode != 0:
        if "configuration source" in done.stderr:
            raise NoSlurmError(f"Slurm on this machine is not configured (no slurm.conf). {_ADVICE}")
        raise SlurmError(f"{command[0]} failed: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout
