"""Parts of a report without curves: table of runs, errors and output, missing runs, configurations."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.data import identity
from analysis.data.groups import OF_THE_RECORD, different_evaluations, differing, group_labels
from analysis.data.identity import is_missing
from analysis.data.load import COMPLETED, Runs
from analysis.report_page.curves import numbers

UNKNOWN = "settings not known"
"""Group of runs without a config.json."""

NOT_FINITE = "not finite"
"""Text for a recorded value that is not a finite number."""

_KEYS_IN_TABLE = 6
"""Largest number of differing settings with a column in the table; the configurations have all settings."""

_LINES = 20
"""Number of lines of a run's output that a report shows."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
"""Control characters, including terminal sequences for colours and cursor movements."""


class Column(NamedTuple):
    """A column of the table of runs."""

    label: str
    numeric: bool = False
    status: bool = False
    final: bool = False


class Cell(NamedTuple):
    """The text of a cell and its sort key; empty if nothing was recorded."""

    text: str
    key: str


class Trouble(NamedTuple):
    """A run that did not complete, or whose record is damaged."""

    run: str
    status: str
    group: str
    seed: str
    reason: str
    problems: str
    log: str
    log_note: str


class Configuration(NamedTuple):
    """Runs with the same settings except the seed."""

    runs: list[str]
    note: str


class Setting(NamedTuple):
    """A row of the configurations: `cells` of (text, whether it is not the most common one)."""

    key: str
    differs: bool
    cells: list[dict[str, Any]]


def text(value: Any) -> str | None:
    """Returns a setting as text, see `identity.text`; None if it is missing."""
    return None if value is pd.NaT or is_missing(value) else value if isinstance(value, str) else identity.text(value)


def groups(table: pd.DataFrame, by: Sequence[str] | None) -> list[str]:
    """Returns the group of each run. Runs of different commands (training, evaluation) are in different groups."""
    settings = [name for name in table.columns if name.startswith("config.")]
    known = table["experiment"].notna() & table[settings].notna().any(axis=1)
    labels = pd.Series(UNKNOWN, index=table.index, dtype=object)
    if known.any():
        labels[known] = group_labels(table[known], by)
        commands = table.loc[known, "command"].map(lambda command: text(command) or "no command")
        if commands.nunique() > 1 and (by is None or "command" not in by):
            labels[known] = labels[known] + " (" + commands + ")"
    return [label or "default settings" for label in labels]


def differing_tasks(table: pd.DataFrame) -> list[str]:
    """Returns the settings in which the evaluations of runs of one experiment differ."""
    parts = [different_evaluations(part) for _, part in table.groupby("experiment")]
    return list(dict.fromkeys(key for part in parts for key in part))


def counts(table: pd.DataFrame) -> list[tuple[str, int]]:
    """Returns the number of runs with each status, COMPLETED first."""
    found = Counter(table["status"])
    return sorted(found.items(), key=lambda item: (item[0] != COMPLETED, -item[1], item[0]))


def table_of(table: pd.DataFrame, metric: str | None, final: Sequence[Any]) -> tuple[list[Column], list[Any], int]:
    """Returns the columns and rows of the table of runs, and the number of differing settings without a column.

    Args:
        table: The table of `Runs`.
        metric: The metric whose last values are shown first; None if there is none.
        final: The last value of this metric for each run.
    """
    known = table[[name for name in table.columns if not name.startswith("final.")]]
    keys = [name for name in differing(known[known["experiment"].notna()]) if name.startswith("config.")]
    columns = [Column("run", True), Column("status", status=True), Column("experiment"), Column("seed", True)]
    columns += [Column(key.removeprefix("config.")) for key in keys[:_KEYS_IN_TABLE]]
    if metric is not None:
        columns.append(Column(f"final {metric}", True, final=True))
    columns += [
        Column(label, label in ("time", "restarts")) for label in ("time", "started", "restarts", "git", "host")
    ]
    columns.append(Column("problems"))
    rows = []
    for place, (run, row) in enumerate(table.iterrows()):
        cells = [_cell(run), _cell(row["status"]), _cell(row["experiment"]), _cell(row["seed"])]
        cells += [_cell(row[key]) for key in keys[:_KEYS_IN_TABLE]]
        if metric is not None:
            cells.append(_cell(final[place]))
        cells += [_duration(row["seconds"]), _moment(row["started"]), _cell(row["restarts"]), _commit(row)]
        cells += [_cell(row["host"]), _cell(row["problems"])]
        rows.append({"status": row["status"], "cells": cells})
    return columns, rows, max(0, len(keys) - _KEYS_IN_TABLE)


def final_values(runs: Runs, metrics: Sequence[str]) -> list[list[float | int | str | None]]:
    """Returns the last value of each metric for each run: None if it was not recorded, text if it is not finite."""
    having = {(str(run), str(metric)) for run, metric in runs.metrics[["run", "metric"]].drop_duplicates().to_numpy()}
    found: list[list[float | int | str | None]] = []
    for metric in metrics:
        values = numbers(runs.table[f"final.{metric}"])
        lost = [
            value is None and (str(run), metric) in having for run, value in zip(runs.table.index, values, strict=True)
        ]
        found.append([NOT_FINITE if is_lost else value for value, is_lost in zip(values, lost, strict=True)])
    return found


def _cell(value: Any) -> Cell:
    shown = text(value) or ""
    return Cell(shown, shown)


def _duration(seconds: Any) -> Cell:
    if seconds is None or math.isnan(seconds):
        return Cell("", "")
    minutes, hours = seconds / 60, seconds / 3600
    shown = f"{seconds:.3g} s" if seconds < 60 else f"{minutes:.1f} min" if minutes < 60 else f"{hours:.1f} h"
    return Cell(shown, f"{seconds:.6g}")


def _moment(value: Any) -> Cell:
    return Cell("", "") if pd.isna(value) else Cell(f"{value:%Y-%m-%d %H:%M}", value.isoformat())


def _commit(row: pd.Series) -> Cell:
    commit = text(row["git"])
    return _cell(commit and commit[:8] + ("+" if row["dirty"] is True or row["dirty"] is np.True_ else ""))


def troubles(runs: Runs, labels: Sequence[str]) -> list[Trouble]:
    """Returns runs that did not complete or have a damaged record, including those of `Runs.undecided`."""
    found = []
    for frame, names in ((runs.table, labels), (runs.undecided, [UNKNOWN] * len(runs.undecided))):
        for (run, row), label in zip(frame.iterrows(), names, strict=True):
            if row["status"] == COMPLETED and not row["problems"]:
                continue
            log = readable(runs.log(str(run), _LINES))
            last = log.rsplit("\n", 1)[-1] if row["status"] == "FAILED" else ""
            lines = log.count("\n") + 1
            note = f"The last {lines} lines of its output:" if lines > 1 else "Its output:"
            seed = text(row.get("seed")) or ""
            found.append(Trouble(str(run), row["status"], label, seed, last, row["problems"], log, note))
    return found


def readable(output: str) -> str:
    """Returns the output of a terminal as text: the last content of lines that were overwritten."""
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in output.split("\n")]
    return _ESCAPES.sub("", "\n".join(lines)).strip("\n")


def missing(table: pd.DataFrame, labels: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, list[str]]]:
    """Returns the seeds of each group that have no COMPLETED run, with the other runs of these seeds.

    Args:
        table: The table of `Runs`.
        labels: Group of each run.
        seeds: Seeds expected of each group; empty for the seeds of all runs of the same experiment and command.
    """
    found = []
    named = table[["experiment", "command", "status", "seed"]].assign(group=list(labels))
    named = named[(named["group"] != UNKNOWN) & named["seed"].notna()]
    for group in dict.fromkeys(named["group"]):
        mine = named[named["group"] == group]
        kin = named[named["experiment"].isin(mine["experiment"]) & named["command"].isin(mine["command"])]
        expected = list(seeds) or sorted(set(kin["seed"]))
        lacking = []
        for seed in expected:
            there = mine[mine["seed"] == seed]
            if COMPLETED not in set(there["status"]):
                instead = ", ".join(f"run {run} is {status}" for run, status in there["status"].items())
                lacking.append(f"{text(seed)} ({instead})" if instead else str(text(seed)))
        if lacking:
            found.append((group, lacking))
    return found


def configurations(table: pd.DataFrame) -> tuple[list[Configuration], list[Setting]]:
    """Returns the settings of runs as a table, with a column for each configuration."""
    ignored = {f"config.{key}" for key in OF_THE_RECORD}
    keys = [name for name in table.columns if name.startswith("config.") and name not in ignored]
    by_values: dict[tuple[str | None, ...], list[Any]] = {}
    for run, row in table.iterrows():
        values = (text(row["experiment"]), *(None if is_missing(row[key]) else identity.text(row[key]) for key in keys))
        if any(value is not None for value in values[1:]):
            by_values.setdefault(values, []).append(run)
    columns = []
    for values, members in by_values.items():
        seeds = dict.fromkeys(text(seed) for seed in table.loc[members, "seed"] if text(seed) is not None)
        note = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}" if seeds else "no seed"
        columns.append(Configuration([str(run) for run in members], f"{values[0] or 'no experiment'} · {note}"))
    rows = []
    for place, key in enumerate(keys, start=1):
        cells = [values[place] for values in by_values]
        common = Counter(cells).most_common(1)[0][0] if cells else None
        marked = [{"text": cell, "odd": cell != common} for cell in cells]
        rows.append(Setting(key.removeprefix("config."), any(cell["odd"] for cell in marked), marked))
    return columns, rows
