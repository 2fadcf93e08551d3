"""One writer for each record: who holds it, whether that process still lives, and when another may take over.

`runs/<id>/.lock` holds who writes, and is empty when nobody does. The kernel's lock on it settles everything on one
machine, and on file systems whose locks reach other machines. Where they do not, its modification time does: while a
process holds the record, a thread touches the file, whatever an iteration takes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

FILE = ".lock"

TOUCH_SECONDS = 10.0
"""Between two touches of a lock that is held."""

STALE_SECONDS = 120.0
"""Age of the last touch from which on a process on another machine counts as dead."""

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_SETTLE_SECONDS = 0.5


class BusyError(RuntimeError):
    """Another process writes the record: which one, where, and what to do."""


class Holder(NamedTuple):
    """Who holds a record.

    Attributes:
        host: Name of the machine.
        pid: Process on it.
        token: Differs for every time that a lock is taken.
        slurm_job: Id of its Slurm job, if it is one.
        age: Seconds since it was last seen alive. Of a clock that jumped: how far it jumped.
    """

    host: str
    pid: int
    token: str
    slurm_job: str | None
    age: float

    @property
    def is_stale(self) -> bool:
        """Whether it was not seen alive for so long that it counts as dead."""
        return self.age > STALE_SECONDS

    def __str__(self) -> str:
        job = f", Slurm job {self.slurm_job}" if self.slurm_job else ""
        return f"process {self.pid} on {self.host}{job}, seen alive {self.age:.0f} s ago"


def holder(directory: Path, now: float | None = None) -> Holder | None:
    """Who holds the record in `directory`; None if nobody does, or nobody whose name was written down.

    A process that was killed still stands there: ask `is_stale`.

    Args:
        directory: Of the run.
        now: Time on the clock of the file system, seconds since the epoch; that of this machine by default.
    """
    path = directory / FILE
    try:
        touched = path.stat().st_mtime
        entry = json.loads(path.read_text())
        return Holder(**entry, age=abs((time.time() if now is None else now) - touched))
    except (FileNotFoundError, ValueError, TypeError):
        return None


class Lock:
    """The right to write the record in a directory, held from here to `release` or to the end of this process.

    Args:
        directory: Of the run; must exist.

    Raises:
        BusyError: Another process has it.
        OSError: The directory cannot be written.
    """

    def __init__(self, directory: Path):
        self.path = directory / FILE
        self.token = uuid.uuid4().hex
        self._released = threading.Event()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._take(directory)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._toucher = threading.Thread(target=self._touch, name=f"lock of {directory.name}", daemon=True)
        self._toucher.start()

    def is_mine(self) -> bool:
        """Whether nobody has taken over, as may happen to a process that was suspended for minutes."""
        found = holder(self.path.parent)
        return found is None or found.token == self.token

    def release(self) -> None:
        """Gives the record back."""
        if self._released.is_set():
            return
        self._released.set()
        self._toucher.join()
        if self.is_mine():
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _take(self, directory: Path) -> None:
        is_locked = self._lock_in_kernel(directory)
        former = holder(directory, _clock(directory))
        is_elsewhere = former is not None and former.host != socket.gethostname()
        if former is not None and not former.is_stale and (is_elsewhere or not is_locked) and not is_dead(former):
            raise _busy(directory, former)
        entry = {"host": socket.gethostname(), "pid": os.getpid(), "token": self.token,
                 "slurm_job": os.environ.get("SLURM_JOB_ID")}  # fmt: skip
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(entry).encode(), 0)
        os.fsync(self._descriptor)
        if is_elsewhere or not is_locked:
            # Where locks do not reach, several may have found the same stale one: the last to write has it.
            time.sleep(_SETTLE_SECONDS)
            if not self.is_mine():
                raise _busy(directory, holder(directory))

    def _lock_in_kernel(self, directory: Path) -> bool:
        """Whether the file system has locks, in which case this process now has this one."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(directory, holder(directory)) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            return False
        return True

    def _touch(self) -> None:
        while not self._released.wait(TOUCH_SECONDS):
            with contextlib.suppress(OSError):  # the writer will meet it, and say so
                os.utime(self._descriptor)


def is_dead(former: Holder) -> bool:
    """Whether it was a process of this machine that has ended."""
    if former.host != socket.gethostname():
        return False
    try:
        os.kill(former.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _clock(directory: Path) -> float:
    """The time on the clock that dates the files of a directory, which may be another machine's."""
    probe = directory / f".clock.{uuid.uuid4().hex}.partial"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _busy(directory: Path, found: Any) -> BusyError:
    who = found or "which has not written its name yet"
    return BusyError(
        f"run={directory.name}: another process writes {directory} ({who}); stop it first, or wait: a process on "
        f"another machine counts as dead after {STALE_SECONDS:.0f} s"
    )
