"""Slurm's own commands: sbatch, squeue, scancel, scontrol. Nothing here needs accounting (sacct)."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from slurm.errors import SlurmError

DEFAULT_MAX_ARRAY_SIZE = 1001
"""Slurm's own, where nobody says otherwise."""

Task = tuple[str, int]
"""A task of an array: (job id of the array, index)."""


class Queued(NamedTuple):
    """A task in the queue.

    Attributes:
        state: As squeue says it, e.g. `PENDING`.
        reason: Why it waits, e.g. `Priority`.
    """

    state: str
    reason: str


class NoSlurmError(SlurmError):
    """There is no Slurm on this machine, or none that its commands know of."""


def is_here() -> bool:
    """Whether this machine can submit. Raises SlurmError if it should, and its controller does not answer."""
    try:
        _call(["scontrol", "show", "config"])
    except NoSlurmError:
        return False
    return True


def submit(command: Sequence[str]) -> str:
    """Runs an `sbatch --parsable` command. Returns the job id."""
    return _call(command).strip().partition(";")[0]


def queue() -> dict[Task, Queued]:
    """Every array task of this user that waits or runs."""
    lines = _call(["squeue", "--me", "--array", "--noheader", "--format=%F|%K|%T|%r"]).splitlines()
    fields = (line.strip().split("|", 3) for line in lines)
    return {(job, int(index)): Queued(state, reason) for job, index, state, reason in fields if index.isdigit()}


def cancel(jobs: Sequence[str]) -> None:
    """Cancels jobs (`17`) or tasks of arrays (`17_3`). Those that have ended are left as they are."""
    if jobs:
        _call(["scancel", "--quiet", *jobs])


def max_array_size() -> int:
    """Indices of an array go from 0 to one below this."""
    for line in _call(["scontrol", "show", "config"]).splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize":
            return int(value)
    return DEFAULT_MAX_ARRAY_SIZE


_ADVICE = "Submit where there is one, or run the sweep here: --local -j 2. --dry-run shows what would be submitted"


def _call(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NoSlurmError(f"there is no Slurm on this machine (no {command[0]}). {_ADVICE}") from error
    if done.returncode != 0:
        if "configuration source" in done.stderr:
            raise NoSlurmError(f"the Slurm on this machine has no cluster (no slurm.conf). {_ADVICE}")
        raise SlurmError(f"{command[0]} refused: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout
