"""Run records as tidy DataFrames: `load_runs("runs", where="experiment=maml_trpo,seed<3")`.

    runs.table         a row for each run
    runs.metrics       run, metric, step, value, time
    runs.adaptation    run, iteration, task, adapt_step, value
    runs.artifacts     run, name, path
    runs.report()      what is failed, torn or stale; runs.missing(…): what has not been run yet
    runs.curves(…), runs.adaptation_curves(…), runs.scores(…): what plots and tables of groups are made of

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

import pandas as pd

from analysis.data import frames, joins
from analysis.data.from_files import Directory
from analysis.data.records import EMPTY, TORN, Points, Record, Source, ends, once, row
from analysis.data.where import Condition, Where, column, conditions, describe

COMPLETED = "COMPLETED"
_LATE = ("final.", "seconds", "problems")
"""Columns that are known once the metrics have been read."""


@dataclass(frozen=True)
class Runs:
    """Some runs as DataFrames. All times are UTC, in milliseconds.

    Attributes:
        table: One row for each run, index `run`: `source`, `id`, `experiment`, `command`, `status`, `seed`, `tag`,
            `git`, `dirty`, `host`, `started`, `stopped`, `seconds` (of work: pauses before going on are left out),
            `restarts`, `problems`, `directory`, `config.<key>`, `result.<key>`, `final.<metric>`. Statuses are those
            of the records, and `STALE` (says that it runs, and gives no sign of life), `TORN` (run.json is missing or
            damaged) and `EMPTY` (a folder without a record).
        metrics: `run`, `metric` (both categorical), `step`, `value`, `time`: each step once.
        adaptation: `run`, `iteration`, `task`, `adapt_step`, `value`, `regret`, `unit`. The last evaluation has every
            task, those during training only the mean over tasks, which is task −1; so has a run that was recorded
            before tasks were.
        artifacts: `run`, `name`, `path`.
        pauses: `run`, `time`, `iteration`, `seconds`: when and where a run went on, and how long it had rested.
        unjudged: Rows like those of `table`, of runs too torn to tell whether they are meant.
    """

    table: pd.DataFrame
    metrics: pd.DataFrame
    adaptation: pd.DataFrame
    artifacts: pd.DataFrame
    pauses: pd.DataFrame
    unjudged: pd.DataFrame
    _records: Mapping[str, tuple[Source, Record]]

    def curves(
        self,
        metric: str,
        x: joins.Axis = "iteration",
        by: Sequence[str] | None = None,
        **choice: Any,
    ) -> pd.DataFrame:
        """`group, seed, run, x, value`: against iterations, environment steps or seconds; see `joins.curves`."""
        return joins.curves(self, metric, x, by, **choice)

    def adaptation_curves(self, by: Sequence[str] | None = None, **choice: Any) -> pd.DataFrame:
        """`group, seed, run, adapt_step, value, regret, unit`: see `joins.adaptation_curves`."""
        return joins.adaptation_curves(self, by, **choice)

    def scores(self, metric: str, by: Sequence[str] | None = None, **choice: Any) -> pd.DataFrame:
        """`group, seed, run, value`: one number for each run; see `joins.scores`."""
        return joins.scores(self, metric, by, **choice)

    def missing(self, expected: Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]]) -> pd.DataFrame:
        """Which of the expected runs have not completed.

        Args:
            expected: Settings with a seed, `[{"inner_loop": "higher", "seed": 3}, …]`, or what each may be, of which
                all combinations are expected: `{"inner_loop": ["func", "higher"], "seed": range(5)}`.

        Returns:
            A row for each that no `COMPLETED` run has, and `found`: which other runs have it, and their status.

        Raises:
            ValueError: A key is no setting of any run.
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
        """The last lines of what a run printed; of a failed one, how its error ended too."""
        source, record = self._records[run]
        trace = "".join(record.run.get("fail_trace") or ())
        text = "\n".join(part for part in (source.log(record).strip("\n"), trace.strip("\n")) if part)
        return "\n".join(text.splitlines()[-lines:])

    def report(self) -> str:
        """What to know before anything is averaged: how many runs have which status, and all that is wrong."""
        counts = Counter(self.table["status"])
        lines = [f"{len(self.table)} runs: " + ", ".join(f"{count} {status}" for status, count in counts.most_common())]
        for frame, remark in ((self.table, ""), (self.unjudged, "not counted, nobody can tell whether it is meant: ")):
            for name, status, problems in zip(frame.index, frame["status"], frame["problems"], strict=True):
                if problems or status != COMPLETED:
                    lines.append(f"  run {name}: {remark}{status}{', ' if problems else ''}{problems}")
        return "\n".join(lines)


def load_runs(source: str | Path | Iterable[str | Path], where: Where = None, *, now: float | None = None) -> Runs:
    """Runs as DataFrames. Failed, torn and unfinished ones are among them, with their `status` and `problems`.

    Args:
        source: A directory of runs, the directory of one, `mongodb://user:password@host:27017/database`, or several
            of these. Runs of the same number are then called `folder/7`. A run that is in the files and in the
            database counts once, as in the files.
        where: Which runs: a mapping `{"experiment": "maml_trpo", "config.inner_lr": 0.1}`, a function of a row (a
            mapping from columns to values), or an expression, see `analysis.data.where`. None: all.
        now: Seconds since the epoch; tells which runs are stale. Without it, the clock does.

    Raises:
        ValueError: A source is not there, a key is unknown, or no run is meant; the message says what there is.
    """
    places = [source] if isinstance(source, (str, Path)) else list(source)
    with contextlib.ExitStack() as opened:
        sources = []
        for place in places:
            sources.append(_open(place, time.time() if now is None else now))
            opened.callback(sources[-1].close)
        return _load(sources, places, where)


def _load(sources: Sequence[Source], places: Sequence[str | Path], where: Where) -> Runs:
    """The same, of sources that are open."""
    found = [(one, record) for one in sources for record in one.records()]
    if not found:
        raise ValueError(f"{', '.join(map(_shown, places))}: no runs there")
    for _, record in found:
        record.problems += ends(record)
    named = _named(_unique(found))
    rows = {name: row(record) for name, (_, record) in named.items()}
    early, late = _tests(where, rows)
    judged, unjudged = _choose(named, rows, early)
    points = _read(judged, rows)
    judged, more = _choose(judged, rows, late)
    if not judged:
        wanted = [one for one in (*early, *late) if isinstance(one, Condition)]
        raise ValueError(f"where={where!r}: no run matches; {describe(list(rows.values()), wanted)}")
    adaptation = frames.adaptation(judged, points)
    for name, (_, record) in named.items():
        rows[name]["problems"] = "; ".join(record.problems)
    return Runs(
        frames.table({name: rows[name] for name in judged}),
        frames.metrics({name: points[name] for name in judged}),
        adaptation,
        frames.artifacts(judged),
        frames.pauses(judged, points),
        frames.table({name: rows[name] for name in (*unjudged, *more)}),
        named,
    )


Named = dict[str, tuple[Source, Record]]


def _open(place: str | Path, now: float) -> Source:
    if str(place).startswith(("mongodb://", "mongodb+srv://")):
        from analysis.data.from_mongo import MongoSource  # takes a while to import

        return MongoSource(str(place), now)
    return Directory(Path(place), now)


def _shown(place: str | Path) -> str:
    """A source without its password."""
    scheme, sign, rest = str(place).partition("://")
    return f"{scheme}{sign}{rest.rpartition('@')[2]}" if sign else str(place)


def _unique(found: Sequence[tuple[Source, Record]]) -> list[tuple[Source, Record]]:
    """Each run once: the record in files rather than its copy in a database, else the first."""
    kept: dict[Any, tuple[Source, Record]] = {}
    for one, record in sorted(found, key=lambda pair: not isinstance(pair[0], Directory)):
        key = record.run.get("uid") or (record.source, record.directory, record.name)
        kept.setdefault(key, (one, record))
    chosen = {id(record) for _, record in kept.values()}
    return [pair for pair in found if id(pair[1]) in chosen]


def _named(found: Sequence[tuple[Source, Record]]) -> Named:
    """Runs by name; those that share one are told apart by as much of their source as that needs."""
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
    """The conditions that can be judged before metrics are read, and the others."""
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
    """The runs that pass all tests, and those that fail none but are too torn for one."""
    passed, unjudged = {}, {}
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
            unjudged[name] = pair
    return passed, unjudged


def _is_lost(key: str, record: Record) -> bool:
    """Whether nobody can tell what a column would say, since the file that held it is gone."""
    if key.startswith("config.") or key == "seed":
        return record.config is None
    return record.status in (TORN, EMPTY) and key not in ("status", "id", "source", "directory", "problems")


def _read(named: Named, rows: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Points]]:
    """The metrics of runs, each step once; completes their rows."""
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
                points[name][metric], count = once(found[metric])
                repeated += count
            record = named[name][1]
            if repeated:
                record.problems.append(f"{repeated} points repeat a step, the last one counts")
            rest = frames.rests(record, points[name])
            finals = {
                f"final.{metric}": float(one.values[-1]) for metric, one in points[name].items() if len(one.steps)
            }
            seconds = frames.working_seconds(record, points[name], rest)
            rows[name].update(finals, seconds=seconds, problems="; ".join(record.problems))
    return points
