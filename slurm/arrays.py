"""Slurm arrays of the lines of a manifest: their indices, their dependencies and their submission."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from slurm import scheduler
from slurm.errors import SlurmError
from slurm.folder import Array, Folder
from slurm.profile import Profile

LATER = "<job id of the array above>"


def arrays_of(stage: int, lines: Sequence[int], size: int) -> list[Array]:
    """Returns the arrays that cover the lines of a stage.

    Args:
        stage: Stage of the sweep, from 0.
        lines: Lines of its manifest, from 0.
        size: Upper bound of the indices, exclusive: Slurm's MaxArraySize. A line beyond it needs an offset.
    """
    offsets = sorted({line - line % size for line in lines})
    groups = {offset: [line - offset for line in lines if line - line % size == offset] for offset in offsets}
    return [Array(stage, offset, indices) for offset, indices in groups.items()]


class Terms(NamedTuple):
    """Settings of a submission.

    Attributes:
        profile: Profile of the site.
        code: Root directory of the code that the jobs run.
    """

    profile: Profile
    code: Path


def array_command(folder: Folder, array: Array, terms: Terms, after: str | None = None) -> list[str]:
    """Returns the sbatch command that submits an array.

    Args:
        folder: Folder of the sweep.
        array: The array.
        terms: Settings of the submission.
        after: Job id of another array. Task i waits until task i of that array has completed, and is cancelled if that
            task fails. None: no dependency.
    """
    limit = terms.profile.throttle
    dependency = [f"--dependency=aftercorr:{after}", "--kill-on-invalid-dep=yes"] if after else []
    return [
        "sbatch",
        "--parsable",
        f"--job-name={folder.name}",
        f"--array={ranges(array.indices)}{f'%{limit}' if limit else ''}",
        f"--chdir={terms.code}",
        f"--output={folder.path / 'logs' / '%A_%a.log'}",
        *terms.profile.sbatch_options(),
        *dependency,
        str(terms.code / "slurm" / "array.sbatch"),
        str(folder.manifest(array.stage)),
        str(array.offset),
    ]


class Waiting(NamedTuple):
    """An array to submit.

    Attributes:
        array: The array.
        waits: Whether each task waits for the task with the same index in the array of the first stage.
    """

    array: Array
    waits: bool


def order(lines: Sequence[Sequence[int]], size: int) -> list[list[Waiting]]:
    """Returns the arrays in groups of equal offset: the array of the first stage, if any, then those that depend on it.

    Args:
        lines: Lines to run, for each stage.
        size: Slurm's MaxArraySize.
    """
    groups: dict[int, list[Waiting]] = {}
    for array in arrays_of(0, lines[0], size):
        groups.setdefault(array.offset, []).append(Waiting(array, False))
    for stage, own in enumerate(lines[1:], start=1):
        for waits in (True, False):
            chosen = [line for line in own if (line in set(lines[0])) == waits]
            for array in arrays_of(stage, chosen, size):
                groups.setdefault(array.offset, []).append(Waiting(array, waits))
    return [groups[offset] for offset in sorted(groups)]


def commands(folder: Folder, groups: Sequence[Sequence[Waiting]], terms: Terms) -> list[str]:
    """Returns the command lines that `submit_arrays` would run."""
    return [
        shlex.join(array_command(folder, array, terms, LATER if waits else None))
        for group in groups
        for array, waits in group
    ]


def submit_arrays(folder: Folder, groups: Sequence[Sequence[Waiting]], terms: Terms) -> list[Array]:
    """Submits arrays and records each in the folder of the sweep.

    Returns:
        The arrays with their job ids.

    Raises:
        SlurmError: Slurm refuses an array; the arrays before it stay submitted.
    """
    submitted: list[Array] = []
    for group in groups:
        first = None
        for array, waits in group:
            try:
                job = scheduler.submit(array_command(folder, array, terms, first if waits else None))
            except SlurmError as error:
                raise SlurmError(
                    f"{error}\n{len(submitted)} arrays of {folder.name} were submitted before this error. Remove its "
                    f"cause, then submit the others: python -m slurm retry {folder.name}"
                ) from error
            first = first or job
            submitted.append(array._replace(job=job))
            folder.add(submitted[-1])
    return submitted


def ranges(indices: Sequence[int]) -> str:
    """Returns ascending indices in Slurm's notation: `0-3,7,9-10`."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
