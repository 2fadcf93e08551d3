"""Slices of a training: each is a process that trains a run until an iteration, and that a later one continues."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Any, Self

from research.tracking.exit_codes import BUSY, HUNG_UP, INTERRUPTED, PREEMPTED, TERMINATED
from research.tracking.signals import preemption_signal
from slurm.manifest import Entry
from slurm.search.folder import StudyFolder
from slurm.search.trials import Job, Outcome
from slurm.states import is_alive
from slurm.task import ROOT, arguments, surroundings

_POLL_SECONDS = 1.0
_STOPPED = (PREEMPTED, HUNG_UP, INTERRUPTED, TERMINATED)
_LONGEST_NOTE = 300


class Stop:
    """A context in which signals that ask to stop are stored, and forwarded to the run that trains.

    Attributes:
        signum: The signal that asked to stop; None until then.
        child: The process of the run; None without one.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        handled = dict.fromkeys((signal.SIGINT, signal.SIGTERM, preemption_signal()))
        self._before = {signum: signal.signal(signum, self._handle) for signum in handled}
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    @property
    def exit_code(self) -> int:
        """The exit code of a worker that was asked to stop, as a run has it; 0 if it was not asked."""
        if self.signum is None:
            return 0
        return PREEMPTED if self.signum == preemption_signal() else 128 + self.signum

    def sleep(self, seconds: float) -> None:
        """Waits, but not after a signal."""
        end = time.monotonic() + seconds
        while self.signum is None and time.monotonic() < end:
            time.sleep(0.05)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.signum = self.signum or signum
        if self.child is not None:
            self.forward(self.child, signum)

    @staticmethod
    def forward(child: subprocess.Popen[bytes], signum: int) -> None:
        """Sends a signal to a process, without `Popen.send_signal`, which may take its exit status from `os.wait4`."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signum)


def run_slice(folder: StudyFolder, job: Job, stop: Stop) -> Outcome:
    """Trains a run to the end of a slice. Returns how that ended; a run that another process trains is waited for.

    Args:
        folder: Folder of the study.
        job: The slice.
        stop: Receives signals meanwhile.
    """
    directory = folder.runs_dir / str(job.run)
    status, seconds = BUSY, 0.0
    log = folder.path / "logs" / f"run_{job.run}.log"
    while status == BUSY and stop.signum is None:
        while is_alive(directory) and stop.signum is None:  # a run that outlived its worker
            stop.sleep(_POLL_SECONDS)
        if stop.signum is None:
            begin = log.stat().st_size if log.exists() else 0
            status, more = _execute(folder, job, stop)
            if status == BUSY:  # it has trained nothing
                stop.sleep(_POLL_SECONDS)
            else:
                seconds += more
    if status == 0:
        return Outcome(0, seconds)
    if stop.signum is not None:
        return Outcome(status, seconds, stopped=True)
    if status in _STOPPED:
        return Outcome(-signal.SIGTERM, seconds, "the run was stopped from outside")
    with log.open("rb") as file:
        file.seek(begin)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return Outcome(status, seconds, (lines or [f"status {status}"])[-1][:_LONGEST_NOTE])


def _execute(folder: StudyFolder, job: Job, stop: Stop) -> tuple[int, float]:
    """Returns the exit status of a slice and its processor time in seconds."""
    environment = surroundings(ROOT, folder.submission())
    with (folder.path / "logs" / f"run_{job.run}.log").open("ab") as log:
        stop.child = process = subprocess.Popen(
            command(folder, job), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        if stop.signum is not None:  # it came while the process started
            stop.forward(process, stop.signum)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage.ru_utime + usage.ru_stime
    finally:
        stop.child = None


def command(folder: StudyFolder, job: Job) -> list[str]:
    """Writes the settings of a slice to a file, and returns the command that trains it."""
    facts, named = folder.facts(), list(folder.file().named_configs)
    entry = Entry(job.run, "", job.settings.get("seed"), facts.script, "ensure", named, job.settings)
    script, name, *options = arguments(folder, entry, ROOT)
    comment = f"search {folder.name}, trial {job.trial}"
    return [sys.executable, script, name, f"--stop-at={job.until}", f"--comment={comment}", *job.options, *options]
