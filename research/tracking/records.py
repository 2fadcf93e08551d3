"""Reading and cutting the record of a run, whose files `observer` describes. Nothing here writes during a run."""

from __future__ import annotations

import datetime
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.files import append_lines, whole_lines, write_text
from research.tracking.place import sort_key

METRICS = "metrics.jsonl"
CUT = "metrics.cut.jsonl"
EVALUATION = "evaluation.json"
NONFINITE = "nonfinite_values"
"""Name of the metric that counts the NaNs and infinities of a step, which are null in strict JSON."""

_TAIL = 1 << 16
_CRC = ', "crc": "'
_ROW = {"step": int, "timestamp": str, "values": dict}
_TYPES = {"status": str, "command": str, "uid": str, "writes": int, "start_time": str, "host": dict,
          "experiment": dict, "resumed": list, "artifacts": list}  # fmt: skip
_MEND = "restore it from a copy; without the file, `ensure` makes it again and continues from the checkpoint of the run"


class RecordError(ValueError):
    """A file of a record cannot be read. The message names the file, the reason and the remedy.

    Attributes:
        path: The file.
        reason: The damage, without the path.
    """

    def __init__(self, path: Path, reason: str, remedy: str = ""):
        super().__init__(f"{path}: {reason}{remedy and f'; {remedy}'}")
        self.path, self.reason = path, reason


class MissingError(RecordError):
    """A file of a record is not there."""


class Extent(NamedTuple):
    """The rows of metrics that a run has written.

    Attributes:
        rows: Number of lines.
        crc: CRC-32 of the lines, line ends included.
    """

    rows: int
    crc: int


class Series(NamedTuple):
    """The points of one metric.

    Attributes:
        steps: `[points]`.
        values: `[points]`, NaN for null; objects if they are not numbers.
        timestamps: `[points]`, UTC.
    """

    steps: NDArray[np.int64]
    values: NDArray[Any]
    timestamps: NDArray[np.datetime64]


def read_run(directory: Path) -> dict[str, Any]:
    """Returns the content of the run.json of a run, which has a status; the fields of `_TYPES` have their types.

    Raises:
        RecordError: The file is damaged; `MissingError` if there is none.
    """
    path = directory / "run.json"
    run = read_object(path, _MEND)
    if "status" not in run:
        raise RecordError(path, "it has no status", _MEND)
    for key, kind in _TYPES.items():
        if key in run and not isinstance(run[key], kind):
            raise RecordError(path, f"{key} is {run[key]!r:.40}, expected is a {kind.__name__}", _MEND)
    return run


def read_config(directory: Path) -> dict[str, Any]:
    """Returns the settings of a run.

    Raises:
        RecordError: The file is damaged; `MissingError` if there is none.
    """
    return read_object(directory / "config.json", _MEND)


def read_object(path: Path, remedy: str = "") -> dict[str, Any]:
    """Returns the JSON object in a file.

    Args:
        path: The file.
        remedy: Action against damage, for the message.

    Raises:
        RecordError: The file holds something else, or cannot be read; `MissingError` if there is none.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(path, "missing", remedy) from None
    except OSError as error:
        raise RecordError(path, f"cannot be read ({error.strerror})") from error
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "empty" if not content.strip() else f"no valid JSON, probably cut short ({len(content)} bytes)"
        raise RecordError(path, reason, remedy) from error
    if not isinstance(found, dict):
        raise RecordError(path, f"no JSON object, it begins with {content[:40]!r}", remedy)
    return found


def has_record(directory: Path) -> bool:
    """Returns whether a directory holds the record of a run.

    run.json is the last file that a new run writes, so a run that was stopped before that has no record.
    """
    return (directory / "run.json").is_file() and (directory / "config.json").is_file()


def has_remains(directory: Path) -> bool:
    """Returns whether a directory holds a record, metrics or checkpoints, which must not be written over."""
    names = ("run.json", METRICS, "checkpoints/latest.pt", "checkpoints/best.pt")
    return any((directory / name).exists() for name in names)


def run_directories(runs_dir: Path) -> list[Path]:
    """Returns the directories of all records in a directory: numbers first, in order, then other names."""
    found = [path.parent for path in runs_dir.glob("*/run.json") if path.parent.name[0] not in "._"]
    return sorted(found, key=lambda path: sort_key(path.name))


def read_rows(directory: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of the metrics.jsonl of a run, without an incomplete one at the end.

    Raises:
        RecordError: A line is damaged.
    """
    for number, line in enumerate(whole_lines(directory / METRICS), start=1):
        row = parse_row(line)
        if row is None:
            raise RecordError(
                directory / METRICS,
                f"line {number}: damaged, it begins with {line[:40]!r}",
                f"`resume` or `ensure` move such lines to {CUT} and compute their steps again",
            )
        yield row


def read_metrics(directory: Path) -> dict[str, Series]:
    """Returns all metrics of a run by name."""
    return {
        name: Series(
            np.asarray(series["steps"], dtype=np.int64),
            _numbers(series["values"]),
            np.asarray(series["timestamps"], dtype="datetime64[us]"),
        )
        for name, series in fold(read_rows(directory)).items()
    }


def progress(directory: Path) -> int:
    """Returns the last recorded step, 0 if there is none. Reads only the end of the metrics."""
    row = last_row(directory)
    return int(row["step"]) if row else 0


def last_row(directory: Path) -> dict[str, Any] | None:
    """Returns the last row of the metrics of a run; None if there is none. Reads only the end of the metrics."""
    path = directory / METRICS
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().decode(errors="replace").split("\n")[:-1]
    return next((row for line in reversed(lines) if (row := parse_row(line)) is not None), None)


def fold(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Returns the rows in the form of Sacred's metrics.json: `{name: {"steps", "values", "timestamps"}}`."""
    folded: dict[str, dict[str, list[Any]]] = {}
    for row in rows:
        step, timestamp = row["step"], row["timestamp"]
        for name, value in row["values"].items():
            series = folded.get(name)
            if series is None:  # setdefault would make three lists for every point
                series = folded[name] = {"steps": [], "values": [], "timestamps": []}
            series["steps"].append(step)
            series["values"].append(value)
            series["timestamps"].append(timestamp)
    return folded


def cut(directory: Path, iteration: int) -> list[str]:
    """Keeps the metrics of the first `iteration` iterations and moves the other lines, also damaged ones, to `CUT`.

    Returns the lines that are kept, without line ends.

    Metrics belong to finished iterations, so with `iteration=0` no line is kept.
    """
    kept: list[str] = []
    removed: list[str] = []
    for line in whole_lines(directory / METRICS):
        row = parse_row(line)
        is_kept = row is not None and row["step"] <= iteration and iteration > 0
        (kept if is_kept else removed).append(line.removesuffix("\n"))
    if removed:
        append_lines(directory / CUT, removed)
    write_text(directory / METRICS, "".join(f"{line}\n" for line in kept))
    return kept


def missing_rows(directory: Path, written: Extent) -> int:
    """Returns how many rows of those that a run had written are missing or damaged, at least; 0 if all are there."""
    rows = crc = 0
    for line in whole_lines(directory / METRICS):
        if rows < written.rows and parse_row(line) is not None:
            rows, crc = rows + 1, zlib.crc32(line.encode(), crc)
    return 0 if (rows, crc) == written else max(1, written.rows - rows)


def to_json(value: Any) -> Any:
    """Returns the value as strict JSON has it: null for NaN and infinities, text for objects of unknown types."""
    if isinstance(value, Mapping):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(inner) for inner in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return to_json(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def to_line(row: Mapping[str, Any]) -> str:
    """Returns a row as strict JSON whose last entry, `"crc"`, is the CRC-32 of the JSON without it, in hexadecimal."""
    text = json.dumps(row, allow_nan=False)
    return f'{text[:-1]}{_CRC}{zlib.crc32(text.encode()):08x}"}}'


def is_intact(line: bytes) -> bool:
    """Returns whether a line without its end has the checksum that it holds, or holds none."""
    text, has_crc, crc = line.rpartition(_CRC.encode())
    return not has_crc or crc == b'%08x"}' % zlib.crc32(b"}", zlib.crc32(text))


def parse_row(line: str) -> dict[str, Any] | None:
    """Returns the row of a line; None if the line is damaged. Lines of older versions have no checksum."""
    text, has_crc, crc = line.rstrip().rpartition(_CRC)
    if has_crc:
        line = f"{text}}}"
        if crc != f'{zlib.crc32(line.encode()):08x}"}}':
            return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.keys() != _ROW.keys():
        return None
    return row if all(isinstance(row[key], kind) for key, kind in _ROW.items()) else None


def _numbers(values: list[Any]) -> NDArray[Any]:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.asarray(values, dtype=object)
