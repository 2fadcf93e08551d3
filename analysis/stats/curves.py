"""Learning curves: alignment on common points, area under a curve, and steps to a threshold.

A curve is `(x [points], value [points])` with ascending x. Curves are **ragged** if they end at different x or have
different points. `Aligned.notes` reports each of these rules that was applied:

- where the value of a run is not finite, the run has diverged: it stays, its value is NaN, and so is every statistic of
  the group there (`diverged` counts such runs). Interpolation does not bridge such points;
- runs with the same points keep them; other runs are interpolated linearly, within their own range of x, onto evenly
  spaced points, as many as the longest curve has;
- with "common", curves end at the end of the shortest one, so that every point averages the same runs; with
  "available", they continue with the remaining runs, whose number is in `runs`. Tell the reader: the remaining runs
  may be the better ones;
- for steps to a threshold, a run that has not reached it at the common end is censored: it counts in the median as
  later than that end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.stats.estimate import Estimate, estimate

Array = NDArray[np.float64]
Curve = tuple[ArrayLike, ArrayLike]
Curves = Mapping[str, Curve] | Sequence[Curve]
"""Curves by the name of their run, or as a sequence."""

RAGGED = ("common", "available")


class Aligned(NamedTuple):
    """Curves on common points.

    Attributes:
        x: The common points, ascending, `[points]`.
        values: Values of the curves, `[runs, points]`; NaN where a run is not finite, and after the end of a run, which
            "common" excludes.
        runs: Number of runs that have the point, `[points]`, including those that are not finite there.
        diverged: Number of runs whose value at the point is not finite, `[points]`.
        notes: A sentence for each change that was made to the curves; empty for curves with the same points.
    """

    x: Array
    values: Array
    runs: NDArray[np.int64]
    diverged: NDArray[np.int64]
    notes: tuple[str, ...]


class Reached(NamedTuple):
    """The steps that runs took to reach a threshold.

    Attributes:
        steps: The x of the first point at or beyond the threshold, `[runs]`; infinite if there is none up to `horizon`.
        horizon: The largest x that was searched, the same for all runs.
        reached: Number of runs that reached the threshold.
        estimate: Median of `steps`, with an interval between order statistics. Infinite values mean "later than the
            horizon".
    """

    steps: Array
    horizon: float
    reached: int
    estimate: Estimate


def align(curves: Curves, ragged: str = "common") -> Aligned:
    """Returns the curves on common points, by the rules at the top of this file.

    Args:
        curves: At least one curve.
        ragged: "common" or "available".

    Raises:
        ValueError: There is no curve, one has no ascending x, or no point is common to all.

    Example:
        >>> found = align({"a": ([0, 10, 20], [1.0, 2.0, 3.0]), "b": ([0, 10], [5.0, 6.0])})
        >>> found.values.tolist(), found.notes
        ([[1.0, 2.0], [5.0, 6.0]], ('1 of 2 runs end before 20: all are cut at 10',))
    """
    if ragged not in RAGGED:
        raise ValueError(f"ragged={ragged!r}: need one of {', '.join(RAGGED)}")
    named, notes = _named(curves), []
    start, ends = max(x[0] for x, _ in named.values()), np.array([x[-1] for x, _ in named.values()])
    stop = ends.min() if ragged == "common" else ends.max()
    if start > ends.min():
        raise ValueError(f"curves: no point is common to all; one starts at {start:g}, one ends at {ends.min():g}")
    places = [x[(x >= start) & (x <= stop)] for x, _ in named.values()]
    longest = max(places, key=len)
    if not all(np.array_equal(place, longest[: len(place)]) for place in places):
        longest = np.linspace(start, stop, len(longest))
        notes.append(f"runs were measured at different places: interpolated onto {len(longest)} even ones")
    values = np.stack([np.interp(longest, x, value, right=np.nan) for x, value in named.values()])
    if ends.min() < ends.max():
        notes.append(_ends_note(ends, ragged))
    is_there = longest <= ends[:, None]
    is_lost = is_there & ~np.isfinite(values)
    if is_lost.any():
        notes.append(_lost_note(longest, is_lost))
    return Aligned(longest, values, is_there.sum(0), is_lost.sum(0), tuple(notes))


def area_under_curve(x: ArrayLike, value: ArrayLike, start: float | None = None, stop: float | None = None) -> float:
    """Returns the mean height of a curve from `start` to `stop`: its area by the trapezoid rule, divided by its width.

    Compare curves over the same range, which `align` returns. NaN if a value in the range is not finite.

    Args:
        x: The x of the points, ascending, `[points]`.
        value: Value at each point, `[points]`.
        start: First x of the area; None for that of the first point.
        stop: Last x of the area; None for that of the last point.

    Raises:
        ValueError: The curve does not cover `start` to `stop`, or x is not ascending.

    Example:
        >>> area_under_curve([0, 10, 20], [0.0, 10.0, 10.0])
        7.5
        >>> area_under_curve([0, 10, 20], [0.0, 10.0, 10.0], start=5, stop=10)
        7.5
    """
    places, heights = _points("curve", (x, value))
    low, high = (places[0] if start is None else start), (places[-1] if stop is None else stop)
    if not places[0] <= low <= high <= places[-1]:
        raise ValueError(f"start={low:g}, stop={high:g}: need places within the curve, {places[0]:g} to {places[-1]:g}")
    inner = places[(places > low) & (places < high)]
    grid = np.concatenate([[low], inner, [high]])
    at = np.interp(grid, places, heights)
    return float(np.trapezoid(at, grid) / (high - low)) if high > low else float(at[0])


def steps_to_threshold(
    curves: Curves,
    threshold: float,
    lower_is_better: bool = False,
    horizon: float | None = None,
    confidence: float = 0.95,
) -> Reached:
    """Returns the steps that each run took to reach a threshold, and their median; other runs are censored.

    A value that is not finite does not reach it, so a run that has diverged before is censored.

    Args:
        curves: At least one curve.
        threshold: The value to reach.
        lower_is_better: Whether values at or below the threshold reach it, instead of values at or above it.
        horizon: The largest x to search; None for the end of the shortest curve.
        confidence: Probability that the interval contains the true median, in (0, 1).

    Raises:
        ValueError: As in `align`, or a curve ends before the horizon without reaching the threshold.

    Example:
        >>> steps_to_threshold([([0, 10], [0.0, 6.0]), ([0, 10], [0.0, 1.0])], threshold=5.0).steps.tolist()
        [10.0, inf]
    """
    named = _named(curves)
    until = min(x[-1] for x, _ in named.values()) if horizon is None else horizon
    steps = np.full(len(named), math.inf)
    for index, (x, value) in enumerate(named.values()):
        beyond = x[(value <= threshold if lower_is_better else value >= threshold) & (x <= until)]
        steps[index] = beyond[0] if len(beyond) else math.inf
    ends = {name: x[-1] for (name, (x, _)), step in zip(named.items(), steps, strict=True) if math.isinf(step)}
    unknown = [f"{name} (ends at {end:g})" for name, end in ends.items() if end < until]
    if unknown:
        raise ValueError(
            f"horizon={until:g}: runs that end before it without reaching {threshold:g}: {', '.join(unknown)}; "
            "lower the horizon, or leave them out and say so"
        )
    median = estimate(steps, np.random.default_rng(0), "median", confidence)  # draws no random numbers
    return Reached(steps, float(until), int(np.isfinite(steps).sum()), median)


def _named(curves: Curves) -> dict[str, tuple[Array, Array]]:
    """Returns the places and values of every curve, NaN for values that are not finite."""
    named = curves if isinstance(curves, Mapping) else {f"curve {index}": curve for index, curve in enumerate(curves)}
    if not named:
        raise ValueError("curves: need at least 1")
    return {name: _points(name, curve) for name, curve in named.items()}


def _points(name: str, curve: Curve) -> tuple[Array, Array]:
    x, value = (np.asarray(side, np.float64) for side in curve)
    if x.ndim != 1 or x.shape != value.shape or not len(x):
        raise ValueError(f"{name}: need as many values as places, at least 1, got shapes {x.shape} and {value.shape}")
    if not (np.diff(x) > 0).all():
        raise ValueError(f"{name}: x must rise from point to point; is a step recorded twice?")
    return x, np.where(np.isfinite(value), value, np.nan)


def _ends_note(ends: Array, ragged: str) -> str:
    short = f"{int((ends < ends.max()).sum())} of {len(ends)} runs end before {ends.max():,.10g}"
    if ragged == "common":
        return f"{short}: all are cut at {ends.min():,.10g}"
    return f"{short}, the first at {ends.min():,.10g}: beyond it the others are left"


def _lost_note(x: Array, is_lost: NDArray[np.bool_]) -> str:
    runs, points = int(is_lost.any(1).sum()), int(is_lost.any(0).sum())
    first = x[is_lost.any(0)][0]
    return (
        f"diverged: {runs} of {len(is_lost)} runs, the first at {first:,.10g}; no value of the group at {points} of "
        f"{len(x)} points"
    )
