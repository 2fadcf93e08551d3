"""Turns records and their metrics into the DataFrames of `analysis.data.load.Runs`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.data.records import Points, Record, Source, parse_time

SCORE = "eval/score_after_"
"""Prefix of the metrics of evaluations during training: the mean over tasks after k steps."""

MEAN = -1
"""The number in the column `task` of a value that is a mean over tasks."""

_TIMES = ("started", "stopped")
_TEXTS = ("source", "experiment", "command", "status", "git", "host", "problems", "directory")
Named = Mapping[str, tuple[Source, Record]]
SeriesByRun = Mapping[str, Mapping[str, Points]]


Part = tuple[list[NDArray[Any]], dict[str, NDArray[np.float64]]]
"""A part of the rows of `adaptation`: its first columns, and the other columns by name."""


class Evaluation(NamedTuple):
    """The last evaluation of a run.

    Attributes:
        iteration: The iteration of the checkpoint.
        score: `[steps + 1, tasks]`.
        tasks: `[tasks]`, the number of each task; `MEAN` if only the mean over tasks was recorded.
        extras: The other recorded quantities of each step and task by name, each `[steps + 1, tasks]`.
    """

    iteration: int
    score: NDArray[np.float64]
    tasks: NDArray[np.int64]
    extras: dict[str, NDArray[np.float64]]


class Pause(NamedTuple):
    """A resumption of a run: its time, the iteration of the checkpoint, and the seconds since the last work."""

    time: np.datetime64
    iteration: int
    seconds: float


def table(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Returns one row for each run. Columns are in the order in which they first occur."""
    names = dict.fromkeys(key for one in rows.values() for key in one)
    order = [
        *(key for key in names if not key.startswith("final.")),
        *sorted(k for k in names if k.startswith("final.")),
    ]
    columns = {key: _column(key, [one.get(key) for one in rows.values()]) for key in order}
    found = pd.DataFrame(columns if rows else {"status": [], "problems": []})
    return found.set_axis(pd.Index(list(rows), name="run", dtype=object))


def _column(key: str, values: Sequence[Any]) -> Any:
    """Returns the values of a column in the narrowest type that represents all of them."""
    if key in _TIMES:
        return _utc(np.array([np.datetime64("NaT") if value is None else value for value in values], "datetime64[ms]"))
    if key.startswith("final.") or key == "seconds":
        return np.array([np.nan if value is None else value for value in values], np.float64)
    kinds = {type(value) for value in values}
    if key not in _TEXTS:
        if kinds == {bool}:
            return np.array(values, bool)
        if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values):
            return np.array(values, np.int64)
        if kinds <= {int, float} and kinds and all(map(_is_exact, values)):
            return np.array(values, np.float64)
    column = np.empty(len(values), object)
    column[:] = values
    return pd.Series(column, dtype=object)  # from a bare array pandas 3 would infer texts, and make NaN of None


def _is_exact(value: float) -> bool:
    """Whether a column of floats represents the number exactly."""
    return not isinstance(value, int) or abs(value) <= 2**53


def _utc(times: NDArray[np.datetime64]) -> Any:
    return pd.DatetimeIndex(times).tz_localize("UTC")


def metrics(points: SeriesByRun) -> pd.DataFrame:
    """Returns `run`, `metric`, `step`, `value`, `time`, ordered by run, metric and step."""
    names = sorted({metric for series in points.values() for metric in series})
    codes = {metric: code for code, metric in enumerate(names)}
    parts = [
        (number, codes[metric], one)
        for number, series in enumerate(points.values())
        for metric, one in sorted(series.items())
    ]
    lengths = [len(one.steps) for _, _, one in parts]

    def repeated(entries: Iterable[int]) -> NDArray[np.int32]:
        return np.repeat(np.array(list(entries), np.int32), lengths)

    def joined(index: int, dtype: str) -> NDArray[Any]:
        return np.concatenate([np.empty(0, dtype), *(one[index] for _, _, one in parts)])

    return pd.DataFrame(
        {
            "run": pd.Categorical.from_codes(
                repeated(number for number, _, _ in parts), pd.Index(list(points), dtype=object)
            ),
            "metric": pd.Categorical.from_codes(repeated(code for _, code, _ in parts), pd.Index(names, dtype=object)),
            "step": joined(0, "int64"),
            "value": joined(1, "float64"),
            "time": _utc(joined(2, "datetime64[ms]")),
        },
        copy=False,
    )


def adaptation(named: Named, points: SeriesByRun) -> pd.DataFrame:
    """Returns `run`, `iteration`, `task`, `adapt_step`, `value`, the extras by name, `unit`; see `load.Runs`."""
    units = _units(named)
    parts = [part for number, name in enumerate(named) for part in _evaluations(number, named[name], points[name])]
    columns = [np.concatenate(column) for column in zip(*(part for part, _ in parts), strict=True)]
    numbers, iteration, task, step = (column.astype(np.int64) for column in columns[:4] or [np.empty(0)] * 4)
    order = np.lexsort((step, task, iteration, numbers))
    names = np.array(list(named), object)
    unit = [units.get(name) or units.get(_experiment(record)) or "steps" for name, (_, record) in named.items()]
    values = {"value": columns[4] if columns else np.empty(0)}
    for extra in dict.fromkeys(extra for _, extras in parts for extra in extras):
        filled = [extras.get(extra, np.full(len(part[0]), np.nan)) for part, extras in parts]
        values[extra] = np.concatenate(filled)
    return pd.DataFrame(
        {
            "run": pd.Series(names[numbers[order]], dtype=object),
            "iteration": iteration[order],
            "task": task[order],
            "adapt_step": step[order],
            **{name: column[order] for name, column in values.items()},
            "unit": pd.Series(np.array(unit, object)[numbers[order]], dtype=object),
        }
    )


def _evaluations(number: int, pair: tuple[Source, Record], series: Mapping[str, Points]) -> Iterator[Part]:
    """Yields the evaluations of a run: the columns run, iteration, task, step and value, and the extras."""
    last = _last(*pair)
    for metric, one in series.items():
        step = metric.removeprefix(SCORE)
        if metric.startswith(SCORE) and step.isdigit():
            kept = one.steps != (-1 if last is None else last.iteration)
            yield _columns(number, one.steps[kept], MEAN, int(step), one.values[kept]), {}
    if last is not None:
        steps, places = np.indices(last.score.shape)
        columns = _columns(number, last.iteration, last.tasks[places], steps, last.score)
        yield columns, {name: values.ravel() for name, values in last.extras.items()}


def _columns(*values: Any) -> list[NDArray[Any]]:
    return [part.ravel() for part in np.broadcast_arrays(*values)]


def _experiment(record: Record) -> Any:
    return (record.run.get("experiment") or {}).get("name")


def _units(named: Named) -> dict[Any, str]:
    """Returns the unit of an adaptation step by run and, where all its runs agree, by experiment."""
    found: dict[Any, set[str]] = {}
    for name, (_, record) in named.items():
        result = record.run.get("result")
        if isinstance(result, Mapping) and isinstance(result.get("unit"), str):
            found.setdefault(name, set()).add(result["unit"])
            found.setdefault(_experiment(record), set()).add(result["unit"])
    return {key: units.pop() for key, units in found.items() if len(units) == 1}


def _last(source: Source, record: Record) -> Evaluation | None:
    """Returns the last evaluation of a run; None if it has no recorded result with scores."""
    result = record.run.get("result")
    if not isinstance(result, Mapping) or not isinstance(result.get("score"), list):
        return None
    iteration = int(result.get("iteration", 0))
    evaluation = source.evaluation(record)
    if evaluation is not None:
        try:
            score = np.array(evaluation["score"], np.float64)
            extras = {
                name: np.array(values, np.float64).reshape(score.shape)
                for name, values in evaluation.items()
                if name != "score" and isinstance(values, list)
            }
            return Evaluation(iteration, score, np.arange(score.shape[1]), extras)
        except (KeyError, TypeError, ValueError, IndexError):
            record.problems.append("evaluation.json: damaged, the recorded mean over tasks is used")
    return Evaluation(iteration, np.array(result["score"], np.float64)[:, None], np.array([MEAN]), {})


def artifacts(named: Named) -> pd.DataFrame:
    """Returns `run`, `name`, `path`."""
    rows = [(run, name, path) for run, (_, record) in named.items() for name, path in record.artifacts.items()]
    return pd.DataFrame(rows, columns=["run", "name", "path"], dtype=object)


def pauses(named: Named, points: SeriesByRun) -> pd.DataFrame:
    """Returns `run`, `time`, `iteration`, `seconds`, a row for each resumption of a run."""
    rows = [(run, *pause) for run, (_, record) in named.items() for pause in find_pauses(record, points[run])]
    frame = pd.DataFrame(rows, columns=["run", "time", "iteration", "seconds"])
    frame["time"] = _utc(np.array([one[1] for one in rows], "datetime64[ms]"))
    return frame.astype({"run": object, "iteration": "int64", "seconds": "float64"})


def find_pauses(record: Record, series: Mapping[str, Points]) -> list[Pause]:
    """Returns the resumptions of a run. A pause begins at the last recorded point before it, or at the start."""
    found: list[Pause] = []
    if not record.run.get("resumed"):
        return found
    seen = np.sort(np.concatenate([np.empty(0, "datetime64[ms]"), *(one.times for one in series.values())]))
    start = parse_time(record.run.get("start_time"))
    for entry in record.run.get("resumed") or ():
        moment = parse_time(entry.get("time"))
        if moment is None or start is None:
            continue
        before = int(np.searchsorted(seen, moment))
        last = seen[before - 1] if before else start
        last = max(last, found[-1].time) if found else last
        found.append(
            Pause(moment, int(entry.get("iteration", 0)), max(0.0, float((moment - last) / np.timedelta64(1, "s"))))
        )
    return found


def working_seconds(record: Record, series: Mapping[str, Points], pauses: Sequence[Pause]) -> float | None:
    """Returns the seconds from the start to the stop, or to the last recorded point or heartbeat, without pauses.

    None if the start is not known.
    """
    run = record.run
    start, stop = parse_time(run.get("start_time")), parse_time(run.get("stop_time"))
    ends = [one.times[-1] for one in series.values() if len(one.times)]
    heartbeat = parse_time(run.get("heartbeat"))
    signs = [*ends, *([] if heartbeat is None else [heartbeat])] if stop is None else [stop]
    if start is None or not signs:
        return None
    return float((max(signs) - start) / np.timedelta64(1, "s")) - sum(pause.seconds for pause in pauses)
