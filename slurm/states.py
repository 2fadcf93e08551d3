"""The state of every run of a sweep: what Slurm's queue says, crossed with what the run's record says."""

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
    "running": "at work",
    "requeued": "was stopped or preempted, and waits in the queue to go on",
    "completed": "done",
    "failed": "ended with an error, which stands in its record and its log",
    "diverged": "ended, and its last numbers are not finite",
    "interrupted": "was told to stop, saved, and is not in the queue",
    "stale": "its record says that it runs, but it is not in the queue and gives no sign of life",
    "missing": "has no record and is not in the queue",
}
"""Every state of a run, and what it means."""

LIVE = ("pending", "running", "requeued")
LEFT = ("failed", "stale", "interrupted", "missing")
"""What `retry` goes on with, unless told otherwise."""

_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")


class RunState(NamedTuple):
    """A run of a sweep.

    Attributes:
        sweep: Name of the sweep's folder.
        stage: 0 for training.
        line: Of the stage's manifest.
        entry: What the manifest says.
        state: One of `STATES`.
        slurm: The task and its state in the queue, if it is there.
        iteration: Finished iterations.
        total: Iterations at the end.
        rate: Iterations per second since it last started; None if it does not run, or has finished none.
        heartbeat: Seconds since it was last seen alive; None if it never was.
        starts: How many times it was started.
        note: Why it waits, or what it failed of.
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
    def share(self) -> float:
        """The finished fraction of the run, 0 to 1."""
        if self.state in ("completed", "diverged"):
            return 1.0
        return self.iteration / self.total if self.total else 0.0


def survey(folder: Folder, queue: Mapping[Task, Queued], now: float | None = None) -> list[RunState]:
    """The state of every run of a sweep, stage by stage, line by line.

    Args:
        folder: Of the sweep.
        queue: What waits or runs, see `scheduler.queue`; empty where there is no Slurm.
        now: Seconds since the epoch.
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
    """The tasks that each (stage, line) was submitted as, and those that were given to this machine last."""
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
    """What is known of a run, with its state.

    Args:
        known: What the manifest says.
        directory: Of its record.
        tasks: That it was submitted as.
        queue: What Slurm says.
        is_here: Whether a process on this machine works on the sweep, this run included.
        now: Seconds since the epoch.
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
    return known._replace(note=f"left no record; see `logs {known.entry.run}`" if tasks else "")


def is_alive(directory: Path) -> bool:
    """Whether the process that writes a record gives signs of life."""
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
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None


def _seconds(text: str | None) -> float | None:
    """A time of a record, which is in UTC, since the epoch."""
    if text is None:
        return None
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()


def _has_diverged(directory: Path) -> bool:
    """Whether the last row of the metrics holds a number that is not finite."""
    row = records.last_row(directory)
    return row is not None and None in row["values"].values()


def _failure(record: Mapping[str, Any]) -> str:
    """The last line of the traceback, which is the error."""
    return "".join(record.get("fail_trace") or [""]).strip().rpartition("\n")[2]
