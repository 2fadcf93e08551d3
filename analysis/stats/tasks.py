"""Scores of several tasks: aggregates, performance profiles, and the probability of improvement.

The convention is that of Agarwal et al. 2021 (arXiv:2108.13264): scores `[runs, tasks]`, runs resampled within each
task, tasks fixed. Runs of different tasks are independent: run 3 of one task is not related to run 3 of another.

**Ragged scores** (tasks with different numbers of runs) are allowed: `{task: values}`. All tasks have the same weight,
so a run has the weight 1/(tasks × runs of its task); with the same number of runs for every task this is the pooled
statistic. A task is resampled with its own number of runs.

A score that is not finite belongs to a run that has diverged, see `estimate`: the run counts, is above no threshold and
loses to every finite score; aggregates have no value. A run that does not exist is left out of `{task: values}`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.stats.comparing import beats
from analysis.stats.estimate import Estimate, diverged
from analysis.stats.points import check_confidence, checked
from analysis.stats.student import t_quantile

Tasks = Sequence[NDArray[np.float64]]
"""Values of each task, `[..., runs of the task]`; the leading axes are resamples."""

Scores = ArrayLike | Mapping[str, ArrayLike]

_RESAMPLES = 2000


def _weighted_iqm(tasks: Tasks) -> NDArray[np.float64]:
    """Returns the mean of the pooled values without the lowest and highest ⌊N/4⌋/N of their weight."""
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
"""The interquartile mean of all runs and tasks; mean and median over tasks of the means over runs; the gap to 1."""


class Profile(NamedTuple):
    """The fraction of runs that score above each threshold, with a pointwise confidence band.

    Attributes:
        threshold: The thresholds τ, `[thresholds]`.
        fraction: Fraction of runs with a score above τ, `[thresholds]`.
        low: Lower end of the band, `[thresholds]`; NaN if there is none.
        high: Upper end of the band, `[thresholds]`; NaN if there is none.
        runs: The smallest number of runs of a task.
        interval: Name of the band, or the reason why there is none.
    """

    threshold: NDArray[np.float64]
    fraction: NDArray[np.float64]
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
    """Returns a statistic of all tasks, with the interval of a stratified bootstrap.

    The ends are the quantiles Φ(±t √(n/(n − 1))) of the resampled statistic, with Student's t of Σ(runs − 1) degrees of
    freedom. The factor corrects the variance of resamples of n runs; n is the mean number of runs of a task.

    Args:
        scores: Scores `[runs, tasks]`, or `{task: values}`.
        statistic: A key of `AGGREGATES`. The optimality gap needs scores with 1 for a solved task.
        rng: Generator of the resamples.
        confidence: Probability that the interval contains the true value, in (0, 1).
        num_resamples: Number of resamples of the bootstrap.

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
    if not np.isfinite(every := np.concatenate(tasks)).all():
        return Estimate(math.nan, math.nan, math.nan, min(map(len, tasks)), diverged(every))
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
    """Returns the performance profile: the fraction of runs above each threshold, with equal weights of the tasks.

    One task has the score interval of a proportion (Wilson 1927) at each threshold; several tasks have the interval of
    the stratified bootstrap.

    Args:
        scores: Scores as in `aggregate`.
        thresholds: The thresholds τ, `[thresholds]`.
        rng: Generator of the resamples.
        confidence: Probability that the band contains the true fraction at a threshold, in (0, 1).
        num_resamples: Number of resamples of the bootstrap.

    Raises:
        ValueError: As in `aggregate`.

    Example:
        >>> found = performance_profile({"ant": [0.2, 0.4, 0.9]}, [0.3, 0.8], np.random.default_rng(0))
        >>> found.fraction.round(2).tolist(), found.interval
        ([0.67, 0.33], '95 % Wilson band')
    """
    tasks, at = by_task(scores), checked(thresholds)
    fraction = _fractions(tasks, at)
    fewest, kind = _describe([tasks], confidence, num_resamples)
    if fewest == 1:
        nothing = np.full_like(fraction, np.nan)
        return Profile(at, fraction, nothing, nothing.copy(), 1, kind)
    if len(tasks) == 1:
        kind = f"{100 * confidence:g} % Wilson band"
        return Profile(at, fraction, *_wilson(fraction, fewest, confidence), fewest, kind)
    low, high = _ends(_fractions(stratified_resamples(tasks, rng, num_resamples), at), [tasks], confidence)
    return Profile(at, fraction, low, high, fewest, kind.replace("interval", "band"))


def improvement_over_tasks(
    scores: Scores,
    reference: Scores,
    rng: np.random.Generator,
    confidence: float = 0.95,
    num_resamples: int = _RESAMPLES,
) -> Estimate:
    """Returns the mean over tasks of P(score > reference) + ½ P(equal); for one task see `probability_of_improvement`.

    Args:
        scores: Scores of the first agent, as in `aggregate`.
        reference: Scores of the second agent, with the same tasks.
        rng: Generator of the resamples of both agents.
        confidence: Probability that the interval contains the true probability, in (0, 1).
        num_resamples: Number of resamples of the bootstrap.

    Raises:
        ValueError: The two have different tasks, or as in `aggregate`.

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
    """Returns the scores of each task, NaN for those that are not finite.

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
    tasks = {task: np.where(np.isfinite(values), values, np.nan) for task, values in named.items()}
    empty = [task for task, values in tasks.items() if not len(values)]
    if empty or not tasks:
        raise ValueError(f"scores: no runs of {'task ' + ', '.join(empty) if empty else 'any task'}; leave it out")
    return list(tasks.values())


def stratified_resamples(tasks: Tasks, rng: np.random.Generator, num_resamples: int) -> list[NDArray[np.float64]]:
    """Returns runs drawn with replacement within each task, `[num_resamples, runs of the task]` each."""
    return [task[rng.integers(len(task), size=(num_resamples, len(task)))] for task in tasks]


def _improvement(ours: Tasks, theirs: Tasks) -> NDArray[np.float64]:
    return np.mean([beats(a, b).mean((-2, -1)) for a, b in zip(ours, theirs, strict=True)], axis=0)


def _fractions(tasks: Tasks, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the fraction of runs above each threshold, `[..., thresholds]`."""
    return np.stack([_mean([task > threshold for task in tasks]) for threshold in thresholds], -1)


def _pooled(tasks: Tasks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns all values `[..., N]` and their weights `[N]`, which sum to 1."""
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
    fraction: NDArray[np.float64], count: int, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (fraction + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z * np.sqrt(fraction * (1 - fraction) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return np.clip(middle - reach, 0, 1), np.clip(middle + reach, 0, 1)


def _describe(sides: Sequence[Tasks], confidence: float, num_resamples: int) -> tuple[int, str]:
    """Returns the smallest number of runs of a task, and the name of the interval."""
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
