"""Locks of a sweep: one process submits it or runs it on this machine. They end with the process, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from research.files import naming
from slurm.errors import SlurmError

_PATIENCE_SECONDS = 0.5


@contextlib.contextmanager
def hold(path: Path, doing: str) -> Iterator[int]:
    """Holds the lock of a file, which has the id of the process, and yields the descriptor of the file.

    A program that inherits the descriptor keeps the lock until it has ended, too.

    Args:
        path: The file; it is created if it is missing.
        doing: Action that the lock excludes, for the message, e.g. `runs it`.

    Raises:
        SlurmError: Another process holds the lock.
    """
    with path.open("a+", encoding="utf-8") as file:
        end = time.monotonic() + _PATIENCE_SECONDS
        while not _is_taken(file, fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise SlurmError(
                    f"{path.parent.name}: process {holder(path) or '(unknown)'} already {doing}; wait until it has "
                    f"ended, or cancel the sweep first"
                )
            time.sleep(0.02)  # `holder` takes the lock for a moment
        with naming(path):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield file.fileno()


def holder(path: Path) -> int | None:
    """Returns the id of the process that holds the lock of a file, 0 if it is unknown; None if no process does."""
    try:
        with path.open(encoding="utf-8") as file:
            if _is_taken(file, fcntl.LOCK_SH):
                return None
            text = file.read()
            return int(text) if text.isascii() and text.isdecimal() else 0
    except OSError:
        return None  # there is no such file, or it belongs to somebody else


def is_held_by_another(path: Path) -> bool:
    """Returns whether a process other than this one holds the lock of a file."""
    return holder(path) not in (None, os.getpid())


def _is_taken(file: IO[str], kind: int) -> bool:
    """Takes a lock of a file, if no other process has one that excludes it. Returns whether it did."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
