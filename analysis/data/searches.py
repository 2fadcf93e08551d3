"""The trials of a search that `python -m slurm search` made: their settings and values, as DataFrames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from analysis.data.where import nearest
from research.tracking.settings_file import parse_yaml

_STATES = {"COMPLETE": "completed", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "running"}


@dataclass(frozen=True)
class Search:
    """A search and its trials.

    Attributes:
        name: Name of its folder.
        metric: Name of the objective.
        direction: `"maximize"` or `"minimize"`.
        trials: One row for each trial, index `trial`: `run`, `state`, `iteration` up to which its value is known,
            `value`, `core_minutes`, and a column for each dimension of the space.
        values: `trial, iteration, value`, a row for each iteration at which a trial was stopped.
    """

    name: str
    metric: str
    direction: Literal["minimize", "maximize"]
    trials: pd.DataFrame
    values: pd.DataFrame
    _frozen: tuple[FrozenTrial, ...] = ()

    @property
    def dimensions(self) -> list[str]:
        """The names of the dimensions of the space."""
        return list(self.trials.columns[5:])

    def history(self) -> pd.DataFrame:
        """Returns `trial, value, best`: the value of each trial that was trained furthest, and the best so far."""
        known = self.trials.dropna(subset=["value"])
        known = known[known["iteration"] == known["iteration"].max()]
        best = known["value"].cummax() if self.direction == "maximize" else known["value"].cummin()
        return pd.DataFrame({"trial": known.index, "value": known["value"].to_numpy(), "best": best.to_numpy()})

    def importances(self) -> pd.DataFrame:
        """Returns `dimension, importance`, the largest first: Optuna's PED-ANOVA; they add up to 1.

        The values are those at the iteration that most trials have reached. Empty with fewer than two such trials.
        """
        if self.values.empty:
            return pd.DataFrame(columns=["dimension", "importance"])
        iteration = int(self.values["iteration"].value_counts().sort_index().idxmax())
        study = optuna.create_study(direction=self.direction)
        known = [one for one in self._frozen if iteration in one.intermediate_values]
        study.add_trials([
            create_trial(params=one.params, distributions=one.distributions, value=one.intermediate_values[iteration])
            for one in known
        ])  # fmt: skip
        found = optuna.importance.get_param_importances(study) if len(known) > 1 else {}
        return pd.DataFrame({"dimension": list(found), "importance": list(found.values())})


def load_search(directory: str | Path, name: str | None = None) -> Search:
    """Loads a search from a directory of runs.

    Args:
        directory: The directory of the runs.
        name: Name of the search, with or without its number. None: the search that was begun last.

    Raises:
        ValueError: The directory has no such search, or its files are damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journals = {path.parent.name: path for path in Path(directory).glob("_searches/*/study.jsonl")}
    if not journals:
        raise ValueError(f"{directory}: no search was begun there")
    own = [one for one in journals if name in (None, one, one.rpartition("-")[0])]
    if not own:
        raise ValueError(f"{name}: no such search in {directory}; {nearest(str(name), list(journals))}")
    path = max((journals[one] for one in own), key=lambda one: one.stat().st_mtime)
    file = parse_yaml((path.parent / "search.yaml").read_text(encoding="utf-8"))
    if "pbt" in file["method"]:
        raise ValueError(f"{path}: is the journal of a population, whose members have no fixed settings; read it with "
                         "analysis.data.populations.load_population(path)")  # fmt: skip
    objective = file["objective"]
    try:
        study = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(path))))
    except KeyError as error:
        raise ValueError(f"{path}: has no study") from error
    frozen = tuple(study.get_trials(deepcopy=False))
    dimensions = list(dict.fromkeys(name for one in frozen for name in one.params))
    rows = pd.DataFrame([_row(one, dimensions) for one in frozen], columns=[*_COLUMNS, *dimensions])
    values = [(one.number, *point) for one in frozen for point in sorted(one.intermediate_values.items())]
    return Search(
        path.parent.name, objective["metric"], objective.get("direction", "maximize"),
        rows.rename_axis("trial"), pd.DataFrame(values, columns=["trial", "iteration", "value"]), frozen,
    )  # fmt: skip


_COLUMNS = ("run", "state", "iteration", "value", "core_minutes")


def _row(trial: FrozenTrial, dimensions: list[str]) -> dict[str, Any]:
    facts: Mapping[str, Any] = trial.user_attrs.get("run", {})
    known = trial.intermediate_values
    is_lost = trial.state == TrialState.FAIL or facts.get("ended") == "lost"
    return {
        "run": str(facts.get("run", "")),
        "state": facts.get("ended") or _STATES.get(trial.state.name, "running"),
        "iteration": max(known, default=0),
        "value": np.nan if is_lost or not known else known[max(known)],
        "core_minutes": facts.get("seconds", 0.0) / 60,
        **{name: trial.params.get(name, np.nan) for name in dimensions},
    }
