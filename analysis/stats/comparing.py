"""Two groups of runs: the difference of a statistic, the difference seed by seed, and how often one beats the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.stats.estimate import RESAMPLES, Estimate, estimate, resample, trimmed_mean, widened_ends
from analysis.stats.points import check_confidence, checked
from analysis.stats.student import t_quantile


class Paired(NamedTuple):
    """The differences of two groups that share seeds.

    Attributes:
        estimate: The statistic of the differences, value − reference.
        pairs: The seeds that both groups have.
        unpaired: The seeds that one group lacks. Their runs are left out, and a report must name them.
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
    """The difference of a statistic of two independent groups: that of the values less that of the reference.

    Means have Welch's t interval (his degrees of freedom rounded down); the others that of a bootstrap that draws both
    sides, as `widened_ends` has it.

    Args:
        values: `[runs]`.
        reference: `[runs]`, perhaps another number of them.
        rng: Draws the resamples.
        statistic: A key of `CUTS`.
        confidence: Share of intervals that hold the true difference, in (0, 1).
        num_resamples: Of the bootstrap.

    Raises:
        ValueError: As `estimate`.

    Example:
        >>> difference([5.0, 6.0, 7.0], [1.0, 2.0, 3.0], np.random.default_rng(0), "mean").text()
        '4.00 [1.73, 6.27]'
    """
    check_confidence(confidence, num_resamples)
    sides = [np.sort(_runs(side)) for side in (values, reference)]
    value = float(trimmed_mean(sides[0], statistic) - trimmed_mean(sides[1], statistic))
    counts = [len(side) for side in sides]
    if min(counts) == 1:
        return Estimate(value, math.nan, math.nan, 1, "no interval: 1 run on a side")
    if statistic == "mean":
        reach = _welch(sides, confidence)
        return Estimate(value, value - reach, value + reach, min(counts), _name(confidence, "Welch t interval"))
    resamples = [resample(side, rng, statistic, num_resamples) for side in sides]
    low, high = widened_ends(value, resamples, counts, confidence)
    return Estimate(value, float(low), float(high), min(counts), _name(confidence, "bootstrap interval"))


def paired_difference(
    values: Mapping[int, float],
    reference: Mapping[int, float],
    rng: np.random.Generator,
    statistic: str = "iqm",
    confidence: float = 0.95,
    num_resamples: int = RESAMPLES,
) -> Paired:
    """The statistic of the differences seed by seed: what the seeds share (tasks, starts) falls out.

    The interquartile mean of differences is not the difference of interquartile means; for means the two are one.

    Args:
        values: By seed.
        reference: By seed.
        rng: Draws the resamples.
        statistic: A key of `CUTS`.
        confidence: Share of intervals that hold the true value, in (0, 1).
        num_resamples: Of the bootstrap.

    Raises:
        ValueError: The groups share no seed, or as `estimate`.

    Example:
        >>> ours, theirs = {0: 5.0, 1: 7.0, 2: 9.0}, {0: 4.0, 1: 6.5, 3: 0.0}
        >>> found = paired_difference(ours, theirs, np.random.default_rng(0), "mean")
        >>> found.estimate.value, found.pairs, found.unpaired
        (0.75, (0, 1), (2, 3))
    """
    pairs = tuple(sorted(values.keys() & reference.keys()))
    if not pairs:
        raise ValueError(
            f"reference: it shares no seed with the values ({sorted(reference)} and {sorted(values)}); "
            "use `difference` for groups that are independent"
        )
    found = estimate([values[seed] - reference[seed] for seed in pairs], rng, statistic, confidence, num_resamples)
    kind = "no interval: 1 pair" if len(pairs) == 1 else f"{found.interval} of {len(pairs)} pairs"
    return Paired(found._replace(interval=kind), pairs, tuple(sorted(values.keys() ^ reference.keys())))


def probability_of_improvement(values: ArrayLike, reference: ArrayLike, confidence: float = 0.95) -> Estimate:
    """P(value > reference) + ½ P(value = reference), of one run of either group: Mann & Whitney's U over the pairs.

    The interval holds every θ that lies within z standard errors of what was found, with the variance that θ itself
    would have (Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann–Whitney statistic",
    part 2, method 5):

        θ (1 − θ) [1 + ((m + n)/2 − 1) ((1 − θ)/(2 − θ) + θ/(1 + θ))] / (m n)

    Unlike a bootstrap it keeps a width when every run of one group beats every run of the other.

    Args:
        values: `[m]`.
        reference: `[n]`.
        confidence: Share of intervals that hold the true probability, in (0, 1).

    Raises:
        ValueError: There are no values, one is NaN, or the confidence is out of range.

    Example:
        >>> probability_of_improvement([3.0, 4.0, 5.0], [1.0, 2.0, 4.0]).text(digits=2)
        '0.83 [0.36, 0.98]'
    """
    check_confidence(confidence)
    ours, theirs = _runs(values), _runs(reference)
    found = float(beats(ours, theirs).mean())
    sizes = len(ours), len(theirs)
    if min(sizes) == 1:
        return Estimate(found, math.nan, math.nan, 1, "no interval: 1 run on a side")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    low, high = (_farthest(found, end, z, *sizes) for end in (0.0, 1.0))
    return Estimate(found, low, high, min(sizes), _name(confidence, "score interval"))


def beats(values: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where a value is above a reference, ½ where they are equal, `[..., m, n]` for `[..., m]` and `[..., n]`."""
    ours, theirs = values[..., :, None], reference[..., None, :]
    return (ours > theirs) + 0.5 * (ours == theirs)


def _farthest(found: float, end: float, z: float, m: int, n: int) -> float:
    """The probability between the estimate and an end that is farthest from the estimate and agrees with the data."""
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


def _welch(sides: list[NDArray[np.float64]], confidence: float) -> float:
    """How far the interval of a difference of means reaches (Welch 1947)."""
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
    return f"{100 * confidence:g} % {kind}"
