"""Joins metrics and scores with the group and the seed of their runs: the input of plots and tables.

The runs of a group have the same settings apart from the seed. Three rules protect averages over a group:

- Only runs with the requested statuses count, `COMPLETED` by default. `Runs.report()` lists the others.
- Two runs of a group with the same seed are not independent, and are refused. `repeats="last"` keeps the run that
  started last, `repeats="all"` keeps both.
- Runs that were evaluated or scored differently are refused, unless `allow_different_tasks=True`.

A run whose value is not finite (null in the record) has diverged. It counts: its value is NaN, and statistics of its
group say so (`analysis.stats.NOT_FINITE`). `not_finite="drop"` leaves such runs out, and `attrs["note"]` names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.data.groups import different_evaluations, group_labels
from analysis.data.identity import text
from analysis.data.where import nearest
from analysis.stats import area_under_curve

if TYPE_CHECKING:
    from analysis.data.load import Runs

Axis = Literal["iteration", "env_steps", "seconds"]
Repeats = Literal["refuse", "last", "all"]
Value = Literal["last", "area", "max", "min"]
NotFinite = Literal["count", "drop"]


def curves(
    runs: Runs,
    metric: str,
    x: Axis = "iteration",
    by: Sequence[str] | None = None,
    not_finite: NotFinite = "count",
    **choice: Any,
) -> pd.DataFrame:
    """Returns a metric against iterations, environment steps or seconds of work.

    Args:
        runs: The runs to choose from.
        metric: The name of the metric.
        x: `"iteration"`; `"env_steps"`, the cumulative sum of the metric of that name; or `"seconds"`, the time since
            the start without pauses.
        by: Settings (or `experiment`, `status`, …) that define the groups. None: those that differ between the runs.
        not_finite: Whether runs with values that are not finite `"count"`, as NaN, or are left out, `"drop"`.
        choice: `status`, `repeats`, `allow_different_tasks`, see `chosen`.

    Returns:
        `group, seed, run, x, value`, ordered by run and step.

    Raises:
        ValueError: No run has the metric (the message names similar ones), or the rules above refuse the runs.
    """
    if x not in get_args(Axis):
        raise ValueError(f"x={x!r}: need one of {', '.join(get_args(Axis))}")
    table = _with_groups(runs, by, having=_runs_with(runs, metric), **choice)
    points = runs.metrics[(runs.metrics["metric"] == metric) & runs.metrics["run"].isin(table.index)]
    if x == "iteration":
        places = points["step"].to_numpy()
    else:
        parts = [_places(runs, str(run), part, x) for run, part in points.groupby("run", sort=False, observed=True)]
        places = np.concatenate([np.empty(0), *parts])
    names = points["run"].astype(object).to_numpy()
    found = table.loc[names, ["group", "seed"]].reset_index()
    found = found[["group", "seed", "run"]].assign(x=places, value=points["value"].to_numpy())
    return _counted(found, not_finite)


def adaptation_curves(
    runs: Runs, by: Sequence[str] | None = None, not_finite: NotFinite = "count", **choice: Any
) -> pd.DataFrame:
    """Returns the mean over tasks after each step of adaptation, at the last evaluation of each run.

    Args:
        runs: The runs to choose from.
        by: Settings that define the groups, see `curves`.
        not_finite: See `curves`. A mean over tasks is not finite if the score of one task is not.
        choice: `status`, `repeats`, `allow_different_tasks`, see `chosen`.

    Returns:
        `group, seed, run, adapt_step, value, unit`, and a column for each extra of the recorded curves, such as
        `regret`; NaN for runs without it.

    Raises:
        ValueError: No run has an evaluation, or the rules above refuse the runs.
    """
    whole = runs.adaptation
    if whole.empty:
        raise ValueError("adaptation: no run has an evaluation; train to the end, or set eval_interval above 0")
    table = _with_groups(runs, by, having=set(whole["run"]), **choice)
    last = whole[whole["iteration"] == whole.groupby("run")["iteration"].transform("max")]
    last = last[last["run"].isin(table.index)]
    keys = ["run", "adapt_step", "unit"]
    values = [name for name in whole.columns if name not in (*keys, "iteration", "task")]
    tasks = last.groupby(keys, sort=False)[values]
    means = tasks.mean().where(tasks.count().eq(tasks.size(), axis=0)).reset_index()  # `mean` leaves NaN out
    found = table.loc[means["run"], ["group", "seed"]].reset_index(drop=True)
    found = pd.concat([found, means], axis=1)[["group", "seed", "run", "adapt_step", *values, "unit"]]
    return _counted(found, not_finite)


def scores(
    runs: Runs,
    metric: str,
    by: Sequence[str] | None = None,
    groups: pd.Series | None = None,
    value: Value = "last",
    not_finite: NotFinite = "count",
    **choice: Any,
) -> pd.DataFrame:
    """Returns one number for each run; NaN if it has diverged.

    Args:
        runs: The runs to choose from.
        metric: A metric or, with the last value, a column of numbers: `result.score_after_3`, `seconds`.
        by: Settings that define the groups, see `curves`.
        groups: The group of each run that may count, by run; replaces `by`.
        value: `"last"`, the last value; `"area"`, the mean height of the curve (`stats.area_under_curve`) over the
            iterations that all runs have; `"max"` or `"min"`, an extreme value. Areas and extremes of a curve with a
            value that is not finite are not finite.
        not_finite: See `curves`.
        choice: `status`, `repeats`, `allow_different_tasks`, see `chosen`.

    Returns:
        `group, seed, run, value`. `attrs["note"]` names the range of iterations of areas, runs that have completed
        without the metric, and runs that were left out.

    Raises:
        ValueError: No run has the metric, or the rules above refuse the runs.
    """
    if value not in get_args(Value):
        raise ValueError(f"value={value!r}: need one of {', '.join(get_args(Value))}")
    last = _last_values(runs, metric) if value == "last" else None
    having = _runs_with(runs, metric) if last is None else set(last.index)
    own = None if groups is None else groups[groups.index.isin(having)]
    table = _with_groups(runs, by, having, **choice) if own is None else chosen(runs, own, **choice)
    values, note = _reduced(runs, metric, table.index, value) if last is None else (last, "")
    found = table[["group", "seed"]].assign(run=table.index, value=values[table.index])
    found = found.reset_index(drop=True)[["group", "seed", "run", "value"]]
    found.attrs["note"] = "; ".join(filter(None, [note, _lacking(runs, metric, having, groups)]))
    return _counted(found, not_finite)


def _lacking(runs: Runs, metric: str, having: set[str], groups: pd.Series | None) -> str:
    """Returns a note on the runs that have completed without the metric; empty if there are none."""
    table = runs.table if groups is None else runs.table[runs.table.index.isin(groups.index)]
    lacking = table.index[(table["status"] == "COMPLETED") & ~table.index.isin(having)]
    return f"completed without {metric}, not in the table: run {', '.join(lacking)}" if len(lacking) else ""


def _counted(found: pd.DataFrame, not_finite: NotFinite) -> pd.DataFrame:
    """Returns the frame, with `drop` without the runs that have a value that is not finite."""
    if not_finite not in get_args(NotFinite):
        raise ValueError(f"not_finite={not_finite!r}: need one of {', '.join(get_args(NotFinite))}")
    lost = list(dict.fromkeys(found.loc[~np.isfinite(found["value"]), "run"]))
    if not lost or not_finite == "count":
        return found
    note = f"left out, since they have diverged: {len(lost)} of {found['run'].nunique()} runs ({', '.join(lost)})"
    kept = found[~found["run"].isin(lost)].reset_index(drop=True)
    if kept.empty:
        raise ValueError(f"not_finite='drop': every run has diverged, {', '.join(lost)}")
    kept.attrs["note"] = "; ".join(filter(None, [found.attrs.get("note", ""), note]))
    return kept


def chosen(
    runs: Runs,
    groups: pd.Series,
    *,
    status: Sequence[str] | None = ("COMPLETED",),
    repeats: Repeats = "refuse",
    allow_different_tasks: bool = False,
) -> pd.DataFrame:
    """Returns the rows of the table for the runs that count, with their `group`.

    Args:
        runs: The runs to choose from.
        groups: The group of each run that may count, by run.
        status: The statuses that count; None for all.
        repeats: Whether several runs with the same group and seed are an error, `"refuse"`, are reduced to the
            `"last"` one, or are `"all"` kept.
        allow_different_tasks: Whether runs may be compared that were evaluated or scored differently.

    Raises:
        ValueError: No run is left, or one of the rules above is broken.
    """
    if repeats not in get_args(Repeats):
        raise ValueError(f"repeats={repeats!r}: need one of {', '.join(get_args(Repeats))}")
    table = runs.table.loc[groups.index].assign(group=groups)
    if status is not None:
        states = table["status"].value_counts().to_dict()
        table = table[table["status"].isin(list(status))]
        if table.empty:
            raise ValueError(f"status={tuple(status)}: none of the runs has it, they are {states}")
    if not allow_different_tasks:
        _refuse_different_tasks(table)
    return _without_repeats(table, repeats)


def _with_groups(runs: Runs, by: Sequence[str] | None, having: set[str], **choice: Any) -> pd.DataFrame:
    """Returns the runs that count, with their group. Only settings of these runs are compared."""
    able = runs.table[runs.table.index.isin(having)]
    table = chosen(runs, pd.Series("", index=able.index, dtype=object), **{**choice, "repeats": "all"})
    return chosen(runs, group_labels(table, by), **choice)


def _runs_with(runs: Runs, metric: str) -> set[str]:
    known = list(runs.metrics["metric"].cat.categories)
    if metric not in known:
        raise ValueError(f"metric={metric!r}: no run has it; {nearest(metric, known)}")
    return set(runs.metrics.loc[runs.metrics["metric"] == metric, "run"].unique())


def _last_values(runs: Runs, metric: str) -> pd.Series:
    """Returns the last value of a metric, or the value of a column, for each run that has it."""
    if f"final.{metric}" in runs.table.columns:
        return runs.table.loc[runs.table.index.isin(_runs_with(runs, metric)), f"final.{metric}"]
    if metric in runs.table.columns and not metric.startswith("config."):
        column = (
            runs.table[metric].dropna() if metric == "seconds" else runs.table[metric]
        )  # of others, NaN was recorded
        values = column[[isinstance(value, (Real, np.bool_)) for value in column]]
        if values.empty:
            raise ValueError(f"metric={metric!r}: no run has a number there")
        return pd.to_numeric(values)
    known = [name.removeprefix("final.") for name in runs.table.columns if name.startswith(("final.", "result"))]
    raise ValueError(f"metric={metric!r}: no run has it; {nearest(metric, known)}")


def _reduced(runs: Runs, metric: str, names: pd.Index, value: Value) -> tuple[pd.Series, str]:
    """Returns one number for the curve of each of these runs, and a note on the range of iterations."""
    points = runs.metrics[(runs.metrics["metric"] == metric) & runs.metrics["run"].isin(names)]
    curves = points.astype({"run": object}).groupby("run", sort=False)
    if value != "area":
        return curves["value"].agg(value).where(curves["value"].count() == curves["value"].size()), ""
    ends = curves["step"].agg(["min", "max"])
    start, stop = ends["min"].max(), ends["max"].min()
    areas = {run: area_under_curve(part["step"], part["value"], start, stop) for run, part in curves}
    longer = int((ends["max"] > stop).sum())
    more = f"; {longer} of {len(ends)} runs go on beyond" if longer else ""
    return pd.Series(areas, dtype=float), f"area: mean height from iteration {start} to {stop}{more}"


def _places(runs: Runs, run: str, points: pd.DataFrame, x: Axis) -> NDArray[np.float64]:
    """Returns the positions of the points of a run on the axis."""
    if x == "seconds":
        moments = points["time"].dt.tz_localize(None).to_numpy()
        start = runs.table["started"].dt.tz_localize(None)[run].to_datetime64()
        passed = (moments - start) / np.timedelta64(1, "s")
        rests = runs.pauses[runs.pauses["run"] == run]
        for moment, seconds in zip(rests["time"].dt.tz_localize(None).to_numpy(), rests["seconds"], strict=True):
            passed = passed - seconds * (moments >= moment)
        return np.asarray(passed, np.float64)
    steps = runs.metrics[(runs.metrics["run"] == run) & (runs.metrics["metric"] == x)]
    if steps.empty:
        raise ValueError(f"x={x!r}: run {run} has no metric {x}; draw it against iterations")
    total = np.cumsum(steps["value"].to_numpy())
    place = np.searchsorted(steps["step"].to_numpy(), points["step"].to_numpy(), side="right")
    return np.append(0.0, total)[place]


def _refuse_different_tasks(table: pd.DataFrame) -> None:
    for name, values in different_evaluations(table).items():
        what = "were scored differently" if name == "score" else "were evaluated on different tasks"
        found = ", ".join(f"{value} (run {run})" for value, run in values.items())
        raise ValueError(
            f"{name}: the runs {what}: {found}; choose with where, or ask for it with allow_different_tasks "
            "(--allow-different-tasks)"
        )


def _without_repeats(table: pd.DataFrame, repeats: Repeats) -> pd.DataFrame:
    """Returns the table without runs that repeat the group and the seed of another run."""
    if repeats == "all":
        return table
    seeds = table["seed"].map(text).where(table["seed"].notna(), table.index.to_series())
    keys = pd.DataFrame({"group": table["group"], "seed": seeds, "started": table["started"]})
    if repeats == "last":
        keys = keys.sort_values("started", kind="stable", na_position="first")
        return table[table.index.isin(keys.index[~keys.duplicated(["group", "seed"], keep="last")])]
    again = keys[keys.duplicated(["group", "seed"], keep=False)]
    if not again.empty:
        twins = again[(again["group"] == again["group"].iloc[0]) & (again["seed"] == again["seed"].iloc[0])]
        raise ValueError(
            f"runs {', '.join(twins.index)} have the same group {twins['group'].iloc[0]!r} and seed "
            f"{twins['seed'].iloc[0]}: a repetition is not an independent run. Choose with where (command=train), name "
            'a setting that distinguishes them with by, or use repeats="last" (--repeats last)'
        )
    return table
