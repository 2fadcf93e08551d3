"""The state of every run of a sweep, from Slurm's queue and from the records of the runs."""

from __future__ import annotations

import datetime
import json
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.tracking import lock, records
from slurm.folder import Folder
from slurm.local import worker_of
from slurm.manifest import Entry
from slurm.scheduler import Queued, Task

STATES = {
    "pending": "waits in the queue for its first start",
    "running": "runs",
    "requeued": "was stopped or preempted, and waits in the queue to continue",
    "completed": "has completed",
    "failed": "ended with an error, which is in its record and its log",
    "diverged": "ended with metrics that are not finite",
    "interrupted": "was stopped, has saved a checkpoint, and is not in the queue",
    "stale": "its record says RUNNING, but it is not in the queue and has no heartbeat",
    "missing": "has no record and is not in the queue",
}
"""The states of a run and their meanings."""

LIVE = ("pending", "running", "requeued")
LEFT = ("failed", "stale", "interrupted", "missing")
"""The states that `retry` continues by default."""

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
    def seconds_left(self) -> float | None:
        """The estimated seconds to the end; None if the rate is unknown."""
        return None if not self.rate or self.total is None else (self.total - self.iteration) / self.rate

    @property
    def fraction(self) -> float:
        """Fraction of the run that is done, 0 to 1."""
        if self.state in ("completed", "diverged"):
            return 1.0
        return self.iteration / self.total if self.total else 0.0


def survey(folder: Folder, queue: Mapping[Task, Queued], now: float | None = None) -> list[RunState]:
    """Returns the state of every run of a sweep, ordered by stage and line.

    Args:
        folder: Folder of the sweep.
        queue: Slurm's queue, see `scheduler.queue`; empty without Slurm.
        now: The time in seconds since the epoch; None for the current time.
    """
    now = time.time() if now is None else now
    tasks, local = _submitted(folder)
    is_working = bool(local) and worker_of(folder) is not None
    found = []
    for stage, entries in enumerate(folder.stages()):
        for line, entry in enumerate(entries):
            known = RunState(folder.name, stage, line, entry, "missing")
            is_here = is_working and (stage, line) in local
            found.append(
                _state(known, folder.runs_dir / str(entry.run), tasks.get((stage, line), []), queue, is_here, now)
            )
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


def _state(
    known: RunState, directory: Path, tasks: Sequence[Task], queue: Mapping[Task, Queued], is_here: bool, now: float
) -> RunState:
    """Completes a run's state from its record and the queue.

    Args:
        known: The state with the fields of the manifest.
        directory: Directory of the record.
        tasks: Array tasks that the run was submitted as.
        queue: Slurm's queue.
        is_here: Whether a process on this machine runs the sweep, including this run.
        now: The time in seconds since the epoch.
    """
    task = next((task for task in tasks if task in queue), None)
    record = _read(directory / "run.json")
    if record is not None:
        known = _with_record(known, directory, record, now)
    status = record["status"] if record is not None else "MISSING"
    if status == "COMPLETED":
        return known._replace(state="diverged" if _has_diverged(directory) else "completed")
    if task is not None:
        waits = queue[task].state in _WAITING
        note = "" if queue[task].reason == "None" else queue[task].reason
        state = "running" if not waits else "pending" if record is None else "requeued"
        return known._replace(state=state, slurm=f"{task[0]}_{task[1]} {queue[task].state}", note=note)
    if status == "RUNNING":
        return known._replace(state="running" if is_alive(directory) else "stale")
    if status == "FAILED":
        return known._replace(state="diverged" if _has_diverged(directory) else "failed", note=_failure(record or {}))
    if is_here:
        return known._replace(state="pending" if record is None else "requeued")
    if record is not None:
        return known._replace(state="interrupted")
    return known._replace(note=f"has no record; see `logs {known.entry.run}`" if tasks else "")


def is_alive(directory: Path) -> bool:
    """Returns whether the process that writes a record is alive."""
    found = lock.holder(directory)
    return found is not None and not found.is_stale and not lock.is_dead(found)


def _with_record(known: RunState, directory: Path, record: Mapping[str, Any], now: float) -> RunState:
    resumed = record.get("resumed", [])
    total = (_read(directory / "config.json") or {}).get("num_iterations") if known.stage == 0 else None
    iteration = records.progress(directory) if known.stage == 0 else 0
    start: dict[str, Any] = resumed[-1] if resumed else {"time": record.get("start_time"), "iteration": 0}
    seen, began = _seconds(record.get("heartbeat")), _seconds(start["time"])
    rate = None
    if record["status"] == "RUNNING" and seen is not None and began is not None and seen > began:
        rate = max(0, iteration - start["iteration"]) / (seen - began) or None
    held = lock.holder(directory)
    heartbeat = held.age if held is not None else None if seen is None else now - seen
    return known._replace(iteration=iteration, total=total, rate=rate, heartbeat=heartbeat, starts=1 + len(resumed))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _seconds(text: str | None) -> float | None:
    """Returns a time stamp of a record (UTC) in seconds since the epoch."""
    if text is None:
        return None
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()


def _has_diverged(directory: Path) -> bool:
    """Whether the last row of metrics has a value that is not finite."""
    row = records.last_row(directory)
    return row is not None and None in row["values"].values()


def _failure(record: Mapping[str, Any]) -> str:
    """Returns the error, the last line of the traceback."""
    return "".join(record.get("fail_trace") or [""]).strip().rpartition("\n")[2]
