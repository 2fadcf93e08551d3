"""A statistic of a group of runs, with an interval whose coverage is right for few runs.

The mean, the interquartile mean and the median are trimmed means: the mean of n values without the `cut` lowest and
highest, cut = 0, ⌊n/4⌋, ⌊(n − 1)/2⌋. Each has the interval with the best measured coverage (`python -m analysis
coverage`, docs/statistics.md):

    mean     x̄ ± t s/√n                                             Student's t, n − 1 degrees of freedom
    iqm      percentile bootstrap whose ends are the quantiles Φ(±t) instead of Φ(±z), since z = 1.96 makes the interval
             too narrow for few values; fewer than 5 values (for more than 95 %, see `_fewest`):
             m ± t √(n/(n − 1)) SE of the bootstrap, which equals Student's t interval for up to 3 values
    median   between order statistics, for any distribution (Hettmansperger & Sheather 1986); fewer than 6 values have
             no 95 % interval of this kind: the interval is their range, and its name has its lower confidence

A run whose value is not finite (NaN: null in the record) has diverged. It counts as a run, and a statistic that needs
its value has none: `Estimate.value` is NaN, and its text `diverged: 2 of 5`. `NOT_FINITE` is the rule in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.stats.points import check_confidence, checked
from analysis.stats.student import t_quantile

CUTS: dict[str, Callable[[int], int]] = {
    "iqm": lambda count: count // 4,
    "mean": lambda count: 0,
    "median": lambda count: (count - 1) // 2,
}
"""By statistic, the number of values that are trimmed at each end, as a function of the number of values."""

NAMES = {"iqm": "interquartile mean", "mean": "mean", "median": "median"}

NOT_FINITE = (
    "a run whose value is not finite has diverged: it counts, it is worse than every finite run, and no mean, IQM, "
    "median or difference is computed without it"
)
"""The rule for values that are not finite, for captions and tables."""

RESAMPLES = 10_000
_FEWEST = 5
"""Smallest number of values for which the bootstrap has enough distinct resamples for its quantiles, see `_fewest`."""


class Estimate(NamedTuple):
    """A number with its interval.

    Attributes:
        value: The number; NaN if a run has diverged, which `interval` then says.
        low: Lower end of the interval; NaN if there is none.
        high: Upper end of the interval; NaN if there is none.
        runs: Number of runs or of pairs of runs; of two groups, that of the smaller one.
        interval: Name of the interval, or the reason why there is none.
    """

    value: float
    low: float
    high: float
    runs: int
    interval: str

    @property
    def has_interval(self) -> bool:
        """Whether both ends are known."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def text(self, digits: int = 3, sign: bool = False) -> str:
        """Returns `12.3 [10.1, 14.5]`, `12.3 (reason)` or `diverged: 2 of 5`, `digits` of the largest number."""
        if math.isnan(self.value):
            return self.interval
        shown = [self.value, self.low, self.high]
        largest = max([abs(number) for number in shown if math.isfinite(number)], default=0.0)
        places = min(9, max(0, digits - 1 - math.floor(math.log10(largest)))) if largest > 0 else 0
        value, low, high = (f"{number:{'+' if sign else ''}.{places}f}" for number in shown)
        return f"{value} [{low}, {high}]" if self.has_interval else f"{value} ({self.interval})"


def trimmed_mean(values: ArrayLike, statistic: str) -> Any:
    """Returns the statistic of that name over the last axis, `[...]`; NaN where a value is not finite.

    A median of infinite values is infinite, as in `steps_to_threshold`; NaN has no order and no median.

    Raises:
        ValueError: There are no values, or there is no such statistic.

    Example:
        >>> float(trimmed_mean([3.0, 1.0, 2.0, 10.0, 4.0], "iqm"))
        3.0
    """
    ordered = np.sort(checked(values), -1)
    cut = _cut(statistic, ordered.shape[-1])
    with np.errstate(invalid="ignore"):
        found = ordered[..., cut : ordered.shape[-1] - cut].mean(-1)
    return np.where(_is_defined(ordered, statistic), found, np.nan)[()]


def estimate(
    values: ArrayLike,
    rng: np.random.Generator,
    statistic: str = "iqm",
    confidence: float = 0.95,
    num_resamples: int = RESAMPLES,
) -> Estimate:
    """Returns the statistic of one value per run, with its interval. For one run, `interval` says why there is none.

    Neither is a number if a value is not finite, see the top of this file.

    Args:
        values: Scores of independent runs, `[runs]`.
        rng: Generator of the resamples of the interquartile mean; mean and median draw nothing.
        statistic: A key of `CUTS`.
        confidence: Probability that the interval contains the true value, in (0, 1).
        num_resamples: Number of resamples of the bootstrap.

    Raises:
        ValueError: There are no values, or a setting is out of range.

    Example:
        >>> estimate([71.2, float("nan"), 74.0], np.random.default_rng(0)).text()
        'diverged: 1 of 3'
        >>> found = estimate([71.2, 68.9, 74.0, 70.3, 41.5], np.random.default_rng(0), "mean")
        >>> found.text(), found.interval
        ('65.2 [48.6, 81.8]', '95 % Student t interval')
        >>> estimate([71.2], np.random.default_rng(0)).text()
        '71.2 (no interval: 1 run)'
    """
    array = checked(values)
    if array.ndim != 1:
        raise ValueError(f"values: need one for each run, got shape {array.shape}; for several tasks use `aggregate`")
    low, high = interval(array, rng, statistic, confidence, num_resamples)
    count = len(array)
    value = float(trimmed_mean(array, statistic))
    name = diverged(array) if math.isnan(value) else interval_name(statistic, count, confidence)
    return Estimate(value, float(low), float(high), count, name)


def interval(
    values: ArrayLike,
    rng: np.random.Generator,
    statistic: str = "iqm",
    confidence: float = 0.95,
    num_resamples: int = RESAMPLES,
) -> tuple[Any, Any]:
    """Returns the lower and the upper end of the statistic's interval over the last axis: `estimate` for many rows.

    Args:
        values: Scores of independent runs, `[..., runs]`.
        rng: Generator of the resamples, see `estimate`. All rows use the same draws, so the interval of a row does not
            depend on the other rows.
        statistic: A key of `CUTS`.
        confidence: Probability that the interval contains the true value, in (0, 1).
        num_resamples: Number of resamples of the bootstrap.

    Returns:
        Two arrays `[...]`; NaN for one run, and where a value is not finite.

    Raises:
        ValueError: As in `estimate`.

    Example:
        >>> interval([[4.0, 5.0, 6.0], [0.0, 0.0, 0.0]], np.random.default_rng(0), "mean")[0].round(2).tolist()
        [2.52, 0.0]
    """
    check_confidence(confidence, num_resamples)
    ordered = np.sort(checked(values), -1)
    count = ordered.shape[-1]
    _cut(statistic, count)
    is_defined = _is_defined(ordered, statistic)
    if count == 1 or not is_defined.any():
        nothing = np.full(ordered.shape[:-1], np.nan)
        return nothing[()], nothing.copy()[()]
    ends = _finite_ends(np.where(is_defined[..., None], ordered, 0.0), rng, statistic, confidence, num_resamples)
    low, high = (np.where(is_defined, end, np.nan)[()] for end in ends)
    return low, high


def _finite_ends(
    ordered: NDArray[np.float64], rng: np.random.Generator, statistic: str, confidence: float, num_resamples: int
) -> tuple[Any, Any]:
    """Returns the ends of the intervals of at least two sorted values, `[..., runs]`."""
    count = ordered.shape[-1]
    if statistic == "mean":
        reach = t_quantile((1 + confidence) / 2, count - 1) * ordered.std(-1, ddof=1) / math.sqrt(count)
        return ordered.mean(-1) - reach, ordered.mean(-1) + reach
    if statistic == "median":
        return _between_order_statistics(ordered, confidence)
    return widened_ends(trimmed_mean(ordered, statistic), [resample(ordered, rng, statistic, num_resamples)],
                        [count], confidence)  # fmt: skip


def diverged(values: ArrayLike) -> str:
    """Returns the number of runs whose value is not finite, in words.

    Example:
        >>> diverged([1.0, float("nan"), 2.0])
        'diverged: 1 of 3'
    """
    array = np.asarray(values, np.float64)
    return f"diverged: {int((~np.isfinite(array)).sum())} of {array.size}"


def interval_name(statistic: str, count: int, confidence: float = 0.95) -> str:
    """Returns the name of the interval of a statistic, for captions and tables.

    Example:
        >>> interval_name("mean", 5), interval_name("median", 5), interval_name("iqm", 1)
        ('95 % Student t interval', '93.8 % order-statistic interval', 'no interval: 1 run')
    """
    if count == 1:
        return "no interval: 1 run"
    if statistic == "mean":
        return f"{100 * confidence:.4g} % Student t interval"
    if statistic == "median":
        held = min(confidence, _held(count, 1))
        return f"{100 * held:.3g} % order-statistic interval"
    return f"{100 * confidence:.4g} % bootstrap interval"


def resample(
    ordered: NDArray[np.float64], rng: np.random.Generator, statistic: str, num_resamples: int
) -> NDArray[np.float64]:
    """Returns the statistic of samples drawn with replacement, `[num_resamples, ...]`.

    A sample has the r-th lowest value k_r times, so its statistic is a weighted sum of the ordered values, with weights
    for those between ranks `cut` and n − cut of Σ k. All rows use the same matrix of weights.

    Args:
        ordered: Values, sorted along the last axis, `[..., n]`.
        rng: Generator of the number of times that each rank is drawn.
        statistic: A key of `CUTS`.
        num_resamples: Number of resamples.
    """
    count = ordered.shape[-1]
    cut = _cut(statistic, count)
    ranks = rng.multinomial(count, np.full(count, 1 / count), size=num_resamples).cumsum(-1)
    weights = np.diff(np.clip(ranks, cut, count - cut), axis=-1, prepend=cut) / (count - 2 * cut)
    return np.moveaxis(ordered @ weights.T, -1, 0)


def widened_ends(value: Any, sides: list[NDArray[np.float64]], counts: list[int], confidence: float) -> tuple[Any, Any]:
    """Returns the ends of a bootstrap interval that is widened for few values.

    They are the quantiles Φ(−t) and Φ(t) of the resampled statistic, with Student's t of Σ(n − 1) degrees of freedom;
    if a group has fewer values than `_fewest`, value ± t √Σ n/(n − 1) SE².

    Args:
        value: The statistic, or the difference of two groups, `[...]`.
        sides: Resamples of the statistic for the group, or for each of the two groups, `[resamples, ...]`.
        counts: Number of values of each group.
        confidence: Probability that the interval contains the true value, in (0, 1).
    """
    t = t_quantile((1 + confidence) / 2, sum(counts) - len(counts))
    if min(counts) < _fewest(confidence):
        squares = [count / (count - 1) * side.var(0) for count, side in zip(counts, sides, strict=True)]
        reach = t * np.sqrt(sum(squares))
        return value - reach, value + reach
    resampled = sides[0] if len(sides) == 1 else sides[0] - sides[1]
    low, high = np.quantile(resampled, [NormalDist().cdf(-t), NormalDist().cdf(t)], axis=0)
    return low, high


def _fewest(confidence: float) -> int:
    """Returns the smallest number of values for the percentile bootstrap: 5 for 95 %, 8 for 99.4 %.

    Its interval never leaves the range of n values, which misses the centre of a symmetric distribution with
    probability 2^(1 − n), whatever the confidence.
    """
    return max(_FEWEST, round(1 - math.log2(1 - confidence)))


def _between_order_statistics(ordered: NDArray[np.float64], confidence: float) -> tuple[Any, Any]:
    """Returns the interval of the median: from the d-th lowest to the d-th highest value, interpolated inwards.

    The d-th lowest and highest value enclose the median with probability 1 − 2 P(B < d), B binomial (n, ½). With I the
    relative position of the confidence between the probabilities for d and d + 1, the ends are interpolated by
    λ = (n − d) I / (d + (n − 2d) I) (Hettmansperger & Sheather 1986). Infinite values are not interpolated.
    """
    count = ordered.shape[-1]
    depth = max([d for d in range(1, count // 2 + 1) if _held(count, d) >= confidence], default=0)
    if depth == 0:
        return ordered[..., 0], ordered[..., -1]
    part = 0.0
    if 2 * (depth + 1) <= count:
        way = (_held(count, depth) - confidence) / (_held(count, depth) - _held(count, depth + 1))
        part = (count - depth) * way / (depth + (count - 2 * depth) * way)
    outer, inner = (ordered[..., [depth + i - 1, count - depth - i]] for i in (0, 1))
    with np.errstate(invalid="ignore"):
        ends = np.where(np.isfinite(outer) & np.isfinite(inner), outer + part * (inner - outer), outer)
    return ends[..., 0], ends[..., 1]


def _held(count: int, depth: int) -> float:
    """Returns the probability that the d-th lowest and the d-th highest of n values enclose the true median."""
    return 1 - 2 * sum(math.comb(count, below) for below in range(depth)) / 2**count


def _is_defined(values: NDArray[np.float64], statistic: str) -> NDArray[np.bool_]:
    """Whether the statistic over the last axis has a value."""
    return np.asarray((~np.isnan(values) if statistic == "median" else np.isfinite(values)).all(-1), bool)


def _cut(statistic: str, count: int) -> int:
    if statistic not in CUTS:
        raise ValueError(f"statistic={statistic!r}: need one of {', '.join(CUTS)}")
    return CUTS[statistic](count)
