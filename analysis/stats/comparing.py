"""Compares two groups of runs: unpaired and paired differences of a statistic, and the probability of improvement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.stats.estimate import RESAMPLES, Estimate, diverged, estimate, resample, trimmed_mean, widened_ends
from analysis.stats.points import check_confidence, checked
from analysis.stats.student import t_quantile

_ALONE = "no interval: 1 run on a side"


class Paired(NamedTuple):
    """The paired difference of two groups with common seeds.

    Attributes:
        estimate: Statistic of the differences value − reference, with its interval.
        pairs: Seeds that both groups have.
        unpaired: Seeds that only one group has. Their runs are left out, and a report must name them.
    """

    estimate: Estimate
    pairs: tuple[int, ...]
    unpaired: tuple[int, ...]


def difference(
    values: ArrayLike,
    reference: ArrayLike,
    rng: np.random.Generator,
    statistic: str = "iqm",
    confidence: float = 0.95,
    num_resamples: int = RESAMPLES,
) -> Estimate:
    """Returns statistic(values) − statistic(reference) of independent groups with its interval; NaN if a run diverged.

    Args:
        values: Scores of the first group, `[runs]`.
        reference: Scores of the second group, `[runs]`; the numbers of runs may differ.
        rng: Generator of the resamples.
        statistic: A key of `CUTS`. Means have Welch's t interval, the others a bootstrap of both groups.
        confidence: Probability that the interval contains the true difference, in (0, 1).
        num_resamples: Number of resamples of the bootstrap.

    Raises:
        ValueError: There are no values, or a setting is out of range.

    Example:
        >>> difference([5.0, 6.0, 7.0], [1.0, 2.0, 3.0], np.random.default_rng(0), "mean").text()
        '4.00 [1.73, 6.27]'
    """
    check_confidence(confidence, num_resamples)
    sides = [np.sort(_runs(side)) for side in (values, reference)]
    counts = [len(side) for side in sides]
    if not np.isfinite(every := np.concatenate(sides)).all():
        return Estimate(math.nan, math.nan, math.nan, min(counts), diverged(every))
    value = float(trimmed_mean(sides[0], statistic) - trimmed_mean(sides[1], statistic))
    if min(counts) == 1:
        return Estimate(value, math.nan, math.nan, 1, _ALONE)
    if statistic == "mean":
        reach = _welch(sides, confidence)
        return Estimate(value, value - reach, value + reach, min(counts), _name(confidence, "Welch t interval"))
    draws = [resample(side, rng, statistic, num_resamples) for side in sides]
    low, high = widened_ends(value, draws, counts, confidence)
    return Estimate(value, float(low), float(high), min(counts), _name(confidence, "bootstrap interval"))


def paired_difference(
    values: Mapping[int, float],
    reference: Mapping[int, float],
    rng: np.random.Generator,
    statistic: str = "iqm",
    confidence: float = 0.95,
    num_resamples: int = RESAMPLES,
) -> Paired:
    """Returns the statistic of the differences between runs with the same seed.

    Effects of the seed, such as tasks and initial states, cancel. The interquartile mean of differences is not the
    difference of interquartile means; for means the two are equal.

    Args:
        values: Scores of the first group by seed.
        reference: Scores of the second group by seed.
        rng: Generator of the resamples.
        statistic: A key of `CUTS`.
        confidence: Probability that the interval contains the true value, in (0, 1).
        num_resamples: Number of resamples of the bootstrap.

    Raises:
        ValueError: The groups have no common seed, or a setting is out of range.

    Example:
        >>> ours, theirs = {0: 5.0, 1: 7.0, 2: 9.0}, {0: 4.0, 1: 6.5, 3: 0.0}
        >>> found = paired_difference(ours, theirs, np.random.default_rng(0), "mean")
        >>> found.estimate.value, found.pairs, found.unpaired
        (0.75, (0, 1), (2, 3))
    """
    pairs = tuple(sorted(values.keys() & reference.keys()))
    if not pairs:
        raise ValueError(
            f"reference: it has no seed in common with the values ({sorted(reference)} and {sorted(values)}); "
            "use `difference` for groups that are independent"
        )
    found = estimate([values[seed] - reference[seed] for seed in pairs], rng, statistic, confidence, num_resamples)
    found = found._replace(interval=_of_pairs(found, len(pairs)))
    return Paired(found, pairs, tuple(sorted(values.keys() ^ reference.keys())))


def _of_pairs(found: Estimate, count: int) -> str:
    """Returns the name of the interval of a number of pairs, or the reason why there is none."""
    if math.isnan(found.value):
        return f"{found.interval} pairs"
    return "no interval: 1 pair" if count == 1 else f"{found.interval} of {count} pairs"


def probability_of_improvement(values: ArrayLike, reference: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Returns P(value > reference) + ½ P(value = reference) for one run of each group: Mann & Whitney's U / (m n).

    The interval contains every θ within z standard errors of the estimate, with the variance at θ (Newcombe 2006,
    "Confidence intervals for an effect size measure based on the Mann–Whitney statistic", part 2, method 5):

        θ (1 − θ) [1 + ((m + n)/2 − 1) ((1 − θ)/(2 − θ) + θ/(1 + θ))] / (m n)

    Unlike that of a bootstrap, its width is above 0 when every run of one group beats every run of the other.
    A run that has diverged (NaN) loses to every finite value, and ties with another that has.

    Args:
        values: Scores of the first group, `[m]`.
        reference: Scores of the second group, `[n]`.
        confidence: Probability that the interval contains the true probability, in (0, 1).

    Raises:
        ValueError: There are no values, or the confidence is out of range.

    Example:
        >>> probability_of_improvement([3.0, 4.0, 5.0], [1.0, 2.0, 4.0]).text(digits=2)
        '0.83 [0.36, 0.98]'
    """
    check_confidence(confidence)
    ours, theirs = _runs(values), _runs(reference)
    found = float(beats(ours, theirs).mean())
    sizes = len(ours), len(theirs)
    if min(sizes) == 1:
        return Estimate(found, math.nan, math.nan, 1, _ALONE)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    low, high = (_farthest(found, end, z, *sizes) for end in (0.0, 1.0))
    return Estimate(found, low, high, min(sizes), _name(confidence, "score interval"))


def beats(values: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns 1 where value > reference and ½ where they are equal: `[..., m, n]` of `[..., m]` and `[..., n]`.

    NaN is below every number.
    """
    ours, theirs = (np.where(np.isnan(side), -np.inf, side) for side in (values[..., :, None], reference[..., None, :]))
    return (ours > theirs) + 0.5 * (ours == theirs)


def _farthest(found: float, end: float, z: float, m: int, n: int) -> float:
    """Returns the end of the score interval between the estimate and 0 or 1, by bisection."""
    inside, outside = found, end
    for _ in range(60):
        middle = (inside + outside) / 2
        curvature = (1 - middle) / (2 - middle) + middle / (1 + middle)
        variance = middle * (1 - middle) * (1 + ((m + n) / 2 - 1) * curvature) / (m * n)
        if (found - middle) ** 2 <= z**2 * variance:
            inside = middle
        else:
            outside = middle
    return (inside + outside) / 2


def simultaneous(num_comparisons: int, confidence: float = 0.95) -> float:
    """Returns the confidence of each interval with which all of them hold at once (Bonferroni).

    All intervals contain their true values with at least the probability `confidence`, however they depend on each
    other: several groups are usually compared with the same baseline.

    Args:
        num_comparisons: Number of comparisons that are shown, at least 1.
        confidence: Probability that every interval contains its true value, in (0, 1).

    Example:
        >>> round(simultaneous(10), 4)
        0.995
    """
    check_confidence(confidence)
    return 1 - (1 - confidence) / max(1, num_comparisons)


def simultaneous_note(num_comparisons: int, statistic: str = "iqm", confidence: float = 0.95) -> list[str]:
    """Returns the sentence on simultaneous intervals; none for a single comparison."""
    if num_comparisons < 2:
        return []
    each = 100 * simultaneous(num_comparisons, confidence)
    less = ", unless an interval is named with less" if statistic == "median" else ""  # few values have no other one
    return [
        f"{num_comparisons} comparisons with one baseline: their intervals are simultaneous, all hold at once with "
        f"{100 * confidence:g} % (Bonferroni: {each:.4g} % for each{less})"
    ]


def _welch(sides: list[NDArray[np.float64]], confidence: float) -> float:
    """Returns half the width of the interval of a difference of means (Welch 1947), degrees of freedom rounded down."""
    squares = np.array([side.var(ddof=1) / len(side) for side in sides])
    if squares.sum() == 0:
        return 0.0
    freedom = squares.sum() ** 2 / sum(s**2 / (len(side) - 1) for s, side in zip(squares, sides, strict=True))
    return t_quantile((1 + confidence) / 2, max(1, math.floor(freedom + 1e-9))) * math.sqrt(squares.sum())


def _runs(values: ArrayLike) -> NDArray[np.float64]:
    array = checked(values)
    if array.ndim != 1:
        raise ValueError(f"values: need one for each run, got shape {array.shape}")
    return array


def _name(confidence: float, kind: str) -> str:
    return f"{100 * confidence:.4g} % {kind}"
