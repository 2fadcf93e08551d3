"""Groups of runs: their labels, the settings in which runs differ, and whether their evaluations are comparable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.data.identity import is_missing, key, text
from analysis.data.where import column

_OF_THE_TASKS = ("config.task", "config.num_eval_tasks", "config.eval_split", "config.horizon")
"""Columns that determine the tasks of an evaluation, in addition to those below `config.task_args`."""

_OF_THE_SCORE = "result.label"
"""The column with the name of the score. Runs without a final evaluation have no value there."""

OF_THE_RECORD = (
    "seed",
    "runs_dir",
    "run",
    "checkpoint",
    "checkpoint_interval",
    "checkpoint_seconds",
    "num_threads",
    "device",
)
"""Settings that do not distinguish groups."""


def group_labels(table: pd.DataFrame, by: Sequence[str] | None = None) -> pd.Series:
    """Returns the label of each run in a comparison, e.g. `inner_loop=higher`.

    Args:
        table: `Runs.table` or some of its rows.
        by: Columns; `config.` may be left out. None: the settings in which runs of one experiment differ, and the
            experiment if there are several.

    Example:
        >>> table = pd.DataFrame({"experiment": "rl2", "config.seed": [0, 1], "config.lr": [0.1, 0.3]})
        >>> group_labels(table).tolist()
        ['lr=0.1', 'lr=0.3']
    """
    columns = differing(table) if by is None else [column(key, table.columns) for key in by]
    if not columns:
        return pd.Series(_named(table), index=table.index, dtype=object)
    short = [("" if name == "experiment" else f"{name.removeprefix('config.')}=", table[name]) for name in columns]
    labels = [
        ", ".join(f"{key}{text(values.iloc[place])}" for key, values in short if not _absent(values.iloc[place], by))
        for place in range(len(table))
    ]
    return pd.Series(labels, index=table.index, dtype=object)


def differing(table: pd.DataFrame) -> list[str]:
    """Returns the columns in which groups of runs differ: the experiment and settings other than the seed."""
    ignored = {f"config.{key}" for key in OF_THE_RECORD}
    settings = [name for name in table.columns if name.startswith("config.") and name not in ignored]
    named = table.groupby("experiment", dropna=bool(table["experiment"].notna().any()))  # without damaged records
    found = [name for name in settings if any(_differs(part[name]) for _, part in named)]
    return ["experiment", *found] if _differs(table["experiment"]) else found


def different_evaluations(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Returns the settings in which the evaluations of runs differ: by name, each value with one run that has it.

    Args:
        table: `Runs.table` or some of its rows.
    """
    names = [name for name in table.columns if name in _OF_THE_TASKS or name.startswith("config.task_args.")]
    found = {}
    for name in [*names, *({_OF_THE_SCORE} & set(table.columns))]:
        settings = table[name].dropna() if name == _OF_THE_SCORE else table[name]
        values = {text(value): str(run) for run, value in settings.items()}
        if len(values) > 1:
            found["score" if name == _OF_THE_SCORE else name.removeprefix("config.")] = values
    return found


def _differs(values: pd.Series) -> bool:
    return len({key(value) for value in values}) > 1


def _absent(value: Any, by: Sequence[str] | None) -> bool:
    """Whether a label omits a setting, because the run lacks it and `by` did not ask for it."""
    return by is None and is_missing(value)


def _named(table: pd.DataFrame) -> str:
    """Returns the name of the only group."""
    names = {str(name) for name in table["experiment"] if name is not None}
    return names.pop() if len(names) == 1 else "all runs"
