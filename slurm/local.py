"""Runs a sweep on this machine: a few runs at a time, each in its own process and on its own cores."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple

from research.tracking.exit_codes import PREEMPTED
from slurm import guard
from slurm.errors import SlurmError
from slurm.folder import Array, Folder, Submission
from slurm.task import ROOT, surroundings

_POLL_SECONDS = 0.1


class Work(NamedTuple):
    """A line of a stage, and the work that starts when its run has completed."""

    stage: int
    line: int
    then: Sequence[Work] = ()


def stop(folder: Folder) -> None:
    """Asks the process that works on a folder without Slurm to stop, if there is one.

    Raises:
        SlurmError: It runs on another machine.
    """
    process = guard.holder(folder.working)
    if not process:
        return
    host = next((array.host for array in reversed(folder.arrays()) if array.host), None)
    if host not in (None, socket.gethostname()):  # a file system may share locks, and the id is another process here
        raise SlurmError(f"{folder.name} runs on {host}; cancel it there")
    os.kill(process, signal.SIGTERM)
    print(f"Sent a stop signal to process {process}; each run finishes its iteration and saves a checkpoint.")


def chain(lines: Sequence[Sequence[int]]) -> list[Work]:
    """Returns the lines of each stage as work. Lines of later stages wait for the same line of the first stage."""
    later = [(stage, line) for stage, own in enumerate(lines[1:], start=1) for line in own]
    first = [Work(0, line, [Work(stage, other) for stage, other in later if other == line]) for line in lines[0]]
    return first + [Work(stage, line) for stage, line in later if line not in lines[0]]


def do(folder: Folder, work: Sequence[Work], workers: int, say: Callable[[str], None]) -> dict[tuple[int, int], int]:
    """Runs all of the work. Returns the exit status of each (stage, line) that was started.

    Ctrl-C and SIGTERM are forwarded to the runs: each finishes its iteration, saves a checkpoint and ends, and no other
    run starts.

    Args:
        folder: Folder of the sweep.
        work: The runs.
        workers: Most runs at a time.
        say: Receives lines for the user.

    Raises:
        SlurmError: Another process runs the sweep.
    """
    with guard.hold(folder.working, "runs it"):
        for stage in sorted({item.stage for item in work} | {then.stage for item in work for then in item.then}):
            lines = [item.line for item in work if item.stage == stage]
            lines += [then.line for item in work for then in item.then if then.stage == stage]
            folder.add(Array(stage, 0, sorted(lines), host=socket.gethostname()))
        return _Pool(folder, workers, say).run(list(work))


class _Pool:
    """Processes, at most one per slot."""

    def __init__(self, folder: Folder, workers: int, say: Callable[[str], None]):
        self.folder = folder
        self.say = say
        self.running: dict[int, tuple[Work, subprocess.Popen[bytes]]] = {}
        self.slots = workers
        self.stopped: int | None = None

    def run(self, work: list[Work]) -> dict[tuple[int, int], int]:
        ended: dict[tuple[int, int], int] = {}
        before = {signum: signal.signal(signum, self._stop) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self.running or (work and self.stopped is None):
                for slot in range(self.slots):
                    if work and self.stopped is None and slot not in self.running:
                        self.running[slot] = work[0], self._start(slot, work.pop(0))
                time.sleep(_POLL_SECONDS)
                for slot, (item, process) in list(self.running.items()):
                    status = process.poll()
                    if status is not None:
                        del self.running[slot]
                        ended[item.stage, item.line] = status
                        work[:0] = self._follow(item, status)
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
        return ended

    def _follow(self, item: Work, status: int) -> Sequence[Work]:
        """Reports the end of a run. Returns the next work: the same run after a preemption, or what follows."""
        self.say(f"{_what(item)} ended with status {status}; log: {self._log(item)}")
        if status == PREEMPTED:
            return [item]
        return item.then if status == 0 else []

    def _start(self, slot: int, item: Work) -> subprocess.Popen[bytes]:
        code = self.folder.code_or(ROOT)
        manifest = self.folder.manifest(item.stage)
        command = [sys.executable, "-m", "slurm", "task", str(manifest), str(item.line)]
        self.say(f"{_what(item)} starts")
        with self._log(item).open("ab") as log:
            # In a new session, so that Ctrl-C at the terminal reaches only this process, which forwards it.
            process = _spawn(command, code, self.folder.submission(), log)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, _cores(slot, self.slots))
        return process

    def _log(self, item: Work) -> Path:
        return self.folder.log(Array(item.stage, 0, []), item.line)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        if self.stopped is None:
            print(
                "Stopping: each run finishes its iteration and saves a checkpoint. A second signal stops at once.",
                flush=True,
            )
        self.stopped = signum
        for _, process in self.running.values():
            process.send_signal(signum)


def _spawn(command: Sequence[str], code: Path, submission: Submission, log: IO[Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=code,
        env=surroundings(code, submission),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _what(item: Work) -> str:
    return f"line {item.line}" + (f" of stage {item.stage}" if item.stage else "")


def _cores(slot: int, slots: int) -> set[int]:
    """Returns the cores of a slot. Slots have disjoint cores if there are enough."""
    cores = sorted(os.sched_getaffinity(0))
    per_slot = max(1, len(cores) // slots)
    return {cores[(slot * per_slot + index) % len(cores)] for index in range(per_slot)}
