"""`python -m analysis coverage`: measures how often the intervals of analysis.stats contain the true value.

Draws many data sets of a few runs from known distributions. The intervals in use are compared with alternatives: the
percentile bootstrap, BCa (Efron 1987), the studentised bootstrap (Efron 1979) and, for trimmed means, Student's t with
the winsorised deviation (Tukey & McLaughlin 1963). Updates the tables of `docs/results/coverage.md`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.stats import CUTS, aggregate, difference, interval, probability_of_improvement, trimmed_mean
from analysis.stats.estimate import resample
from analysis.stats.student import t_quantile
from analysis.stats.tasks import AGGREGATES, by_task, stratified_resamples
from analysis.studies.pages import markdown_table, measure_and_renew
from research import rng

COMMAND = "python -m analysis coverage"
Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]
Method = Callable[[Array, str, np.random.Generator], tuple[Array, Array]]

_ENDS = (0.025, 0.975)
_SETS_AT_ONCE = 50
_RESAMPLES = 1000
_POPULATION = 2_000_000
_COUNTS = (3, 5, 7, 10, 20)


def _two_modes(fraction: float, distance: float) -> Draw:
    return lambda draws, shape: draws.normal(size=shape) + distance * (draws.random(shape) >= fraction)


POPULATIONS: dict[str, Draw] = {
    "normal": lambda draws, shape: draws.normal(size=shape),
    "log-normal, σ = ½": lambda draws, shape: draws.lognormal(0, 0.5, shape),
    "log-normal, σ = 1": lambda draws, shape: draws.lognormal(0, 1, shape),
    "two modes, half each": _two_modes(0.5, 4),
    "two modes, 1 in 5 fails": _two_modes(0.2, 6),
}


class Covered(NamedTuple):
    """The percentage of intervals that contain the true value, and the median width of the intervals."""

    percent: float
    width: float


@lru_cache
def truth(draw: Draw, statistic: str) -> float:
    """Returns the statistic of the distribution, estimated from two million samples."""
    ordered = np.sort(draw(rng.generator(0, "coverage/truth"), (_POPULATION,)))
    return float(trimmed_mean(ordered, statistic))


def percentile(values: Array, statistic: str, draws: np.random.Generator) -> tuple[Array, Array]:
    """Returns the interval of the percentile bootstrap."""
    low, high = np.quantile(resample(np.sort(values, -1), draws, statistic, _RESAMPLES), _ENDS, axis=0)
    return low, high


def bca(values: Array, statistic: str, draws: np.random.Generator) -> tuple[Array, Array]:
    """Returns the BCa interval, with the acceleration from the jackknife."""
    normal, found = NormalDist(), trimmed_mean(values, statistic)
    resampled = resample(np.sort(values, -1), draws, statistic, _RESAMPLES)
    ends = []
    for row, value, drawn in zip(values, found, resampled.T, strict=True):
        below = np.mean(drawn < value) + 0.5 * np.mean(drawn == value)
        bias = normal.inv_cdf(float(np.clip(below, 1 / _RESAMPLES, 1 - 1 / _RESAMPLES)))
        without = np.array([trimmed_mean(np.delete(row, run), statistic) for run in range(len(row))])
        gaps = without.mean() - without
        acceleration = (gaps**3).sum() / max(6 * (gaps**2).sum() ** 1.5, 1e-300)
        moved = [bias + normal.inv_cdf(end) for end in _ENDS]
        ends.append(np.quantile(drawn, [normal.cdf(bias + z / (1 - acceleration * z)) for z in moved]))
    low, high = np.transpose(ends)
    return low, high


def studentised(values: Array, statistic: str, draws: np.random.Generator) -> tuple[Array, Array]:
    """Returns the studentised bootstrap interval m − t* SE, with t* the quantiles of (m* − m) / SE*."""
    found, errors = trimmed_mean(values, statistic), winsorised_error(values, statistic)
    ends = []
    for row, value, error in zip(values, found, errors, strict=True):
        drawn = row[draws.integers(len(row), size=(_RESAMPLES, len(row)))]
        spread = winsorised_error(drawn, statistic)
        known = spread > 1e-9 * error
        high, low = np.quantile((trimmed_mean(drawn[known], statistic) - value) / spread[known], _ENDS)
        ends.append((value - low * error, value - high * error))
    low, high = np.transpose(ends)
    return low, high


def winsorised(values: Array, statistic: str, draws: np.random.Generator) -> tuple[Array, Array]:
    """Returns m ± t SE, with the number of untrimmed runs minus one as degrees of freedom; Student's t for the mean."""
    count = values.shape[-1]
    kept = count - 2 * CUTS[statistic](count)
    reach = t_quantile(_ENDS[1], kept - 1) * winsorised_error(values, statistic)
    return trimmed_mean(values, statistic) - reach, trimmed_mean(values, statistic) + reach


def winsorised_error(values: Array, statistic: str) -> Array:
    """Returns the standard error of a trimmed mean from the winsorised values."""
    ordered = np.sort(values, -1)
    count = ordered.shape[-1]
    cut = CUTS[statistic](count)
    moved = np.clip(ordered, ordered[..., [cut]], ordered[..., [count - cut - 1]])
    return moved.std(-1, ddof=1) * math.sqrt(count) / (count - 2 * cut)


def used(values: Array, statistic: str, draws: np.random.Generator) -> tuple[Array, Array]:
    """Returns the interval of `analysis.stats`."""
    return interval(values, draws, statistic)


METHODS: dict[str, Method] = {
    "used": used,
    "percentile": percentile,
    "BCa": bca,
    "studentised": studentised,
    "winsorised t": winsorised,
}


def cover(draw: Draw, statistic: str, runs: int, sets: int, methods: Mapping[str, Method]) -> dict[str, Covered]:
    """Returns the coverage of each method, all on the same data sets of `runs` values."""
    draws = rng.generator(0, "coverage/sets", runs)
    values, true = draw(draws, (sets, runs)), truth(draw, statistic)
    chunks = [values[start : start + _SETS_AT_ONCE] for start in range(0, sets, _SETS_AT_ONCE)]
    found = {}
    for name, method in methods.items():
        ends = [np.transpose(method(chunk, statistic, draws)) for chunk in chunks]
        found[name] = _covered(np.concatenate(ends), true)
    return found


def cover_pairs(draw: Draw, runs: int, sets: int) -> dict[str, Covered]:
    """Returns the coverage of comparisons between two groups whose means differ by half a standard deviation."""
    draws = rng.generator(0, "coverage/pairs", runs)
    large = [draw(draws, (_POPULATION,)) for _ in range(2)]
    shift = float(large[0].std()) / 2
    ends: dict[str, list[tuple[float, float]]] = {"mean": [], "iqm": [], "improvement": []}
    for ours, theirs in zip(draw(draws, (sets, runs)) + shift, draw(draws, (sets, runs)), strict=True):
        for name in ("mean", "iqm"):
            found = difference(ours, theirs, draws, name, num_resamples=_RESAMPLES)
            ends[name].append((found.low, found.high))
        found = probability_of_improvement(ours, theirs)
        ends["improvement"].append((found.low, found.high))
    true = {"mean": shift, "iqm": shift, "improvement": float(np.mean(large[0] + shift > large[1]))}
    return {name: _covered(np.array(each), true[name]) for name, each in ends.items()}


def cover_tasks(draw: Draw, statistic: str, runs: int, sets: int) -> dict[str, Covered]:
    """Returns the coverage of an aggregate over five tasks with different means and deviations."""
    level, spread = np.array([0.1, 0.3, 0.5, 0.8, 1.2]), np.array([0.1, 0.2, 0.1, 0.3, 0.4])
    draws = rng.generator(0, "coverage/tasks", runs)
    large = level + spread * draw(draws, (_POPULATION // 5, 5))
    true = float(AGGREGATES[statistic](by_task(large)))
    ends: dict[str, list[tuple[float, float]]] = {"used": [], "percentile": []}
    for scores in level + spread * draw(draws, (sets, runs, 5)):
        found = aggregate(scores, statistic, draws)
        resampled = AGGREGATES[statistic](stratified_resamples(by_task(scores), draws, _RESAMPLES))
        ends["used"].append((found.low, found.high))
        ends["percentile"].append((float(np.quantile(resampled, _ENDS[0])), float(np.quantile(resampled, _ENDS[1]))))
    return {name: _covered(np.array(each), true) for name, each in ends.items()}


def report(sets: int) -> str:
    """Returns the tables of the page in Markdown."""
    parts = [_methods_table(statistic, sets) for statistic in CUTS]
    for statistic in CUTS:
        rows = []
        for name, draw in POPULATIONS.items():
            found = [cover(draw, statistic, runs, sets, {"used": used})["used"] for runs in _COUNTS]
            rows.append([name, *(f"{each.percent:.1f}" for each in found)])
        parts.append(_table(f"{statistic}, as used", ["runs are", *(f"{runs} runs" for runs in _COUNTS)], rows))
    rows = [[name, *(f"{each.percent:.1f}" for each in cover_pairs(draw, 10, sets).values())]
            for name, draw in POPULATIONS.items()]  # fmt: skip
    header = ["runs are", "difference of means", "difference of IQMs", "probability of improvement"]
    parts.append(_table("Two groups of 10 runs, half a deviation apart", header, rows))
    rows, fewer = [], max(1, sets // 4)
    for name, draw in POPULATIONS.items():
        pairs = [cover_tasks(draw, statistic, 10, fewer) for statistic in AGGREGATES]
        rows.append([name, *(f"{each['used'].percent:.1f} / {each['percentile'].percent:.1f}" for each in pairs)])
    title = f"Five tasks with 10 runs each, {fewer} data sets: as used / percentile"
    parts.append(_table(title, ["runs are", *AGGREGATES], rows))
    return "\n\n".join(parts)


def _methods_table(statistic: str, sets: int) -> str:
    """Returns the table of all methods that apply: a median keeps one or two values, too few for a winsorised error."""
    left_out = {"iqm": (), "mean": ("winsorised t",), "median": ("winsorised t", "studentised")}[statistic]
    methods = {name: method for name, method in METHODS.items() if name not in left_out}
    rows = []
    for name, draw in POPULATIONS.items():
        found = cover(draw, statistic, 10, sets, methods)
        rows.append([name, *(_relative(each, found["used"]) for each in found.values())])
    return _table(f"{statistic}, 10 runs", ["runs are", *methods], rows)


def _covered(ends: Array, true: float) -> Covered:
    low, high = ends.T
    return Covered(100 * float(np.mean((low <= true) & (true <= high))), float(np.median(high - low)))


def _relative(found: Covered, reference: Covered) -> str:
    return f"{found.percent:.1f} ({found.width / reference.width:.2f})"


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(header), ["---", *["---:"] * (len(header) - 1)], *map(list, rows)]
    return f"**{title}**\n\n{markdown_table(lines)}"


def main(argv: Sequence[str]) -> int:
    """Measures the coverage and updates the page. Returns the exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--page", type=Path, default=Path("docs/results/coverage.md"), help="the page to update")
    parser.add_argument("--sets", type=int, default=2000, help="data sets for each number, at least 1")
    arguments = parser.parse_args(argv)
    if arguments.sets < 1:
        print(f"--sets={arguments.sets}: need at least 1", file=sys.stderr)
        return 2
    return measure_and_renew(arguments.page, COMMAND, lambda: report(arguments.sets))
