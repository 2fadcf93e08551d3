"""One run as a source tells of it, whatever the source: the fields that tables are made of, its metrics as arrays."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

EMPTY = "EMPTY"
"""Status of a folder without a record."""

TORN = "TORN"
"""Status of a record whose run.json is missing or damaged."""

STALE = "STALE"
"""Status of a run that says that it runs, and gives no sign of life."""

HEARTBEAT_SECONDS = 600.0
"""Age of the last heartbeat from which on a run counts as dead, where no lock tells. A beat waits for an iteration."""


class Points(NamedTuple):
    """One metric of a run.

    Attributes:
        steps: `[points]`
        values: `[points]`, NaN for null.
        times: `[points]`, UTC, in milliseconds, which is what MongoDB keeps.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    times: NDArray[np.datetime64]


@dataclass
class Record:
    """What a source says of one run, metrics aside.

    Attributes:
        source: Where it comes from; no password is in it.
        name: Of the directory, or the id as text.
        status: That of the record, or `STALE`, `TORN`, `EMPTY`.
        run: As run.json has it; empty if there is none.
        config: As config.json has it; None if it is missing or damaged.
        directory: Of the run, absolute; empty if the source does not know.
        artifacts: `{name: path}`.
        problems: What is missing or damaged. Reading on may add some.
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
    """A place with runs."""

    def records(self) -> list[Record]:
        """All runs there, in order."""

    def points(self, records: Sequence[Record]) -> Iterator[dict[str, Points]]:
        """The metrics of each of these runs, as recorded; damage is added to their problems."""

    def evaluation(self, record: Record) -> Mapping[str, Any] | None:
        """What the run has in evaluation.json; None if it has none that can be read."""

    def close(self) -> None:
        """Ends connections; `log` makes its own."""

    def log(self, record: Record) -> str:
        """The end of the captured output."""


LOG_BYTES = 1 << 14
"""How much of the captured output counts as its end."""


def row(record: Record) -> dict[str, Any]:
    """A run's row of the table, without what its metrics tell."""
    run, config = record.run, record.config
    experiment = run.get("experiment") or {}
    repository: Mapping[str, Any] = next(iter(experiment.get("repositories") or ()), {})
    start, stop = time(run.get("start_time")), time(run.get("stop_time"))
    known = {
        "source": record.source,
        "id": int(record.name) if record.name.isdigit() else record.name,
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
    """What the run was called on its command line: `-c TAG`, Sacred's comment."""
    meta = run.get("meta") or {}
    return meta.get("comment") or (meta.get("options") or {}).get("--comment")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; lists become tuples, which can be compared and counted."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and set(value) != {"py/tuple"}:
            found |= flat(value, f"{prefix}{key}.") if value else {}
        else:
            found[f"{prefix}{key}"] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):  # Sacred's files have tuples so
        return _plain(value["py/tuple"]) if set(value) == {"py/tuple"} else str(dict(value))
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _results(result: Any) -> Iterator[tuple[str, Any]]:
    """Numbers of a run's result: `result`, `result.<key>`, and `result.score_after_<k>` of an adaptation curve."""
    if isinstance(result, (int, float)):
        yield "result", result
    for key, value in result.items() if isinstance(result, Mapping) else ():
        if key == "score" and isinstance(value, (list, tuple)):
            yield from ((f"result.score_after_{step}", score) for step, score in enumerate(value))
        elif isinstance(value, (int, float, str)):
            yield f"result.{key}", value


def time(value: Any) -> np.datetime64 | None:
    """A point in time of a record, in milliseconds; None if there is none that can be read."""
    try:
        moment = datetime.datetime.fromisoformat(value) if isinstance(value, str) else value
        if moment is None or moment.tzinfo is None:
            return None if moment is None else np.datetime64(moment, "ms")
        return np.datetime64(moment.astimezone(datetime.UTC).replace(tzinfo=None), "ms")
    except (ValueError, AttributeError):
        return None


def times(values: Iterable[Any]) -> NDArray[np.datetime64]:
    """Points in time, UTC: texts without a zone, or datetimes."""
    texts = list(values)
    try:
        return np.array(texts, "datetime64[ms]")
    except (ValueError, TypeError):
        return np.array([moment if (moment := time(text)) is not None else "NaT" for text in texts], "datetime64[ms]")


def is_silent(run: Mapping[str, Any], now: np.datetime64) -> bool:
    """Whether the last heartbeat of a run (its start, if it had none) is older than `HEARTBEAT_SECONDS`."""
    heartbeat = time(run.get("heartbeat"))
    seen = time(run.get("start_time")) if heartbeat is None else heartbeat
    return seen is None or bool((now - seen) / np.timedelta64(1, "s") > HEARTBEAT_SECONDS)


def ends(record: Record) -> list[str]:
    """Why a run is not complete, as far as its record tells: the end of its error, or when it was last seen."""
    trace = "".join(record.run.get("fail_trace") or ()).strip()
    if record.status == "FAILED" and trace:
        return [trace.splitlines()[-1].strip()]
    seen = record.run.get("heartbeat") or record.run.get("start_time")
    if record.status == STALE and (moment := time(seen)) is not None:
        return [f"last beat {str(moment).replace('T', ' ')[:19]} UTC"]
    return []


def points(steps: Any, values: Sequence[Any], stamps: Iterable[Any]) -> tuple[Points, int]:
    """Steps, values and times as arrays, and how many values were left out since they are no numbers."""
    numbers = as_numbers(values)
    kept = np.array([value is None or isinstance(value, (int, float)) for value in values], bool)
    found = Points(np.array(steps, np.int64), numbers, times(stamps))
    if kept.all():
        return found, 0
    return Points(*(part[kept] for part in found)), int((~kept).sum())


def as_numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    """Floats; NaN for null and for what is no number."""
    try:
        numbers = np.array(values, np.float64)
        if numbers.ndim == 1:
            return numbers
    except (TypeError, ValueError):
        pass
    return np.array([value if isinstance(value, (int, float)) else np.nan for value in values], np.float64)


def once(found: Points) -> tuple[Points, int]:
    """The points in the order of their steps, each step once (the last one counts), and how many repeated a step."""
    if (np.diff(found.steps) > 0).all():
        return found, 0
    order = np.argsort(found.steps, kind="stable")
    last = np.append(np.diff(found.steps[order]) > 0, True)
    chosen = order[last]
    return Points(*(part[chosen] for part in found)), len(order) - len(chosen)
