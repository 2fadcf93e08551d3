"""The record of a run in one form for all sources: its fields as a row of a table, its metrics as arrays."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from research.tracking.place import id_of

EMPTY = "EMPTY"
"""Status of a folder without a record."""

TORN = "TORN"
"""Status of a record whose run.json is missing or damaged."""

STALE = "STALE"
"""Status of a run whose record says RUNNING although no process works on it."""

HEARTBEAT_SECONDS = 600.0
"""A run without a lock counts as stale when its last heartbeat is older. A heartbeat may wait for an iteration."""


class Points(NamedTuple):
    """One metric of a run.

    Attributes:
        steps: `[points]`
        values: `[points]`, NaN for null.
        times: `[points]`, UTC, in milliseconds, the resolution of MongoDB.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    times: NDArray[np.datetime64]


@dataclass
class Record:
    """The record of one run without its metrics.

    Attributes:
        source: The directory or database that holds the record, without a password.
        name: The name of the run's directory, or its id as text.
        status: The recorded status, or `STALE`, `TORN`, `EMPTY`.
        run: The content of run.json; empty if the file is missing.
        config: The content of config.json; None if the file is missing or damaged.
        directory: The absolute path of the run's directory; empty if the source does not know it.
        artifacts: `{name: path}`.
        problems: Descriptions of missing and damaged parts. Reading metrics may add to them.
    """

    source: str
    name: str
    status: str
    run: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    directory: str = ""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Source(Protocol):
    """A directory or database that holds runs."""

    def records(self) -> list[Record]:
        """Returns the records of all runs, ordered by name."""

    def points(self, records: Sequence[Record]) -> Iterator[dict[str, Points]]:
        """Yields the metrics of each of these runs as recorded, and adds damage to `problems` of the record."""

    def evaluation(self, record: Record) -> Mapping[str, Any] | None:
        """Returns the content of evaluation.json; None if the file is missing or damaged."""

    def close(self) -> None:
        """Closes all connections. `log` may be called later, and opens a connection of its own."""

    def log(self, record: Record) -> str:
        """Returns the last `LOG_BYTES` bytes of the captured output as text."""


LOG_BYTES = 1 << 14
"""Bytes of the captured output that `Source.log` returns at most."""


def row(record: Record) -> dict[str, Any]:
    """Returns the row of a run in `Runs.table`, without the columns that follow from its metrics."""
    run, config = record.run, record.config
    experiment = run.get("experiment") or {}
    repository: Mapping[str, Any] = next(iter(experiment.get("repositories") or ()), {})
    start, stop = parse_time(run.get("start_time")), parse_time(run.get("stop_time"))
    known = {
        "source": record.source,
        "id": id_of(record.name),
        "experiment": experiment.get("name"),
        "command": run.get("command"),
        "status": record.status,
        "seed": (config or {}).get("seed"),
        "tag": _tag(run),
        "git": repository.get("commit"),
        "dirty": repository.get("dirty"),
        "host": (run.get("host") or {}).get("hostname"),
        "started": start,
        "stopped": stop,
        "seconds": None,
        "restarts": len(run.get("resumed") or ()),
        "problems": "; ".join(record.problems),
        "directory": record.directory,
    }
    settings = {f"config.{key}": value for key, value in flat(config or {}).items()}
    return known | settings | dict(_results(run.get("result")))


def _tag(run: Mapping[str, Any]) -> Any:
    """Returns the tag of the run: `-c TAG` on its command line, which Sacred calls a comment."""
    meta = run.get("meta") or {}
    return meta.get("comment") or (meta.get("options") or {}).get("--comment")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings as one mapping with dotted keys. Lists become tuples, which are hashable."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and set(value) != {"py/tuple"}:
            found |= flat(value, f"{prefix}{key}.") if value else {}
        else:
            found[f"{prefix}{key}"] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):  # the form of a tuple in Sacred's files
        return _plain(value["py/tuple"]) if set(value) == {"py/tuple"} else str(dict(value))
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _results(result: Any) -> Iterator[tuple[str, Any]]:
    """Yields the columns of a result: `result`, `result.<key>`, and `result.score_after_<k>` of an adaptation curve."""
    if isinstance(result, (int, float)):
        yield "result", result
    for key, value in result.items() if isinstance(result, Mapping) else ():
        if key == "score" and isinstance(value, (list, tuple)):
            for step, score in enumerate(value):
                yield f"result.score_after_{step}", float("nan") if score is None else score  # null: not finite
        elif isinstance(value, (int, float, str)):
            yield f"result.{key}", value


def parse_time(value: Any) -> np.datetime64 | None:
    """Returns a recorded time in milliseconds, UTC; None if it is missing or has no readable format."""
    try:
        moment = datetime.datetime.fromisoformat(value) if isinstance(value, str) else value
        if moment is None or moment.tzinfo is None:
            return None if moment is None else np.datetime64(moment, "ms")
        return np.datetime64(moment.astimezone(datetime.UTC).replace(tzinfo=None), "ms")
    except (ValueError, AttributeError):
        return None


def parse_times(values: Iterable[Any]) -> NDArray[np.datetime64]:
    """Returns recorded times, UTC, NaT for those without a readable format.

    Args:
        values: Texts without a time zone, or datetimes.
    """
    texts = list(values)
    try:
        return np.array(texts, "datetime64[ms]")
    except (ValueError, TypeError):
        return np.array(
            [moment if (moment := parse_time(text)) is not None else "NaT" for text in texts], "datetime64[ms]"
        )


def is_silent(run: Mapping[str, Any], now: np.datetime64) -> bool:
    """Whether the last heartbeat of a run, or its start if it has no heartbeat, is older than `HEARTBEAT_SECONDS`."""
    heartbeat = parse_time(run.get("heartbeat"))
    seen = parse_time(run.get("start_time")) if heartbeat is None else heartbeat
    return seen is None or bool((now - seen) / np.timedelta64(1, "s") > HEARTBEAT_SECONDS)


def failure_reasons(record: Record) -> list[str]:
    """Returns why a run is not complete: the last line of its error, or the time of its last heartbeat."""
    trace = "".join(record.run.get("fail_trace") or ()).strip()
    if record.status == "FAILED" and trace:
        return [trace.splitlines()[-1].strip()]
    seen = record.run.get("heartbeat") or record.run.get("start_time")
    if record.status == STALE and (moment := parse_time(seen)) is not None:
        return [f"last beat {str(moment).replace('T', ' ')[:19]} UTC"]
    return []


def points(steps: Any, values: Sequence[Any], stamps: Iterable[Any]) -> tuple[Points, int]:
    """Returns a metric as arrays, and the number of values that were left out because they are not numbers."""
    numbers = as_numbers(values)
    kept = np.array([value is None or isinstance(value, (int, float)) for value in values], bool)
    found = Points(np.array(steps, np.int64), numbers, parse_times(stamps))
    if kept.all():
        return found, 0
    return Points(*(part[kept] for part in found)), int((~kept).sum())


def as_numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    """Returns floats, NaN for null and for values that are not numbers."""
    try:
        numbers = np.array(values, np.float64)
        if numbers.ndim == 1:
            return numbers
    except (TypeError, ValueError):
        pass
    return np.array([value if isinstance(value, (int, float)) else np.nan for value in values], np.float64)


def without_repeats(found: Points) -> tuple[Points, int]:
    """Returns the points ordered by step, of a repeated step the last one, and the number of points left out."""
    if (np.diff(found.steps) > 0).all():
        return found, 0
    order = np.argsort(found.steps, kind="stable")
    last = np.append(np.diff(found.steps[order]) > 0, True)
    chosen = order[last]
    return Points(*(part[chosen] for part in found)), len(order) - len(chosen)
