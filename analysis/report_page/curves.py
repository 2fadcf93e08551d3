"""Curves of a report: thinned curves of single runs, and the interquartile mean of each group with its interval."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.data.load import COMPLETED, Runs
from analysis.stats import align, interval, interval_name, iqm

_BUDGET = 800_000
"""Largest number of points of all runs and metrics, which add about 10 MB to the page."""

_FEWEST, _MOST = 100, 2000
"""Lower and upper limit of the number of points of a curve."""

_BUDGET_OF_BANDS = 40_000
"""Largest number of points of all intervals: each needs a bootstrap, 0.25 ms for 10 runs."""

_FEWEST_OF_BAND, _MOST_OF_BAND = 100, 500
_RESAMPLES = 1000
"""Number of bootstrap resamples at each point of an interval."""

ALL: Any = {"status": None, "repeats": "all", "allow_different_tasks": True}
"""Selects runs of every status, for curves of single runs, which are not averaged."""


class Curve(NamedTuple):
    """A metric of one run, `[points]` each; `run` is its row in the table, `env_steps` None if not recorded."""

    run: int
    step: NDArray[np.int64]
    value: NDArray[np.float64]
    seconds: NDArray[np.float64]
    env_steps: NDArray[np.float64] | None


class Groups(NamedTuple):
    """The groups: their names, the group of each run, and whether the run counts in the average."""

    names: list[str]
    of_run: list[int]
    counts: list[bool]


def points_of_curve(runs: Runs) -> int:
    """Returns the largest number of points of a curve that keeps the page within its budget."""
    curves = len(runs.metrics[["run", "metric"]].drop_duplicates())
    return int(np.clip(_BUDGET // max(curves, 1), _FEWEST, _MOST))


def thin(values: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Returns the indices of at most `most` points: the first, the last, and the extremes of each section.

    Args:
        values: Values of the curve, `[points]`; NaN is a gap, and a section of gaps keeps one of them.
        most: Largest number of points, at least 4.
    """
    count = len(values)
    if count <= most:
        return np.arange(count)
    edges = np.linspace(1, count - 1, (most - 2) // 2 + 1).astype(np.int64)
    kept = [0, count - 1]
    for start, stop in itertools.pairwise(edges):
        part = values[start:stop]
        finite = ~np.isnan(part)
        low, high = (np.where(finite, part, fill) for fill in (np.inf, -np.inf))
        kept += [start + int(low.argmin()), start + int(high.argmax())]
    return np.unique(kept)


def of_metric(runs: Runs, metric: str, totals: Mapping[str, Any]) -> list[Curve]:
    """Returns the curves of a metric, of every run that has it.

    Args:
        runs: The runs.
        metric: Name of the metric.
        totals: Cumulative environment steps of the runs, see `env_steps`.

    Raises:
        ValueError: No run has the metric.
    """
    frame = runs.curves(metric, "iteration", by=[], **ALL)
    seconds = runs.curves(metric, "seconds", by=[], **ALL)["x"].to_numpy(np.float64)
    places = {run: place for place, run in enumerate(runs.table.index)}
    run, step, value = (frame[name].to_numpy() for name in ("run", "x", "value"))
    curves = []
    for start, stop in _stretches(run):
        env_steps = None
        if run[start] in totals:
            steps, total = totals[run[start]]
            env_steps = np.append(0.0, total)[np.searchsorted(steps, step[start:stop], side="right")]
        part = slice(start, stop)
        curves.append(Curve(places[run[start]], step[part].astype(np.int64), value[part], seconds[part], env_steps))
    return curves


def env_steps(runs: Runs) -> dict[str, Any]:
    """Returns, by run, the iterations and the cumulative environment steps, for runs that record them."""
    name = "env_steps"
    having = runs.metrics.loc[runs.metrics["metric"] == name, "run"].unique()
    if not len(having):
        return {}
    some = replace(runs, table=runs.table[runs.table.index.isin(having)])
    step = some.curves(name, "iteration", by=[], **ALL)
    total = some.curves(name, "env_steps", by=[], **ALL)["x"].to_numpy()
    run, steps = step["run"].to_numpy(), step["x"].to_numpy()
    return {run[start]: (steps[start:stop], total[start:stop]) for start, stop in _stretches(run)}


def bands(curves: Sequence[Curve], groups: Groups, most: int) -> list[dict[str, Any]]:
    """Returns the interquartile mean of each group with its 95 % interval, on common iterations, see `stats.align`.

    The time and the environment steps of a point are medians over the runs.

    Args:
        curves: Curves of one metric.
        groups: The groups of the runs.
        most: Largest number of points of a band.
    """
    found = []
    for group, mine in _averaged(curves, groups):
        try:
            aligned = align([(curve.step, curve.value) for curve in mine])
        except ValueError as error:
            found.append(_nothing(group, len(mine), str(error)))
            continue
        if aligned.diverged.all():
            found.append(_nothing(group, len(mine), f"no average: {'; '.join(aligned.notes)}"))
            continue
        kept = thin(iqm(aligned.values.T), most)
        x = aligned.x[kept]
        seconds = [np.interp(x, curve.step, curve.seconds) for curve in mine]
        steps = [np.interp(x, curve.step, curve.env_steps) for curve in mine if curve.env_steps is not None]
        axes = {
            "iteration": numbers(x),
            "seconds": numbers(np.median(seconds, 0)),
            "env_steps": numbers(np.median(steps, 0), digits=9) if len(steps) == len(mine) else None,
        }
        found.append(axes | _estimates(aligned.values.T[kept], group, aligned.notes))
    return found


def _averaged(curves: Sequence[Curve], groups: Groups) -> Iterator[tuple[int, list[Curve]]]:
    """Yields each group with curves of runs that count, and these curves."""
    for group in range(len(groups.names)):
        mine = [curve for curve in curves if groups.of_run[curve.run] == group and groups.counts[curve.run]]
        if mine:
            yield group, mine


def _estimates(value: NDArray[np.float64], group: int, remarks: Sequence[str]) -> dict[str, Any]:
    """Returns the interquartile mean of `value [points, runs]` with its interval, and a note on both."""
    count = value.shape[-1]
    low, high = interval(value, np.random.default_rng(0), "iqm", num_resamples=_RESAMPLES)
    named = interval_name("iqm", count)
    note = "; ".join((f"IQM of {count} runs, {named}" if count > 1 else f"1 run, {named}", *remarks))
    values = {"y": numbers(iqm(value)), "low": numbers(low), "high": numbers(high)}
    return {"group": group, "count": count, "interval": named, "note": note} | values


def _nothing(group: int, count: int, reason: str) -> dict[str, Any]:
    """Returns the entry of a group whose runs cannot be averaged."""
    axes: dict[str, Any] = {"x": [], **{name: [] for name in ("iteration", "seconds", "env_steps")}}
    return axes | {"group": group, "count": count, "interval": "", "note": reason, "y": [], "low": [], "high": []}


class Packer:
    """Collects thinned curves for JSON. Each refers to points by index in the common list of iterations of its run."""

    def __init__(self, most: int, groups: Groups, num_metrics: int):
        self.most = most
        self.most_of_band = int(
            np.clip(_BUDGET_OF_BANDS // max(1, len(groups.names) * num_metrics), _FEWEST_OF_BAND, _MOST_OF_BAND)
        )
        self.groups = groups
        self.num_thinned = 0
        self._kept: list[tuple[list[Curve], list[dict[str, Any]]]] = []

    def add(self, curves: Sequence[Curve]) -> None:
        """Adds the curves of the next metric."""
        kept = []
        for curve in curves:
            places = thin(curve.value, self.most)
            self.num_thinned += len(places) < len(curve.value)
            steps = None if curve.env_steps is None else curve.env_steps[places]
            kept.append(Curve(curve.run, curve.step[places], curve.value[places], curve.seconds[places], steps))
        self._kept.append((kept, bands(curves, self.groups, self.most_of_band)))

    def grids(self) -> list[dict[str, Any]]:
        """Returns, for each run, the iterations at which its curves have points, with seconds and environment steps."""
        parts: list[list[Curve]] = [[] for _ in self.groups.of_run]
        for curves, _ in self._kept:
            for curve in curves:
                parts[curve.run].append(curve)
        return [_grid(mine) if mine else {} for mine in parts]

    def payloads(self, grids: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yields the curves of each metric and the bands of its groups."""
        steps = [np.array(grid.get("iteration", []), np.int64) for grid in grids]
        for curves, found in self._kept:
            packed = []
            for curve in curves:
                whole = len(curve.step) == len(steps[curve.run])
                places = None if whole else np.searchsorted(steps[curve.run], curve.step).tolist()
                packed.append({"run": curve.run, "at": places, "y": numbers(curve.value)})
            yield {"curves": packed, "bands": found}


def _grid(curves: Sequence[Curve]) -> dict[str, Any]:
    steps = np.concatenate([curve.step for curve in curves])
    once, first = np.unique(steps, return_index=True)
    seconds = np.concatenate([curve.seconds for curve in curves])[first]
    recorded = [curve.env_steps for curve in curves if curve.env_steps is not None]
    totals = numbers(np.concatenate(recorded)[first], digits=9) if len(recorded) == len(curves) else None
    return {"iteration": once.tolist(), "seconds": numbers(seconds), "env_steps": totals}


def adaptation(runs: Runs, groups: Groups) -> dict[str, Any] | None:
    """Returns the adaptation curves of runs and groups at the last evaluation; None if no run has one."""
    if runs.adaptation.empty:
        return None
    frame = runs.adaptation_curves(by=[], **ALL)
    places = {run: place for place, run in enumerate(runs.table.index)}
    single = []
    for run, part in frame.groupby("run", sort=False):
        order = part.sort_values("adapt_step")
        single.append(
            Curve(places[str(run)], order["adapt_step"].to_numpy(), order["value"].to_numpy(), np.empty(0), None)
        )
    single.sort(key=lambda curve: curve.run)
    units = dict(zip(frame["run"].map(places), frame["unit"], strict=True))
    found = []
    for group, mine in _averaged(single, groups):
        unit = ", ".join(dict.fromkeys(units[curve.run] for curve in mine))
        try:
            aligned = align([(curve.step, curve.value) for curve in mine])
            band = {"x": numbers(aligned.x)} | _estimates(aligned.values.T, group, aligned.notes)
        except ValueError as error:
            band = _nothing(group, len(mine), str(error))
        found.append(band | {"unit": unit})
    return {
        "curves": [{"run": curve.run, "x": curve.step.tolist(), "y": numbers(curve.value)} for curve in single],
        "bands": found,
        "unit": ", ".join(dict.fromkeys([band["unit"] for band in found] or frame["unit"])),
        "label": "mean score of the tasks",
    }


def counted(runs: Runs, labels: Sequence[str]) -> tuple[list[bool], list[str]]:
    """Returns whether each run is averaged (COMPLETED, and the last of its group and seed), and the repeated runs."""
    table = runs.table.assign(group=list(labels), place=range(len(runs.table)))
    done = table[table["status"] == COMPLETED].sort_values("started", kind="stable", na_position="first")
    again = done["seed"].notna() & done.duplicated(["group", "seed"], keep="last")
    kept = set(done.loc[~again, "place"])
    repeats = [str(run) for run in runs.table.index if run in set(done.index[again])]
    return [place in kept for place in range(len(table))], repeats


def numbers(values: Any, digits: int = 6) -> list[float | int | None]:
    """Returns numbers for JSON with `digits` significant digits; None for those that are not finite."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"values: need one axis, got shape {array.shape}")
    form = f"%.{digits}g"
    return [
        _short(float(form % value)) if finite else None for value, finite in zip(array, np.isfinite(array), strict=True)
    ]


def _short(value: float) -> float | int:
    """Returns an integer if the value is a whole number."""
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def _stretches(names: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Yields start and stop of each section of equal names."""
    if len(names):
        edges = np.flatnonzero(names[1:] != names[:-1]) + 1
        yield from zip([0, *edges], [*edges, len(names)], strict=True)
