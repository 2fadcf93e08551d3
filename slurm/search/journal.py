"""The journal of a study: Optuna's journal of JSON lines, which several processes extend in transactions.

A transaction holds a lock of the kernel, which ends with its process, and appends all of its lines at once; each line
says how many follow (`left`). A transaction whose end is missing, because its process was killed, never was: readers
leave it out, and the next writer cuts it off. Optuna's own reader of files can read the journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from research.files import append_lines, naming
from slurm.errors import SlurmError


class Journal(BaseJournalBackend):
    """The lines of a study.

    Args:
        path: The file; its directory must exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lines: list[dict[str, Any]] = []  # of the file, as far as it was read
        self._end = 0  # the byte after them
        self._new: list[dict[str, Any]] | None = None  # the lines of the open transaction

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Excludes other processes; what is appended meanwhile is written at its end, or not at all after an error.

        After an error, a storage that has read from this journal knows lines that do not exist: open another one.

        Raises:
            SlurmError: A line of the journal is damaged.
            OSError: The file cannot be written, or its file system has no locks.
        """
        lock = self.path.with_suffix(".lock")
        with naming(lock), lock.open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            self._cut()
            self._new = []
            try:
                yield
                new = [{**log, "left": left} for left, log in enumerate(reversed(self._new))][::-1]
                if new:
                    append_lines(self.path, [json.dumps(log, separators=(",", ":")) for log in new])
            finally:
                self._new = None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends lines to the open transaction."""
        if self._new is None:
            raise RuntimeError(f"{self.path}: can only be written in a transaction")
        self._new += json.loads(json.dumps(logs))

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yields the lines from a number on, those of the open transaction last."""
        if self._new is None:
            self._read()
        yield from [*self._lines[log_number_from:], *(self._new or ())[max(0, log_number_from - len(self._lines)) :]]

    def _read(self) -> None:
        """Reads the whole transactions that the file has in addition."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._end)
            group: list[dict[str, Any]] = []
            size = 0
            for line in file:
                size += len(line)
                if not line.endswith(b"\n"):
                    return
                group.append(self._parse(line, len(self._lines) + len(group)))
                if group[-1].get("left", 0) == 0:
                    self._lines += group
                    group = []
                    self._end += size
                    size = 0

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            log = json.loads(line)
        except ValueError:
            log = None
        if not isinstance(log, dict):
            raise SlurmError(f"{self.path}: line {number + 1} is damaged: {line[:40]!r}; restore it from a copy")
        return log

    def _cut(self) -> None:
        """Reads what is new, and cuts off a transaction that is not complete."""
        self._read()
        if self.path.exists() and self.path.stat().st_size > self._end:
            with self.path.open("r+b") as file:
                file.truncate(self._end)
