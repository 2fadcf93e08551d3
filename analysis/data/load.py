"""Run records as tidy DataFrames: `load_runs("runs", where="experiment=maml_trpo,seed<3")`.

    runs.table         a row for each run
    runs.metrics       run, metric, step, value, time
    runs.adaptation    run, iteration, task, adapt_step, value
    runs.artifacts     run, name, path
    runs.report()      the failed, damaged and stale runs; runs.missing(…): the expected runs that have not completed
    runs.curves(…), runs.adaptation_curves(…), runs.scores(…): the input of plots and of tables of groups

Sources are directories (records of this project, or of Sacred's FileStorageObserver) and MongoDBs in Sacred's layout.
docs/analysis.md explains every column.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.data import frames, joins
from analysis.data.from_files import Directory
from analysis.data.identity import distinct
from analysis.data.records import EMPTY, TORN, Points, Record, Source, failure_reasons, row, without_repeats
from analysis.data.where import Condition, Where, column, conditions, describe

COMPLETED = "COMPLETED"
_LATE = ("final.", "seconds", "problems")
"""Beginnings of the columns that follow from the metrics, which are read after the records."""


@dataclass(frozen=True)
class Runs:
    """Runs as DataFrames. All times are UTC, in milliseconds.

    Attributes:
        table: One row for each run, index `run`: `source`, `id`, `experiment`, `command`, `status`, `seed`, `tag`,
            `git`, `dirty`, `host`, `started`, `stopped`, `seconds` (of work, without the pauses before a resumption),
            `restarts`, `problems`, `directory`, `config.<key>`, `result.<key>`, `final.<metric>`. The status is the
            recorded one, or `STALE` (the record says RUNNING, but no process works on the run), `TORN` (run.json is
            missing or damaged) or `EMPTY` (a folder without a record).
        metrics: `run`, `metric` (both categorical), `step`, `value`, `time`; each step occurs once.
        adaptation: `run`, `iteration`, `task`, `adapt_step`, `value`, `unit`, and a column for each extra of the
            recorded curves, such as `regret`, NaN if unknown. The last evaluation has a row for every task.
            Evaluations during training, and records without evaluation.json, have the mean over tasks, as task −1.
        artifacts: `run`, `name`, `path`.
        pauses: `run`, `time`, `iteration`, `seconds`: the time and iteration at which a run was resumed, and the
            seconds since the last work on it.
        undecided: Rows like those of `table`, for runs that are too damaged to decide whether `where` selects them.
    """

    table: pd.DataFrame
    metrics: pd.DataFrame
    adaptation: pd.DataFrame
    artifacts: pd.DataFrame
    pauses: pd.DataFrame
    undecided: pd.DataFrame
    _records: Mapping[str, tuple[Source, Record]]

    def curves(
        self,
        metric: str,
        x: joins.Axis = "iteration",
        by: Sequence[str] | None = None,
        **choice: Any,
    ) -> pd.DataFrame:
        """Returns `group, seed, run, x, value`, x in iterations, environment steps or seconds: `joins.curves`."""
        return joins.curves(self, metric, x, by, **choice)

    def adaptation_curves(self, by: Sequence[str] | None = None, **choice: Any) -> pd.DataFrame:
        """Returns `group, seed, run, adapt_step, value, unit` and extras: `joins.adaptation_curves`."""
        return joins.adaptation_curves(self, by, **choice)

    def scores(self, metric: str, by: Sequence[str] | None = None, **choice: Any) -> pd.DataFrame:
        """Returns `group, seed, run, value`, one number for each run: `joins.scores`."""
        return joins.scores(self, metric, by, **choice)

    def missing(self, expected: Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]]) -> pd.DataFrame:
        """Returns the expected runs that have not completed.

        Args:
            expected: The settings and seed of each run, `[{"inner_loop": "higher", "seed": 3}, …]`, or the values of
                each setting, all combinations of which are expected: `{"inner_loop": ["func", "higher"],
                "seed": range(5)}`.

        Returns:
            A row for each combination without a `COMPLETED` run. The column `found` names the other runs with these
            settings, and their status.

        Raises:
            ValueError: No run has a setting of that name.
        """
        if isinstance(expected, Mapping):
            expected = [dict(zip(expected, values, strict=True)) for values in itertools.product(*expected.values())]
        rows = self.table.to_dict("records")
        lacking = []
        for wanted in expected:
            tests = [one._replace(key=column(one.key, self.table.columns)) for one in conditions(wanted)]
            states = {
                name: str(one["status"])
                for name, one in zip(self.table.index, rows, strict=True)
                if all(test.holds(one) for test in tests)
            }
            if COMPLETED not in states.values():
                lacking.append({**wanted, "found": ", ".join(f"{state} (run {run})" for run, state in states.items())})
        return pd.DataFrame(lacking, columns=None if lacking else ["found"])

    def log(self, run: str, lines: int = 20) -> str:
        """Returns the last lines of a run's captured output, followed by the traceback of a failed run."""
        source, record = self._records[run]
        trace = "".join(record.run.get("fail_trace") or ())
        text = "\n".join(part for part in (source.log(record).strip("\n"), trace.strip("\n")) if part)
        return "\n".join(text.splitlines()[-lines:])

    def report(self) -> str:
        """Returns the number of runs with each status, and a line for each run that failed or has problems."""
        counts = Counter(self.table["status"])
        lines = [f"{len(self.table)} runs: " + ", ".join(f"{count} {status}" for status, count in counts.most_common())]
        undecided = "not counted, too damaged to decide whether it is selected: "
        for frame, remark in ((self.table, ""), (self.undecided, undecided)):
            for name, status, problems in zip(frame.index, frame["status"], frame["problems"], strict=True):
                if problems or status != COMPLETED:
                    lines.append(f"  run {name}: {remark}{status}{', ' if problems else ''}{problems}")
        return "\n".join(lines)


def load_runs(source: str | Path | Iterable[str | Path], where: Where = None, *, now: float | None = None) -> Runs:
    """Reads runs as DataFrames, including failed, damaged and unfinished ones, with their `status` and `problems`.

    Args:
        source: A directory of runs, the directory of one run, `mongodb://user:password@host:27017/database`, or
            several of these. Runs of the same number are then named `folder/7`. A run that is in a directory and in a
            database is read once, from the directory; for copies of a record see `identity.distinct`.
        where: The condition that selects runs: a mapping `{"experiment": "maml_trpo", "config.inner_lr": 0.1}`, a
            function of a row (a mapping from columns to values), or an expression, see `analysis.data.where`. None
            selects all.
        now: The current time in seconds since the epoch, which decides whether a run is stale. None: the clock's.

    Raises:
        ValueError: A source does not exist, a key is unknown, or no run is selected. The message names what exists.

    Example:
        >>> import json, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for seed in (0, 1):
        ...     result = {"score": [-9.0, 1.0 + seed]}
        ...     run = {"status": "COMPLETED", "experiment": {"name": "maml_trpo"}, "result": result}
        ...     (folder / str(seed)).mkdir()
        ...     for name, content in {"run.json": run, "config.json": {"seed": seed, "inner_lr": 0.1}}.items():
        ...         _ = (folder / str(seed) / name).write_text(json.dumps(content))
        >>> runs = load_runs(folder, where="experiment=maml_trpo,inner_lr<0.5")
        >>> print(runs.report())
        2 runs: 2 COMPLETED
        >>> runs.scores("result.score_after_1")[["group", "seed", "value"]].values.tolist()
        [['maml_trpo', 0, 1.0], ['maml_trpo', 1, 2.0]]
    """
    places = [source] if isinstance(source, (str, Path)) else list(source)
    with contextlib.ExitStack() as opened:
        sources = []
        for place in places:
            sources.append(_open(place, time.time() if now is None else now))
            opened.callback(sources[-1].close)
        return _load(sources, places, where)


def _load(sources: Sequence[Source], places: Sequence[str | Path], where: Where) -> Runs:
    """`load_runs` for sources that are open."""
    found = [(one, record) for one in sources for record in one.records()]
    if not found:
        raise ValueError(f"{', '.join(map(_shown, places))}: no runs there")
    for _, record in found:
        record.problems += failure_reasons(record)
    named = _named(distinct(found))
    rows = {name: row(record) for name, (_, record) in named.items()}
    early, late = _tests(where, rows)
    selected, undecided = _choose(named, rows, early)
    points = _read(selected, rows)
    selected, more = _choose(selected, rows, late)
    if not selected:
        wanted = [one for one in (*early, *late) if isinstance(one, Condition)]
        raise ValueError(f"where={where!r}: no run matches; {describe(list(rows.values()), wanted)}")
    adaptation = frames.adaptation(selected, points)
    for name, (_, record) in named.items():
        rows[name]["problems"] = "; ".join(record.problems)
    return Runs(
        frames.table({name: rows[name] for name in selected}),
        frames.metrics({name: points[name] for name in selected}),
        adaptation,
        frames.artifacts(selected),
        frames.pauses(selected, points),
        frames.table({name: rows[name] for name in (*undecided, *more)}),
        named,
    )


Named = dict[str, tuple[Source, Record]]


def _open(place: str | Path, now: float) -> Source:
    if str(place).startswith(("mongodb://", "mongodb+srv://")):
        from analysis.data.from_mongo import MongoSource  # imports pymongo, which only databases need

        return MongoSource(str(place), now)
    return Directory(Path(place), now)


def _shown(place: str | Path) -> str:
    """Returns a source without its password."""
    scheme, sign, rest = str(place).partition("://")
    return f"{scheme}{sign}{rest.rpartition('@')[2]}" if sign else str(place)


def _named(found: Sequence[tuple[Source, Record]]) -> Named:
    """Returns runs by name. Runs with the same name are prefixed with as much of their source as needed."""
    counts = Counter(record.name for _, record in found)
    named: Named = {}
    for pair in found:
        name, place = pair[1].name, pair[1].source.rstrip("/").split("/")
        length = 1
        full = name if counts[name] == 1 else f"{place[-1]}/{name}"
        while full in named and length < len(place):
            length += 1
            full = f"{'/'.join(place[-length:])}/{name}"
        named[full] = pair
    return named


Test = Condition | Any


def _tests(where: Where, rows: Mapping[str, Mapping[str, Any]]) -> tuple[list[Test], list[Test]]:
    """Returns the conditions that can be tested before metrics are read, and those that cannot."""
    if where is None:
        return [], []
    if callable(where):
        return [], [where]
    columns = dict.fromkeys(key for one in rows.values() for key in one)
    found = [
        one if one.key.startswith("final.") else one._replace(key=column(one.key, columns)) for one in conditions(where)
    ]
    return [one for one in found if not one.key.startswith(_LATE)], [one for one in found if one.key.startswith(_LATE)]


def _choose(named: Named, rows: Mapping[str, Mapping[str, Any]], tests: Sequence[Test]) -> tuple[Named, Named]:
    """Returns the runs that pass all tests, and those that fail none but are too damaged for one of them."""
    passed, undecided = {}, {}
    for name, pair in named.items():
        record = pair[1]
        outcomes = []
        for test in tests:
            if isinstance(test, Condition):
                is_lost = _is_lost(test.key, record)
                outcomes.append(None if is_lost else test.holds(rows[name]))
            else:
                outcomes.append(bool(test(rows[name])))
        if all(outcomes):
            passed[name] = pair
        elif False not in outcomes:
            undecided[name] = pair
    return passed, undecided


def _is_lost(key: str, record: Record) -> bool:
    """Whether the value of a column is unknown because its file is missing or damaged."""
    if key.startswith("config.") or key == "seed":
        return record.config is None
    return record.status in (TORN, EMPTY) and key not in ("status", "id", "source", "directory", "problems")


def _read(named: Named, rows: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Points]]:
    """Reads the metrics of runs, each step once, and adds the columns that follow from them to the rows."""
    points: dict[str, dict[str, Points]] = {}
    by_source: dict[int, list[str]] = {}
    for name, (source, _) in named.items():
        by_source.setdefault(id(source), []).append(name)
    for names in by_source.values():
        source = named[names[0]][0]
        for name, found in zip(names, source.points([named[name][1] for name in names]), strict=True):
            points[name] = {}
            repeated = 0
            for metric in sorted(found):
                points[name][metric], count = without_repeats(found[metric])
                repeated += count
            record = named[name][1]
            if repeated:
                record.problems.append(f"{repeated} points repeat a step, the last one counts")
            lost = [metric for metric, one in points[name].items() if len(one.steps) and np.isnan(one.values[-1])]
            if lost:
                more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
                record.problems.append(f"not finite at the end: {', '.join(lost[:3])}{more}")
            pauses = frames.find_pauses(record, points[name])
            finals = {
                f"final.{metric}": float(one.values[-1]) for metric, one in points[name].items() if len(one.steps)
            }
            seconds = frames.working_seconds(record, points[name], pauses)
            rows[name].update(finals, seconds=seconds, problems="; ".join(record.problems))
    return points
