"""Compares a sweep that `python -m slurm submit` made with its runs: their status, and the runs to retry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.identity import key as exact
from analysis.data.identity import text
from analysis.data.load import COMPLETED, Runs, load_runs
from analysis.data.where import nearest
from analysis.stats import estimate

MISSING = "MISSING"
"""Status of a run without a record."""


@dataclass(frozen=True)
class Sweep:
    """A sweep and the state of its runs.

    Attributes:
        name: The name of the sweep in `python -m slurm`.
        keys: The settings other than the seed in which its runs differ.
        table: One row for each planned run, index `run`: `status`, `seed`, a column for each of the keys, `problems`.
        runs: The runs that have a record.
    """

    name: str
    keys: tuple[str, ...]
    table: pd.DataFrame
    runs: Runs

    def open(self) -> pd.DataFrame:
        """Returns the rows of the table that have not completed."""
        return self.table[self.table["status"] != COMPLETED]

    def hopeless(self) -> pd.DataFrame:
        """Returns the settings for which every run has failed, with the number of `runs` and the first `problems`."""
        groups = self.table.groupby(list(self.keys), dropna=False) if self.keys else [((), self.table)]
        rows = [
            dict(zip(self.keys, settings, strict=True)) | {"runs": len(part), "problems": part["problems"].iloc[-1]}
            for settings, part in groups
            if (part["status"] == "FAILED").all()
        ]
        return pd.DataFrame(rows, columns=[*self.keys, "runs", "problems"])

    def retry(self) -> str:
        """Returns the command that retries open runs, without hopeless settings; empty if there are none."""
        rows = self.open()
        for settings in self.hopeless().to_dict("records"):
            rows = rows[
                ~np.logical_and.reduce([np.full(len(rows), True), *(rows[key] == settings[key] for key in self.keys)])
            ]
        return f"python -m slurm retry {self.name} --run {' '.join(rows.index)}" if len(rows) else ""

    def scores(self, metric: str) -> pd.DataFrame:
        """Returns `group, seed, run, value` for the runs that have completed, see `Runs.scores`."""
        return self.runs.scores(metric, by=list(self.keys) or ["experiment"])


def load_sweep(directory: str | Path, name: str | None = None) -> Sweep:
    """Loads a sweep from a directory of runs.

    Args:
        directory: The directory of the runs.
        name: The name of the sweep. None: the sweep that was submitted last.

    Raises:
        ValueError: The directory has no such sweep, or none of its runs has begun.
    """
    manifests = {path.parent.name: path for path in Path(directory).glob("_sweeps/*/manifest.jsonl")}
    if not manifests:
        raise ValueError(f"{directory}: no sweep was submitted there")
    if name is None:
        name = max(manifests, key=lambda one: manifests[one].stat().st_mtime)
    if name not in manifests:
        raise ValueError(f"{name}: no such sweep in {directory}; {nearest(name, list(manifests))}")
    entries = {
        str(entry["run"]): entry for entry in map(json.loads, manifests[name].read_text(encoding="utf-8").splitlines())
    }
    try:
        runs = load_runs(directory, lambda row: str(row["id"]) in entries)
    except ValueError as error:
        raise ValueError(f"{name}: none of its {len(entries)} runs has begun; {error}") from error
    keys = _differing([entry["overrides"] for entry in entries.values()])
    return Sweep(name, keys, _table(entries, keys, runs), runs)


def ranking(scores: pd.DataFrame, statistic: str = "iqm", seed: int = 0) -> pd.DataFrame:
    """Returns `group`, `runs`, and the statistic with its interval as text, ordered from the highest value down.

    Groups in which a run has diverged have no value, and come last.
    """
    found = {
        str(group): estimate(part["value"], np.random.default_rng(seed), statistic)
        for group, part in scores.groupby("group", sort=False)
    }
    order = sorted(found, key=lambda group: (np.isnan(found[group].value), -found[group].value))
    rows = [(group, found[group].runs, found[group].text()) for group in order]
    return pd.DataFrame(rows, columns=["group", "runs", statistic])


def _differing(settings: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    keys = dict.fromkeys(key for one in settings for key in one if key != "seed")
    return tuple(key for key in keys if len({exact(one.get(key)) for one in settings}) > 1)


def _table(entries: Mapping[str, Mapping[str, Any]], keys: Sequence[str], runs: Runs) -> pd.DataFrame:
    rows = {}
    for run, entry in entries.items():
        is_there = run in runs.table.index
        rows[run] = {
            "status": runs.table.at[run, "status"] if is_there else MISSING,
            "seed": entry["seed"],
            **{key: text(entry["overrides"].get(key)) for key in keys},
            "problems": runs.table.at[run, "problems"] if is_there else "there is no record",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")
