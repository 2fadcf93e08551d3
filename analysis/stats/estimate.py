"""One number of a group of runs with an interval that covers, at the handful of seeds that runs come in.

The mean, the interquartile mean and the median are one family: the mean of what is left without the `cut` lowest and
highest of n values, cut = 0, ⌊n/4⌋, ⌊(n − 1)/2⌋. Each has the interval that held up best when coverage was measured
(`python -m analysis coverage`, docs/statistics.md):

    mean     x̄ ± t s/√n                                             Student's t, n − 1 degrees of freedom
    iqm      percentile bootstrap whose ends are the quantiles Φ(±t), not Φ(±z): it is z = 1.96 that makes the plain one
             too narrow for few values; fewer than 5 values: m ± t √(n/(n − 1)) SE of the bootstrap, which is Student's
             t interval up to 3
    median   between order statistics, whatever the distribution (Hettmansperger & Sheather 1986); fewer than 6 values
             have no 95 % interval of this kind: their range, with the confidence that it has
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
"""By statistic, how many of `count` values are left out at either end."""

NAMES = {"iqm": "interquartile mean", "mean": "mean", "median": "median"}

RESAMPLES = 10_000
_FEWEST = 5
"""Values from which on a bootstrap has enough different samples for its quantiles."""


class Estimate(NamedTuple):
    """A number with its interval.

    Attributes:
        value: The number.
        low: Lower end of the interval; NaN where there is none.
        high: Upper end.
        runs: Runs, or pairs of runs, that it rests on. Of two groups, those of the smaller.
        interval: What the interval is, in words, or why there is none.
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
        """`12.3 [10.1, 14.5]`, the largest with that many significant digits; what is missing is said."""
        shown = [self.value, self.low, self.high]
        largest = max([abs(number) for number in shown if math.isfinite(number)], default=0.0)
        places = min(9, max(0, digits - 1 - math.floor(math.log10(largest)))) if largest > 0 else 0
        value, low, high = (f"{number:{'+' if sign else ''}.{places}f}" for number in shown)
        return f"{value} [{low}, {high}]" if self.has_interval else f"{value} ({self.interval})"


def trimmed_mean(values: ArrayLike, statistic: str) -> Any:
    """The statistic of that name over the last axis, `[...]`.

    Raises:
        ValueError: There are no values, one is NaN, or there is no such statistic.

    Example:
        >>> float(trimmed_mean([3.0, 1.0, 2.0, 10.0, 4.0], "iqm"))
        3.0
    """
    ordered = np.sort(checked(values), -1)
    cut = _cut(statistic, ordered.shape[-1])
    return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)


def estimate(
    values: ArrayLike,
    rng: np.random.Generator,
    statistic: str = "iqm",
    confidence: float = 0.95,
    num_resamples: int = RESAMPLES,
) -> Estimate:
    """The statistic of one value per run, with its interval; one run has none, and it is said.

    Args:
        values: `[runs]`, independent.
        rng: Draws the resamples of the interquartile mean; mean and median draw nothing.
        statistic: A key of `CUTS`.
        confidence: Share of intervals that hold the true value, in (0, 1).
        num_resamples: Of the bootstrap.

    Raises:
        ValueError: There are no values, one is NaN, or a setting is out of range.

    Example:
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
    return Estimate(float(trimmed_mean(array, statistic)), float(low), float(high), count,
                    interval_name(statistic, count, confidence))  # fmt: skip


def interval(
    values: ArrayLike,
    rng: np.random.Generator,
    statistic: str = "iqm",
    confidence: float = 0.95,
    num_resamples: int = RESAMPLES,
) -> tuple[Any, Any]:
    """Lower and upper end of the statistic's interval over the last axis: `estimate`, for many rows at once.

    Args:
        values: `[..., runs]`, independent along the last axis.
        rng: See `estimate`. All rows share its draws, so a row's interval does not depend on those beside it.
        statistic: A key of `CUTS`.
        confidence: Share of intervals that hold the true value, in (0, 1).
        num_resamples: Of the bootstrap.

    Returns:
        Two arrays `[...]`; NaN where there is one run.

    Raises:
        ValueError: As `estimate`.

    Example:
        >>> interval([[4.0, 5.0, 6.0], [0.0, 0.0, 0.0]], np.random.default_rng(0), "mean")[0].round(2).tolist()
        [2.52, 0.0]
    """
    check_confidence(confidence, num_resamples)
    ordered = np.sort(checked(values), -1)
    count = ordered.shape[-1]
    _cut(statistic, count)
    if count == 1:
        nothing = np.full(ordered.shape[:-1], np.nan)
        return nothing[()], nothing.copy()[()]
    if statistic == "mean":
        reach = t_quantile((1 + confidence) / 2, count - 1) * ordered.std(-1, ddof=1) / math.sqrt(count)
        return ordered.mean(-1) - reach, ordered.mean(-1) + reach
    if statistic == "median":
        return _between_order_statistics(ordered, confidence)
    return widened_ends(trimmed_mean(ordered, statistic), [resample(ordered, rng, statistic, num_resamples)],
                        [count], confidence)  # fmt: skip


def interval_name(statistic: str, count: int, confidence: float = 0.95) -> str:
    """Returns the name of the interval of a statistic, for captions and tables.

    Example:
        >>> interval_name("mean", 5), interval_name("median", 5), interval_name("iqm", 1)
        ('95 % Student t interval', '93.8 % order-statistic interval', 'no interval: 1 run')
    """
    if count == 1:
        return "no interval: 1 run"
    if statistic == "mean":
        return f"{100 * confidence:g} % Student t interval"
    if statistic == "median":
        held = min(confidence, _held(count, 1))
        return f"{100 * held:.3g} % order-statistic interval"
    return f"{100 * confidence:g} % bootstrap interval"


def resample(
    ordered: NDArray[np.float64], rng: np.random.Generator, statistic: str, num_resamples: int
) -> NDArray[np.float64]:
    """The statistic of samples drawn with replacement, `[num_resamples, ...]`.

    A sample holds the r-th lowest value k_r times, so its statistic is a weighted sum of the ordered values: what lies
    between ranks `cut` and n − cut of Σ k. One matrix of weights serves all rows.

    Args:
        ordered: `[..., n]`, sorted along the last axis.
        rng: Draws how often each rank comes.
        statistic: A key of `CUTS`.
        num_resamples: Samples.
    """
    count = ordered.shape[-1]
    cut = _cut(statistic, count)
    ranks = rng.multinomial(count, np.full(count, 1 / count), size=num_resamples).cumsum(-1)
    weights = np.diff(np.clip(ranks, cut, count - cut), axis=-1, prepend=cut) / (count - 2 * cut)
    return np.moveaxis(ordered @ weights.T, -1, 0)


def widened_ends(value: Any, sides: list[NDArray[np.float64]], counts: list[int], confidence: float) -> tuple[Any, Any]:
    """The ends of a bootstrap interval, as wide as few values need it.

    The quantiles Φ(−t) and Φ(t) of the resampled statistic, t being Student's with Σ(n − 1) degrees of freedom; with
    fewer than 5 values on a side, value ± t √Σ n/(n − 1) SE².

    Args:
        value: The statistic `[...]`; of two sides the difference.
        sides: Its resamples `[resamples, ...]`, or those of both sides of a difference.
        counts: How many values each side has.
        confidence: Share of intervals that hold the true value.
    """
    t = t_quantile((1 + confidence) / 2, sum(counts) - len(counts))
    if min(counts) < _FEWEST:
        squares = [count / (count - 1) * side.var(0) for count, side in zip(counts, sides, strict=True)]
        reach = t * np.sqrt(sum(squares))
        return value - reach, value + reach
    resampled = sides[0] if len(sides) == 1 else sides[0] - sides[1]
    low, high = np.quantile(resampled, [NormalDist().cdf(-t), NormalDist().cdf(t)], axis=0)
    return low, high


def _between_order_statistics(ordered: NDArray[np.float64], confidence: float) -> tuple[Any, Any]:
    """The median's interval: from the d-th lowest to the d-th highest value, interpolated towards the next ones in.

    The d-th lowest and highest hold the median with probability 1 − 2 P(B < d), B binomial (n, ½). Between that of d
    and that of d + 1, with I the share of the way to the confidence, the ends lie
    λ = (n − d) I / (d + (n − 2d) I) of the way in (Hettmansperger & Sheather 1986). An end beside an infinite value
    is not interpolated.
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
    """How probably the median of n values' distribution lies between the d-th lowest and the d-th highest."""
    return 1 - 2 * sum(math.comb(count, below) for below in range(depth)) / 2**count


def _cut(statistic: str, count: int) -> int:
    if statistic not in CUTS:
        raise ValueError(f"statistic={statistic!r}: need one of {', '.join(CUTS)}")
    return CUTS[statistic](count)
