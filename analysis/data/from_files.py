"""Reads runs from a directory: records of this project, and records of Sacred's FileStorageObserver.

Damaged files are read as far as they can be parsed. Metrics come from metrics.jsonl or, without that file, from
metrics.json.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.data.records import EMPTY, LOG_BYTES, STALE, TORN, Points, Record, is_silent, parse_times, points
from research.tracking import lock
from research.tracking.place import sort_key
from research.tracking.records import EVALUATION, METRICS, is_intact, parse_row

_OF_A_RECORD = ("run.json", "config.json", METRICS, "metrics.json", "cout.txt")
_BLOCK = 1 << 22
"""Bytes of metrics.jsonl that are parsed at once. This bounds the memory used in addition to the arrays."""

Columns = dict[str, list[Points]]


class Directory:
    """The runs of a directory.

    Args:
        path: A directory with a folder for each run, or the folder of one run.
        now: The current time in seconds since the epoch, which decides whether a run is stale. None: the clock's.

    Raises:
        ValueError: The directory does not exist.
    """

    def __init__(self, path: Path, now: float | None = None):
        if not path.is_dir():
            raise ValueError(f"{path}: no such directory; need one that holds runs, a run's own, or mongodb://…")
        self.path = path
        self.now = time.time() if now is None else now

    def records(self) -> list[Record]:
        """Returns the records of all folders, numbered ones first. Names that begin with `_` or a dot are skipped."""
        if _is_record(self.path):
            return [self._record(self.path, str(self.path.parent))]
        found = [path for path in self.path.iterdir() if path.is_dir() and path.name[0] not in "._"]
        found.sort(key=lambda path: sort_key(path.name))
        return [self._record(path, str(self.path)) for path in found]

    def _record(self, directory: Path, source: str) -> Record:
        problems: list[str] = []
        record = Record(source, directory.name, EMPTY, directory=str(directory.resolve()), problems=problems)
        if not _is_record(directory):
            within = sorted(path.name for path in directory.iterdir())
            problems.append(f"no record, only {', '.join(within[:5])}" if within else "an empty folder")
            return record
        run = _json(directory / "run.json", problems)
        record.config = _json(directory / "config.json", problems)
        if run is None or not isinstance(run.get("status"), str):
            if run is not None:
                problems.append("run.json: no status")
            record.status = TORN
        else:
            record.status = STALE if run["status"] == "RUNNING" and self._is_dead(directory, run) else run["status"]
        record.run = run or {}
        names = [name for name in record.run.get("artifacts") or () if isinstance(name, str)]
        record.artifacts = {name: str(directory.resolve() / name) for name in names}
        return record

    def _is_dead(self, directory: Path, run: Mapping[str, Any]) -> bool:
        """Whether no process works on a run whose record says RUNNING."""
        holder = lock.holder(directory, self.now)
        if holder is None:
            return is_silent(run, np.datetime64(int(1000 * self.now), "ms"))
        return holder.is_stale or lock.is_dead(holder)

    def points(self, records: Sequence[Record]) -> Iterator[dict[str, Points]]:
        for record in records:
            lines, folded = (Path(record.directory, name) for name in (METRICS, "metrics.json"))
            if lines.exists():
                yield _read_lines(lines, record.problems, _written(record))
            elif folded.exists() and record.status != EMPTY:
                yield _read_folded(folded, record.problems)
            else:
                if _written(record):
                    record.problems.append(f"{METRICS} is missing")
                yield {}

    def evaluation(self, record: Record) -> Mapping[str, Any] | None:
        path = Path(record.directory, EVALUATION)
        return _json(path, record.problems) if path.exists() else None

    def close(self) -> None:
        pass

    def log(self, record: Record) -> str:
        path = Path(record.directory, "cout.txt")
        if not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            return file.read().decode(errors="replace")


def _is_record(directory: Path) -> bool:
    return any((directory / name).is_file() for name in _OF_A_RECORD)


def _json(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """Returns the JSON object in a file; None, and adds a problem, if the file has none."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        problems.append(f"{path.name} is missing")
    except ValueError:
        problems.append(f"{path.name}: invalid JSON")
    else:
        if isinstance(found, dict):
            return found
        problems.append(f"{path.name}: no JSON object")
    return None


def _read_folded(path: Path, problems: list[str]) -> dict[str, Points]:
    """Reads metrics in Sacred's format: `{name: {"steps", "values", "timestamps"}}`."""
    found = {}
    for name, series in (_json(path, problems) or {}).items():
        try:
            found[name], dropped = points(series["steps"], series["values"], series["timestamps"])
        except (KeyError, TypeError, ValueError, IndexError):
            problems.append(f"{path.name}: {name} is damaged")
            continue
        note_dropped(problems, name, dropped)
    return found


def note_dropped(problems: list[str], name: str, count: int) -> None:
    """Adds a problem if values of a metric were left out."""
    if count:
        problems.append(f"{name}: {count} values are no numbers")


def _written(record: Record) -> int:
    """Returns the number of rows that a run had written when it noted it; 0 if it noted none."""
    noted = record.run.get("metrics_file")
    rows = noted.get("rows") if isinstance(noted, dict) else None
    return rows if isinstance(rows, int) else 0


def _read_lines(path: Path, problems: list[str], written: int = 0) -> dict[str, Points]:
    """Reads metrics.jsonl block by block. Problems say how many lines are damaged or missing.

    The values of a line that differs from its checksum are unknown, and NaN; other damaged lines are left out.
    """
    columns: Columns = defaultdict(list)
    dropped: dict[str, int] = defaultdict(int)
    damaged = lines = 0
    for block, is_torn in _blocks(path):
        if is_torn:
            problems.append(f"{path.name}: the last line is torn")
            continue
        rows, bad = _rows(block)
        damaged += bad
        lines += block.count(b"\n") + 1
        _add(columns, dropped, rows)
    if damaged:
        problems.append(f"{path.name}: {damaged} damaged lines")
    if lines < written:
        problems.append(f"{path.name}: {written - lines} of {written} rows are missing")
    for name, count in dropped.items():
        note_dropped(problems, name, count)
    return {
        name: parts[0] if len(parts) == 1 else Points(*map(np.concatenate, zip(*parts, strict=True)))
        for name, parts in columns.items()
    }


def _blocks(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Yields blocks of about `_BLOCK` bytes that end with a line, then an incomplete last line with True."""
    rest = b""
    with path.open("rb") as file:
        while read := file.read(_BLOCK):
            whole, newline, tail = read.rpartition(b"\n")
            if not newline:
                rest += read
                continue
            yield rest + whole, False
            rest = tail
    if rest:
        yield rest, True


def _rows(block: bytes) -> tuple[list[dict[str, Any]], int]:
    """Returns the rows of a block of lines, and the number of damaged lines."""
    lines = block.split(b"\n")
    try:
        # One call for all lines is several times as fast. JSON has no line ends within strings.
        rows = json.loads(b"[" + block.replace(b"\n", b",") + b"]")
        if all(map(is_intact, lines)) and all(
            type(row) is dict and type(row["values"]) is dict and "timestamp" in row for row in rows
        ):
            return rows, 0
    except (ValueError, KeyError):
        pass
    texts = [line.decode(errors="replace") for line in lines]
    parsed = [parse_row(text) for text in texts]
    rows = [row or _changed_row(text) for row, text in zip(parsed, texts, strict=True)]
    return [row for row in rows if row is not None], parsed.count(None)


def _changed_row(line: str) -> dict[str, Any] | None:
    """Returns the row of a line that differs from its checksum, with unknown values; None if it is no row."""
    row = parse_row(line.rpartition(', "crc"')[0] + "}")
    return row and {**row, "values": dict.fromkeys(row["values"])}


def _add(columns: Columns, dropped: dict[str, int], rows: Sequence[dict[str, Any]]) -> None:
    """Appends the points of rows to the columns. Rows with the same metrics are converted together."""
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        kinds[tuple(row["values"])].append(row)
    for names, alike in kinds.items():
        steps = [row["step"] for row in alike]
        stamps = parse_times([row["timestamp"] for row in alike])
        cells = [list(row["values"].values()) for row in alike]
        try:
            table = np.array(cells, np.float64)
        except (TypeError, ValueError):
            table = np.empty(0)
        for index, name in enumerate(names):
            if table.ndim == 2:
                columns[name].append(Points(np.array(steps, np.int64), np.ascontiguousarray(table[:, index]), stamps))
            else:
                found, count = points(steps, [cell[index] for cell in cells], stamps)
                columns[name].append(found)
                dropped[name] += count
