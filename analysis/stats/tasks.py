"""Scores of several tasks at once: aggregates, performance profiles, and how often one agent beats the other.

The convention is that of Agarwal et al. 2021 (arXiv:2108.13264): scores `[runs, tasks]`, runs resampled within each
task, tasks fixed. A task's runs are its own: run 3 of one task has nothing to do with run 3 of another.

**Ragged scores** (tasks with different numbers of runs) are taken as they are: `{task: values}`, or an array with NaN
where there is no run. Every task weighs the same, so a run weighs 1/(tasks × runs of its task); with as many runs
everywhere this is the plain pooled statistic. A task is resampled with its own number of runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.stats.comparing import beats
from analysis.stats.estimate import Estimate
from analysis.stats.points import check_confidence, checked
from analysis.stats.student import t_quantile

Tasks = Sequence[NDArray[np.float64]]
"""By task, its values `[..., runs of the task]`; the leading axes are resamples."""

Scores = ArrayLike | Mapping[str, ArrayLike]

_RESAMPLES = 2000


def _weighted_iqm(tasks: Tasks) -> NDArray[np.float64]:
    """The mean of the pooled values without the lowest and highest ⌊N/4⌋/N of their weight."""
    values, weights = _pooled(tasks)
    order = values.argsort(-1)
    total = values.shape[-1]
    cut = total // 4 / total
    upper = weights[order].cumsum(-1)
    kept = np.diff(np.clip(upper, cut, 1 - cut), axis=-1, prepend=cut) / (1 - 2 * cut)
    return (kept * np.take_along_axis(values, order, -1)).sum(-1)


def _mean(tasks: Tasks) -> NDArray[np.float64]:
    return np.mean([task.mean(-1) for task in tasks], axis=0)


def _median(tasks: Tasks) -> NDArray[np.float64]:
    return np.median([task.mean(-1) for task in tasks], axis=0)


def _gap(tasks: Tasks) -> NDArray[np.float64]:
    return 1 - _mean([np.minimum(task, 1.0) for task in tasks])


AGGREGATES: dict[str, Callable[[Tasks], NDArray[np.float64]]] = {
    "iqm": _weighted_iqm,
    "mean": _mean,
    "median": _median,
    "optimality_gap": _gap,
}
"""The interquartile mean over all runs and tasks; the mean and the median over tasks of their means; the gap to 1."""


class Profile(NamedTuple):
    """Which share of runs scores above each threshold, with a band that holds threshold by threshold.

    Attributes:
        threshold: `[thresholds]`.
        share: `[thresholds]`.
        low: `[thresholds]`, NaN where there is no band.
        high: `[thresholds]`.
        runs: Runs of the task that has fewest.
        interval: What the band is, or why there is none.
    """

    threshold: NDArray[np.float64]
    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    runs: int
    interval: str


def aggregate(
    scores: Scores,
    statistic: str,
    rng: np.random.Generator,
    confidence: float = 0.95,
    num_resamples: int = _RESAMPLES,
) -> Estimate:
    """One number for all tasks, with the interval of a stratified bootstrap.

    The ends are the quantiles Φ(±t) of the resampled statistic, t being Student's with Σ(runs − 1) degrees of freedom,
    times √(n/(n − 1)), since a sample drawn from n runs varies less than they do by that; n is the mean number of runs.

    Args:
        scores: `[runs, tasks]`, NaN where a task lacks a run, or `{task: values}`.
        statistic: A key of `AGGREGATES`; scores normalised to 1 for the optimality gap.
        rng: Draws the resamples.
        confidence: Share of intervals that hold the true value, in (0, 1).
        num_resamples: Of the bootstrap.

    Raises:
        ValueError: A task has no run, or a setting is out of range.

    Example:
        >>> scores = {"cheetah": [0.9, 0.8, 0.95], "ant": [0.4, 0.5]}
        >>> found = aggregate(scores, "mean", np.random.default_rng(0))
        >>> round(found.value, 3), found.interval
        (0.667, '95 % stratified bootstrap interval, 2 to 3 runs per task')
    """
    function = _known(statistic)
    tasks = by_task(scores)
    value = float(function(tasks))
    fewest, kind = _describe([tasks], confidence, num_resamples)
    if fewest == 1:
        return Estimate(value, math.nan, math.nan, 1, kind)
    low, high = _ends(function(stratified_resamples(tasks, rng, num_resamples)), [tasks], confidence)
    return Estimate(value, float(low), float(high), fewest, kind)


def performance_profile(
    scores: Scores,
    thresholds: ArrayLike,
    rng: np.random.Generator,
    confidence: float = 0.95,
    num_resamples: int = _RESAMPLES,
) -> Profile:
    """The share of runs above each threshold, every task weighing the same.

    The band of one task is Wilson's (1927) of a share of n runs; that of several the stratified bootstrap's.

    Args:
        scores: See `aggregate`.
        thresholds: `[thresholds]`.
        rng: Draws the resamples.
        confidence: Share of bands that hold the true share at a threshold, in (0, 1).
        num_resamples: Of the bootstrap.

    Raises:
        ValueError: As `aggregate`.

    Example:
        >>> found = performance_profile({"ant": [0.2, 0.4, 0.9]}, [0.3, 0.8], np.random.default_rng(0))
        >>> found.share.round(2).tolist(), found.interval
        ([0.67, 0.33], '95 % Wilson band')
    """
    tasks, at = by_task(scores), checked(thresholds)
    share = _shares(tasks, at)
    fewest, kind = _describe([tasks], confidence, num_resamples)
    if fewest == 1:
        nothing = np.full_like(share, np.nan)
        return Profile(at, share, nothing, nothing.copy(), 1, kind)
    if len(tasks) == 1:
        return Profile(at, share, *_wilson(share, fewest, confidence), fewest, f"{100 * confidence:g} % Wilson band")
    low, high = _ends(_shares(stratified_resamples(tasks, rng, num_resamples), at), [tasks], confidence)
    return Profile(at, share, low, high, fewest, kind.replace("interval", "band"))


def improvement_over_tasks(
    scores: Scores,
    reference: Scores,
    rng: np.random.Generator,
    confidence: float = 0.95,
    num_resamples: int = _RESAMPLES,
) -> Estimate:
    """The mean over tasks of P(score > reference) + ½ P(equal); of one task see `probability_of_improvement`.

    Args:
        scores: See `aggregate`.
        reference: Likewise, with the same tasks.
        rng: Draws the resamples, of both sides.
        confidence: Share of intervals that hold the true probability, in (0, 1).
        num_resamples: Of the bootstrap.

    Raises:
        ValueError: The two have different tasks, or as `aggregate`.

    Example:
        >>> ours, theirs = {"ant": [1.0, 2.0], "cheetah": [5.0, 6.0]}, {"ant": [0.0, 0.5], "cheetah": [5.0, 6.0]}
        >>> improvement_over_tasks(ours, theirs, np.random.default_rng(0)).value
        0.75
    """
    if isinstance(scores, Mapping) and isinstance(reference, Mapping):
        if scores.keys() != reference.keys():
            raise ValueError(f"reference: need the tasks {sorted(scores)}, got {sorted(reference)}")
        reference = {task: reference[task] for task in scores}
    ours, theirs = by_task(scores), by_task(reference)
    if len(ours) != len(theirs):
        raise ValueError(f"reference: need {len(ours)} tasks, got {len(theirs)}")
    fewest, kind = _describe([ours, theirs], confidence, num_resamples)
    value = float(_improvement(ours, theirs))
    if fewest == 1:
        return Estimate(value, math.nan, math.nan, 1, kind)
    sides = [stratified_resamples(side, rng, num_resamples) for side in (ours, theirs)]
    low, high = _ends(_improvement(*sides), [ours, theirs], confidence)
    return Estimate(value, float(low), float(high), fewest, kind)


def by_task(scores: Scores) -> list[NDArray[np.float64]]:
    """The runs of each task, those that are missing left out.

    Raises:
        ValueError: A task has no run, or the array is not `[runs, tasks]`.
    """
    if isinstance(scores, Mapping):
        named = {task: np.ravel(np.asarray(values, np.float64)) for task, values in scores.items()}
    else:
        array = np.asarray(scores, np.float64)
        if array.ndim != 2:
            raise ValueError(f"scores: need an array [runs, tasks], got shape {array.shape}")
        named = {str(index): column for index, column in enumerate(array.T)}
    tasks = {task: values[~np.isnan(values)] for task, values in named.items()}
    empty = [task for task, values in tasks.items() if not len(values)]
    if empty or not tasks:
        raise ValueError(f"scores: no runs of {'task ' + ', '.join(empty) if empty else 'any task'}; leave it out")
    return list(tasks.values())


def stratified_resamples(tasks: Tasks, rng: np.random.Generator, num_resamples: int) -> list[NDArray[np.float64]]:
    """Runs drawn with replacement within each task, as many as it has: `[num_resamples, runs of the task]` each."""
    return [task[rng.integers(len(task), size=(num_resamples, len(task)))] for task in tasks]


def _improvement(ours: Tasks, theirs: Tasks) -> NDArray[np.float64]:
    return np.mean([beats(a, b).mean((-2, -1)) for a, b in zip(ours, theirs, strict=True)], axis=0)


def _shares(tasks: Tasks, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[..., thresholds]`."""
    return np.stack([_mean([task > threshold for task in tasks]) for threshold in thresholds], -1)


def _pooled(tasks: Tasks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All values `[..., N]` and their weights `[N]`, which sum to 1."""
    weights = [np.full(task.shape[-1], 1 / (task.shape[-1] * len(tasks))) for task in tasks]
    return np.concatenate(tasks, -1), np.concatenate(weights)


def _ends(
    resampled: NDArray[np.float64], sides: Sequence[Tasks], confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    counts = [len(task) for tasks in sides for task in tasks]
    t = t_quantile((1 + confidence) / 2, sum(counts) - len(counts))
    reach = t * math.sqrt(np.mean(counts) / (np.mean(counts) - 1))
    low, high = np.quantile(resampled, [NormalDist().cdf(-reach), NormalDist().cdf(reach)], axis=0)
    return low, high


def _wilson(
    share: NDArray[np.float64], count: int, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return np.clip(middle - reach, 0, 1), np.clip(middle + reach, 0, 1)


def _describe(sides: Sequence[Tasks], confidence: float, num_resamples: int) -> tuple[int, str]:
    """The fewest runs of a task, and what the interval is called."""
    check_confidence(confidence, num_resamples)
    counts = [len(task) for tasks in sides for task in tasks]
    fewest, most = min(counts), max(counts)
    if fewest == 1:
        return 1, f"no interval: 1 run in {counts.count(1)} of {len(counts)} tasks"
    runs = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return fewest, f"{100 * confidence:g} % stratified bootstrap interval, {runs} runs per task"


def _known(statistic: str) -> Callable[[Tasks], NDArray[np.float64]]:
    if statistic not in AGGREGATES:
        raise ValueError(f"statistic={statistic!r}: need one of {', '.join(AGGREGATES)}")
    return AGGREGATES[statistic]
