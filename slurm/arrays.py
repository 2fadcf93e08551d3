"""From lines of a sweep to arrays of Slurm: their indices, what waits for what, and how they are submitted."""

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
    """Arrays whose indices stay below `size`."""
    offsets = sorted({line - line % size for line in lines})
    groups = {offset: [line - offset for line in lines if line - line % size == offset] for offset in offsets}
    return [Array(stage, offset, indices) for offset, indices in groups.items()]


class Terms(NamedTuple):
    """How arrays are submitted.

    Attributes:
        profile: Of the site.
        code: The root of the code that runs.
    """

    profile: Profile
    code: Path


def array_command(folder: Folder, array: Array, terms: Terms, after: str | None = None) -> list[str]:
    """Returns the command that submits an array.

    Args:
        folder: The folder of the sweep.
        array: Its lines.
        terms: The profile and the code of the jobs.
        after: Id of an array: task i waits until task i of that one has completed, and is dropped if it does not.
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
    """An array to submit, and whether each of its tasks waits for the task of the same index of the first stage's."""

    array: Array
    waits: bool


def order(lines: Sequence[Sequence[int]], size: int) -> list[list[Waiting]]:
    """Arrays in groups: the first stage's, which may be missing, and those that follow it.

    Args:
        lines: To do, of each stage.
        size: MaxArraySize.
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
    """The command lines that `submit_arrays` would run."""
    return [
        shlex.join(array_command(folder, array, terms, LATER if waits else None))
        for group in groups
        for array, waits in group
    ]


def submit_arrays(folder: Folder, groups: Sequence[Sequence[Waiting]], terms: Terms) -> list[Array]:
    """Submits arrays, each written down at once. Raises SlurmError if Slurm refuses one; those before it stay."""
    submitted: list[Array] = []
    for group in groups:
        first = None
        for array, waits in group:
            try:
                job = scheduler.submit(array_command(folder, array, terms, first if waits else None))
            except SlurmError as error:
                raise SlurmError(
                    f"{error}\n{len(submitted)} arrays of {folder.name} were submitted before. When the reason is "
                    f"gone: python -m slurm retry {folder.name}"
                ) from error
            first = first or job
            submitted.append(array._replace(job=job))
            folder.add(submitted[-1])
    return submitted


def ranges(indices: Sequence[int]) -> str:
    """Rising indices as Slurm has them: `0-3,7,9-10`."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
