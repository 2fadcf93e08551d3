"""Slurm arrays of the lines of a manifest: their indices, their dependencies and their submission."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from slurm import scheduler
from slurm.errors import SlurmError
from slurm.folder import Array, Folder
from slurm.profile import Profile
from slurm.scheduler import Queued, Task

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
    # In the path of --output, % begins a pattern and a backslash turns patterns off. Then the script opens the log.
    log = "/dev/null" if {"%", "\\"} & set(str(folder.path)) else f"{folder.path}/logs/%A_%a.log"
    dependency = [f"--dependency=aftercorr:{after}", "--kill-on-invalid-dep=yes"] if after else []
    return [
        "sbatch",
        "--parsable",
        f"--array={ranges(array.indices)}{f'%{limit}' if limit else ''}",
        f"--chdir={terms.code}",
        f"--output={log}",
        *terms.profile.sbatch_options(),
        f"--job-name={job_name(folder, array)}",
        *dependency,
        str(terms.code / "slurm" / "array.sbatch"),
        str(folder.manifest(array.stage)),
        str(array.offset),
        str(terms.code),
    ]


def job_name(folder: Folder, array: Array) -> str:
    """Returns the name of a job: that of the sweep, the stage, the offset, and the token of the sweep.

    The name in the queue says which lines a job runs, so that a job is known even if the process that submitted it was
    killed before it could record the job.
    """
    name = re.sub("[^A-Za-z0-9_-]", "_", folder.name)
    return f"{name}.{array.stage}.{array.offset}.{folder.submission().token or 'TOKEN'}"


def adopt(folder: Folder, queue: Mapping[Task, Queued]) -> int:
    """Records the arrays of a sweep that are in the queue and not in its folder. Returns their number.

    Args:
        folder: Folder of the sweep. No other process submits it.
        queue: Slurm's queue.
    """
    token = folder.submission().token
    known = {array.job for array in folder.arrays()}
    found: dict[str, Array] = {}
    for (job, index), task in queue.items():
        *_, stage, offset, owner = ["", "", *task.name.split(".")]
        if token and owner == token and job not in known and stage.isdecimal() and offset.isdecimal():
            array = found.setdefault(job, Array(int(stage), int(offset), [], job))
            array.indices.append(index)
    for job, array in found.items():
        ended = (log.stem.rpartition("_")[2] for log in (folder.path / "logs").glob(f"{job}_*.log"))
        indices = {*array.indices, *(int(index) for index in ended if index.isdecimal())}
        folder.add(array._replace(indices=sorted(indices)))
    return len(found)


class Waiting(NamedTuple):
    """An array to submit.

    Attributes:
        array: The array.
        waits: Whether each task waits for the task with the same index in the array of the first stage.
        after: Job id of an array that is in the queue already, for whose tasks it waits instead; None for none.
    """

    array: Array
    waits: bool
    after: str | None = None


def order(lines: Sequence[Sequence[int]], size: int, queued: Mapping[int, Task] = {}) -> list[list[Waiting]]:
    """Returns the arrays in groups of equal offset: the array of the first stage, if any, then those that depend on it.

    Args:
        lines: Lines to run, for each stage.
        size: Slurm's MaxArraySize.
        queued: Tasks in the queue of lines of the first stage that are not submitted now.
    """
    groups: dict[int, list[Waiting]] = {}
    first = set(lines[0])
    for array in arrays_of(0, lines[0], size):
        groups.setdefault(array.offset, []).append(Waiting(array, False))
    for stage, own in enumerate(lines[1:], start=1):
        after: dict[tuple[bool, str | None], list[int]] = {(True, None): [], (False, None): []}
        for line in own:
            waits = line in first
            after.setdefault((waits, None if waits else _job_of(line, size, queued)), []).append(line)
        for (waits, job), chosen in after.items():
            for array in arrays_of(stage, chosen, size):
                groups.setdefault(array.offset, []).append(Waiting(array, waits, job))
    return [groups[offset] for offset in sorted(groups)]


def _job_of(line: int, size: int, queued: Mapping[int, Task]) -> str | None:
    job, index = queued.get(line, (None, -1))
    return job if index == line % size else None


def can_follow(lines: Iterable[int], size: int | None, queued: Mapping[int, Task]) -> list[int]:
    """Returns the lines whose task in the queue has the index that a task of a later stage would have.

    Slurm lets a task depend on the task of another array with the same index.

    Args:
        lines: Lines of the first stage.
        size: Slurm's MaxArraySize; None for local work, which cannot wait for the queue.
        queued: Tasks in the queue by line.
    """
    return [line for line in lines if size is not None and _job_of(line, size, queued) is not None]


def commands(folder: Folder, groups: Sequence[Sequence[Waiting]], terms: Terms) -> list[str]:
    """Returns the command lines that `submit_arrays` would run."""
    return [
        shlex.join(array_command(folder, array, terms, LATER if waits else after))
        for group in groups
        for array, waits, after in group
    ]


def submit_arrays(folder: Folder, groups: Sequence[Sequence[Waiting]], terms: Terms, lock: int) -> list[Array]:
    """Submits arrays and records each in the folder of the sweep.

    Args:
        folder: Folder of the sweep.
        groups: The arrays, see `order`.
        terms: Settings of the submission.
        lock: Descriptor of the lock of the process that submits the sweep.

    Returns:
        The arrays with their job ids.

    Raises:
        SlurmError: Slurm refuses an array; the arrays before it stay submitted.
    """
    submitted: list[Array] = []
    for group in groups:
        first = None
        for array, waits, after in group:
            try:
                job = scheduler.submit(array_command(folder, array, terms, first if waits else after), lock)
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
