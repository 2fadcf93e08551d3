"""One writer for each record: its process, whether that process is alive, and when another one may take over.

The file `runs/<id>/.lock` names the process that writes, and is empty when there is none. The kernel's lock on the file
decides on one machine, and on file systems whose locks reach other machines. Elsewhere its modification time decides:
while a process holds the record, a thread touches the file, however long an iteration takes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from research.files import naming

FILE = ".lock"

TOUCH_SECONDS = 10.0
"""Seconds between two touches of a lock that is held."""

STALE_SECONDS = 120.0
"""Seconds since the last touch after which a process on another machine counts as dead."""

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_SETTLE_SECONDS = 0.5

_turn: defaultdict[int, threading.RLock] = defaultdict(threading.RLock)
"""By process: a process that was forked has none of the threads that may hold that of its parent."""


class BusyError(RuntimeError):
    """Another process writes the record. The message names the process, its machine and the possible actions."""


class Holder(NamedTuple):
    """The process that holds a record.

    Attributes:
        host: Name of its machine.
        pid: Its id on that machine.
        token: A text that is different each time that a lock is taken.
        slurm_job: Id of its Slurm job; None outside of Slurm.
        age: Seconds since the last touch, or the distance that the clock has jumped meanwhile.
    """

    host: str
    pid: int
    token: str
    slurm_job: str | None
    age: float

    @property
    def is_stale(self) -> bool:
        """Whether the last touch was so long ago that the process counts as dead."""
        return self.age > STALE_SECONDS

    def __str__(self) -> str:
        job = f", Slurm job {self.slurm_job}" if self.slurm_job else ""
        return f"process {self.pid} on {self.host}{job}, seen alive {self.age:.0f} s ago"


def holder(directory: Path, now: float | None = None) -> Holder | None:
    """Returns the process that holds the record of a run; None if the lock names none.

    A process that was killed is still named, see `Holder.is_stale`.

    Args:
        directory: Directory of the run.
        now: Time on the clock of the file system, in seconds since the epoch; by default that of this machine.
    """
    path = directory / FILE
    try:
        touched = path.stat().st_mtime
        entry = json.loads(path.read_text(encoding="utf-8"))
        return Holder(**entry, age=abs((time.time() if now is None else now) - touched))
    except (FileNotFoundError, ValueError, TypeError):
        return None


class Lock:
    """The exclusive right to write a record, from the construction to `release` or to the end of this process.

    Args:
        directory: Directory of the run; it must exist.

    Raises:
        BusyError: Another process holds the record.
        OSError: The directory cannot be written.
    """

    def __init__(self, directory: Path):
        self.path = directory / FILE
        self.token = uuid.uuid4().hex
        self._released = threading.Event()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with naming(self.path):
                self._take(directory)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._toucher = threading.Thread(target=self._touch, name=f"lock of {directory.name}", daemon=True)
        self._toucher.start()

    def is_mine(self) -> bool:
        """Returns whether no other process has taken over, as one may if this process is suspended for minutes."""
        found = holder(self.path.parent)
        return found is None or found.token == self.token

    def release(self) -> None:
        """Ends the right to write; does nothing the second time."""
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
            # Without kernel locks several processes may have found the same stale lock: the last to write has it.
            time.sleep(_SETTLE_SECONDS)
            if not self.is_mine():
                raise _busy(directory, holder(directory))

    def _lock_in_kernel(self, directory: Path) -> bool:
        """Returns whether the file system has locks; this process then has the lock of this file."""
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
            with contextlib.suppress(OSError):  # the writer meets the same error and reports it
                os.utime(self._descriptor)


def is_dead(former: Holder) -> bool:
    """Returns whether the process ran on this machine and has ended."""
    if former.host != socket.gethostname():
        return False
    try:
        os.kill(former.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # it is alive, and another user's
    return False


def _clock(directory: Path) -> float:
    """Returns the time of the clock that dates the files of a directory, which may be that of another machine."""
    probe = directory / f".clock.{uuid.uuid4().hex}.partial"
    try:
        with probe.open("xb") as file:
            return os.fstat(file.fileno()).st_mtime
    finally:
        probe.unlink(missing_ok=True)  # who has the record may have removed it


def _busy(directory: Path, found: Holder | None) -> BusyError:
    who = found or "which has not written its name yet"
    return BusyError(
        f"run={directory.name}: another process writes {directory} ({who}); stop it first, or wait: a process on "
        f"another machine counts as dead after {STALE_SECONDS:.0f} s"
    )


@contextlib.contextmanager
def one_run() -> Iterator[None]:
    """A context that one thread of a process enters at a time: output is captured from the whole process."""
    turn = _turn[os.getpid()]
    if not turn.acquire(blocking=False):
        print(
            "This run waits for the one of another thread. Runs of several processes do not wait.", file=sys.__stderr__
        )
        turn.acquire()
    try:
        yield
    finally:
        turn.release()
