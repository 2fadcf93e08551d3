"""The metrics of a run while it writes them: lines are appended, and restored if another program changes them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from research.files import append_lines, atomic_write
from research.tracking.records import NONFINITE, Extent, to_json, to_line


class Journal:
    """Appends rows to the metrics.jsonl of a run.

    A compressed copy of all lines is kept in memory, a quarter to two fifths of the file. If the file is cut,
    overwritten or deleted while the run runs, `check` writes it again.

    Args:
        path: The file.
        lines: Its lines without line ends.
    """

    def __init__(self, path: Path, lines: Iterable[str] = ()):
        self.path = path
        self.extent = Extent(0, 0)
        self._size = 0
        self._zip = zlib.compressobj(1)
        self._copy: list[bytes] = []
        self._seen: tuple[int, int, int] | None = None
        self._add(lines)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows; they are on disk when this returns. Raises OSError, and then the file is as it was."""
        lines = [to_line(row) for row in rows]
        append_lines(self.path, lines)
        self._add(lines)

    def check(self) -> bool:
        """Restores the file if it does not hold what was written. Returns whether it was restored."""
        if self._signature() == self._seen:
            return False
        is_damaged = not self._is_whole()
        if is_damaged:
            content = zlib.decompress(b"".join([*self._copy, self._zip.copy().flush()]))
            atomic_write(self.path, lambda file: file.write(content))
        self._seen = self._signature()
        return is_damaged

    def _add(self, lines: Iterable[str]) -> None:
        for line in lines:
            text = f"{line}\n".encode()
            self.extent = Extent(self.extent.rows + 1, zlib.crc32(text, self.extent.crc))
            self._size += len(text)
            self._copy.append(self._zip.compress(text))
        self._seen = self._signature()

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _is_whole(self) -> bool:
        """Whether the content is what was written: some file systems change the time of a file later."""
        if not self.path.exists():
            return self._size == 0
        content = self.path.read_bytes()
        return len(content) == self._size and zlib.crc32(content) == self.extent.crc


def to_rows(metrics_by_name: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns one row for each step, in the order of the steps; a second value of a name begins another row.

    Args:
        metrics_by_name: The points of each metric as Sacred hands them on: `{name: {"steps", "values", "timestamps"}}`.
    """
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for name, series in metrics_by_name.items():
        seen: dict[int, int] = {}
        for step, value, time in zip(series["steps"], series["values"], series["timestamps"], strict=True):
            count = seen[step] = seen.get(step, -1) + 1
            row = rows.setdefault((step, count), {"step": step, "timestamp": time.isoformat(), "values": {}})
            row["values"][name] = plain = to_json(value)
            if plain is None:
                row["values"][NONFINITE] = row["values"].get(NONFINITE, 0) + 1
    return list(rows.values())


def write_series(series: Mapping[str, Any], file: IO[bytes]) -> None:
    """Writes strict JSON metric by metric: the text of all metrics would need several times as much memory."""
    file.write(b"{")
    for index, (name, values) in enumerate(sorted(series.items())):
        file.write(b",\n" if index else b"\n")
        file.write(f"{json.dumps(name)}: {json.dumps(values, allow_nan=False)}".encode())
    file.write(b"\n}\n")
