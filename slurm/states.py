"""The state of every run of a sweep, from Slurm's queue and from the records of the runs."""

from __future__ import annotations

import datetime
import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.tracking import lock, records
from slurm import guard
from slurm.errors import SlurmError
from slurm.folder import Folder, all_folders, read_object
from slurm.manifest import Entry
from slurm.scheduler import Queued, Task

STATES = {
    "pending": "waits in the queue for its first start",
    "running": "runs",
    "requeued": "was stopped or preempted, and waits in the queue to continue",
    "completed": "has completed",
    "failed": "ended with an error, which is in its record and its log",
    "diverged": "ended with a loss, a step or a score that is not finite",
    "interrupted": "was stopped, has saved a checkpoint, and is not in the queue",
    "stale": "its record says RUNNING, but it is not in the queue and has no heartbeat",
    "missing": "has no record and is not in the queue",
    "damaged": "its record cannot be read",
}
"""The states of a run and their meanings."""

_REPAIR = "restore it from a copy; `submit` starts the configuration again, with a new id"

LIVE = ("pending", "running", "requeued")
LEFT = ("failed", "stale", "interrupted", "missing")
"""The states that `retry` continues by default."""

_LOSS = re.compile(r"(.*[_/])?loss([_/].*)?|td_error|log_contraction|step_norm|eval/score_after_\d+")
"""Names of metrics that are not finite only if the loss or the parameters are not."""

_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")


class RunState(NamedTuple):
    """A run of a sweep.

    Attributes:
        sweep: Name of the sweep's folder.
        stage: 0 for training.
        line: Line of the stage's manifest.
        entry: Entry of the manifest.
        state: One of `STATES`.
        slurm: The task and its state in the queue; None if it is not queued.
        iteration: Finished iterations.
        total: Iterations of the complete run; None if unknown.
        rate: Iterations per second since the last start; None if it does not run, or has not finished one.
        heartbeat: Seconds since the last heartbeat; None if there was none.
        starts: Number of starts.
        note: Reason for waiting, or the error.
    """

    sweep: str
    stage: int
    line: int
    entry: Entry
    state: str
    slurm: str | None = None
    iteration: int = 0
    total: int | None = None
    rate: float | None = None
    heartbeat: float | None = None
    starts: int = 0
    note: str = ""

    @property
    def task(self) -> Task | None:
        """The task in the queue; None if it is not queued."""
        if self.slurm is None:
            return None
        job, _, index = self.slurm.partition(" ")[0].rpartition("_")
        return job, int(index)

    @property
    def seconds_left(self) -> float | None:
        """The estimated seconds to the end; None if the rate is unknown."""
        return None if not self.rate or self.total is None else (self.total - self.iteration) / self.rate

    @property
    def fraction(self) -> float:
        """Fraction of the run that is done, 0 to 1."""
        if self.state in ("completed", "diverged"):
            return 1.0
        return self.iteration / self.total if self.total else 0.0


class Jobs(NamedTuple):
    """Jobs of all sweeps by run id: several sweeps may have the same run.

    Attributes:
        tasks: Array tasks that the run was submitted as.
        here: Runs that a process on this machine works through.
        submitting: Runs that a process is submitting to Slurm.
    """

    tasks: Mapping[int, Sequence[Task]]
    here: frozenset[int]
    submitting: frozenset[int]


def jobs_of(folders: Iterable[Folder]) -> Jobs:
    """Returns the jobs of sweeps. Sweeps with a damaged manifest are left out."""
    tasks: dict[int, list[Task]] = {}
    here: set[int] = set()
    submitting: set[int] = set()
    for folder in folders:
        try:
            stages = folder.stages()
        except SlurmError:
            continue
        runs = {(stage, line): entry.run for stage, entries in enumerate(stages) for line, entry in enumerate(entries)}
        own, local = _submitted(folder)
        for place, found in own.items():
            if place in runs:
                tasks.setdefault(runs[place], []).extend(found)
        if local and guard.holder(folder.working) is not None:
            here |= {runs[place] for place in local if place in runs}
        if guard.is_held_by_another(folder.submitting):
            submitting |= set(runs.values())
    return Jobs(tasks, frozenset(here), frozenset(submitting))


def survey(
    folder: Folder, queue: Mapping[Task, Queued], now: float | None = None, jobs: Jobs | None = None
) -> list[RunState]:
    """Returns the state of every run of a sweep, ordered by stage and line.

    Args:
        folder: Folder of the sweep.
        queue: Slurm's queue, see `scheduler.queue`; empty without Slurm.
        now: The time in seconds since the epoch; None for the current time.
        jobs: Jobs of all sweeps of the directory of runs; None to read them.

    Raises:
        SlurmError: A manifest is damaged.
    """
    now = time.time() if now is None else now
    jobs = jobs_of(all_folders(folder.runs_dir)) if jobs is None else jobs
    found = []
    for stage, entries in enumerate(folder.stages()):
        for line, entry in enumerate(entries):
            known, directory = RunState(folder.name, stage, line, entry, "missing"), folder.runs_dir / str(entry.run)
            try:
                found.append(_state(known, directory, jobs, queue, now))
            except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
                note = f"{directory} cannot be read ({type(error).__name__}: {error}); {_REPAIR}"
                found.append(known._replace(state="damaged", note=note))
    return found


def _submitted(folder: Folder) -> tuple[dict[tuple[int, int], list[Task]], set[tuple[int, int]]]:
    """Returns array tasks by (stage, line), and the (stage, line) pairs that were last submitted as local work here."""
    tasks: dict[tuple[int, int], list[Task]] = {}
    local: set[tuple[int, int]] = set()
    for array in folder.arrays():
        for index in array.indices:
            line = array.stage, array.offset + index
            if array.job is not None:
                tasks.setdefault(line, []).append((array.job, index))
                local.discard(line)
            elif array.host == socket.gethostname():
                local.add(line)
    return tasks, local


def _state(known: RunState, directory: Path, jobs: Jobs, queue: Mapping[Task, Queued], now: float) -> RunState:
    """Completes a run's state from its record and the queue.

    Args:
        known: The state with the fields of the manifest.
        directory: Directory of the record.
        jobs: Jobs of all sweeps.
        queue: Slurm's queue.
        now: The time in seconds since the epoch.
    """
    run = known.entry.run
    task = next((task for task in jobs.tasks.get(run, ()) if task in queue), None)
    record, damage = _read_record(directory)
    if record is not None:
        known = _with_record(known, directory, record, now)
    status = "DAMAGED" if damage else record["status"] if record is not None else "MISSING"
    if status == "COMPLETED":
        return known._replace(state="diverged" if has_diverged(directory, record or {}) else "completed")
    if task is not None:
        waits = queue[task].state in _WAITING
        note = "" if queue[task].reason == "None" else queue[task].reason
        state = "running" if not waits else "pending" if record is None else "requeued"
        return known._replace(state=state, slurm=f"{task[0]}_{task[1]} {queue[task].state}", note=note)
    if status in ("RUNNING", "DAMAGED") and is_alive(directory):
        return known._replace(state="running", note=damage)
    if status == "DAMAGED":
        return known._replace(state="damaged", note=damage)
    if status == "RUNNING":
        return known._replace(state="stale")
    if status == "FAILED":
        has_lost = has_diverged(directory, record or {})
        return known._replace(state="diverged" if has_lost else "failed", note=_failure(record or {}))
    if run in jobs.here or run in jobs.submitting:
        return known._replace(state="pending" if record is None else "requeued")
    if record is not None:
        return known._replace(state="interrupted")
    return known._replace(note=f"has no record; see `logs {run}`" if run in jobs.tasks else "")


def _read_record(directory: Path) -> tuple[dict[str, Any] | None, str]:
    """Returns the run.json of a run, None if there is none, and a description of what is damaged, else empty.

    A record without config.json was never begun. The settings of a completed run are not read any more.
    """
    if not records.has_record(directory):
        return None, ""
    record, config = read_object(directory / "run.json"), read_object(directory / "config.json")
    if record is None or not isinstance(record.get("status"), str):
        return None, f"{directory / 'run.json'} is damaged; {_REPAIR}"
    if config is None and record["status"] != "COMPLETED":
        return record, f"{directory / 'config.json'} is damaged; {_REPAIR}"
    return record, ""


def is_alive(directory: Path) -> bool:
    """Returns whether the process that writes a record is alive."""
    found = lock.holder(directory)
    return found is not None and not found.is_stale and not lock.is_dead(found)


def _with_record(known: RunState, directory: Path, record: Mapping[str, Any], now: float) -> RunState:
    resumed = record.get("resumed", [])
    total = (read_object(directory / "config.json") or {}).get("num_iterations") if known.stage == 0 else None
    iteration = records.progress(directory) if known.stage == 0 else 0
    start: dict[str, Any] = resumed[-1] if resumed else {"time": record.get("start_time"), "iteration": 0}
    seen, began = _seconds(record.get("heartbeat")), _seconds(start["time"])
    rate = None
    if record["status"] == "RUNNING" and seen is not None and began is not None and seen > began:
        rate = max(0, iteration - start["iteration"]) / (seen - began) or None
    held = lock.holder(directory)
    heartbeat = held.age if held is not None else None if seen is None else now - seen
    return known._replace(iteration=iteration, total=total, rate=rate, heartbeat=heartbeat, starts=1 + len(resumed))


def _seconds(text: str | None) -> float | None:
    """Returns a time stamp of a record (UTC) in seconds since the epoch."""
    if text is None:
        return None
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()


def has_diverged(directory: Path, record: Mapping[str, Any]) -> bool:
    """Returns whether the parameters or the loss of a run are not finite.

    They are not if the result has a score that is not finite, or the last row of the metrics a loss, a TD error or a
    change of the parameters. Other metrics may have no value, such as a residual of 0 relative to 0.
    """
    result = record.get("result")
    scores = result.get("score") if isinstance(result, Mapping) else None
    if isinstance(scores, list) and None in scores:
        return True
    row = records.last_row(directory)
    return row is not None and any(value is None and _LOSS.fullmatch(name) for name, value in row["values"].items())


def _failure(record: Mapping[str, Any]) -> str:
    """Returns the error, the last line of the traceback."""
    return "".join(record.get("fail_trace") or [""]).strip().rpartition("\n")[2]
