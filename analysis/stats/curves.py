"""Learning curves: put on common points, their area, and the steps to a threshold.

A curve is `(x [points], value [points])`, x rising. Curves are **ragged** when they end at different places or have
different points. The rules, each of which `Aligned.notes` reports when it was needed:

- a value that is not finite is left out of its curve;
- runs that were measured at the same places keep them; others are interpolated linearly, never beyond their own ends,
  onto as many even places as the longest curve has;
- curves end where the shortest ends ("common"), so that the same runs stand behind every point; with "available" they
  go on with the runs that are left, whose number is in `runs`, and the reader must be told: the ones left may be those
  that did well;
- in steps to a threshold, a run that has not reached it at the common end counts as later than that (censored): it
  moves the median, and is neither left out nor counted as having reached it at the end.
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
"""Curves by the name of their run, or in a row."""

RAGGED = ("common", "available")


class Aligned(NamedTuple):
    """Curves on common points.

    Attributes:
        x: `[points]`.
        values: `[runs, points]`, NaN where a run has ended; with "common" nowhere.
        runs: `[points]`, how many runs have the point.
        notes: What was done to make them so, one sentence each; empty for curves that were alike.
    """

    x: Array
    values: Array
    runs: NDArray[np.int64]
    notes: tuple[str, ...]


class Reached(NamedTuple):
    """When runs reached a threshold.

    Attributes:
        steps: `[runs]`, the x of the first point at or beyond the threshold; infinite if that is later than `horizon`.
        horizon: Up to where was looked, in all runs.
        reached: How many runs did.
        estimate: The median of `steps`, with an interval between order statistics; either may be infinite, which says
            "later than the horizon".
    """

    steps: Array
    horizon: float
    reached: int
    estimate: Estimate


def align(curves: Curves, ragged: str = "common") -> Aligned:
    """The curves on common points, by the rules at the top of this file.

    Args:
        curves: At least one.
        ragged: "common" or "available".

    Raises:
        ValueError: There is no curve, one has no finite value, its x does not rise, or no point is common to all.

    Example:
        >>> found = align({"a": ([0, 10, 20], [1.0, 2.0, 3.0]), "b": ([0, 10], [5.0, 6.0])})
        >>> found.values.tolist(), found.notes
        ([[1.0, 2.0], [5.0, 6.0]], ('1 of 2 runs end before 20: all are cut at 10',))
    """
    if ragged not in RAGGED:
        raise ValueError(f"ragged={ragged!r}: need one of {', '.join(RAGGED)}")
    named, notes = _cleaned(curves)
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
    return Aligned(longest, values, (~np.isnan(values)).sum(0), tuple(notes))


def area_under_curve(x: ArrayLike, value: ArrayLike, start: float | None = None, stop: float | None = None) -> float:
    """The mean height of a curve between two places, by the trapezoid rule: its area over its width.

    Compare curves over the same places: give `start` and `stop`, which `align` finds.

    Args:
        x: `[points]`, rising.
        value: `[points]`.
        start: Where the area begins; without, at the first point.
        stop: Where it ends; without, at the last.

    Raises:
        ValueError: The curve does not reach from `start` to `stop`, has a value that is not finite, or x does not rise.

    Example:
        >>> area_under_curve([0, 10, 20], [0.0, 10.0, 10.0])
        7.5
        >>> area_under_curve([0, 10, 20], [0.0, 10.0, 10.0], start=5, stop=10)
        7.5
    """
    places, heights = _points("curve", (x, value))
    if not np.isfinite(heights).all():
        raise ValueError("value: some are not finite; `align` leaves them out and says so")
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
    """When each run first reached a threshold, and the median of that; runs that never did are censored.

    Args:
        curves: At least one.
        threshold: What is to be reached.
        lower_is_better: Reached means at or below.
        horizon: Up to where to look; without, where the shortest curve ends.
        confidence: Share of intervals that hold the true median, in (0, 1).

    Raises:
        ValueError: As `align`, or a curve ends before the horizon without reaching the threshold.

    Example:
        >>> steps_to_threshold([([0, 10], [0.0, 6.0]), ([0, 10], [0.0, 1.0])], threshold=5.0).steps.tolist()
        [10.0, inf]
    """
    named, _ = _cleaned(curves)
    until = min(x[-1] for x, _ in named.values()) if horizon is None else horizon
    steps = np.full(len(named), math.inf)
    unknown = []
    for index, (name, (x, value)) in enumerate(named.items()):
        beyond = x[(value <= threshold if lower_is_better else value >= threshold) & (x <= until)]
        if len(beyond):
            steps[index] = beyond[0]
        elif x[-1] < until:
            unknown.append(f"{name} (ends at {x[-1]:g})")
    if unknown:
        raise ValueError(
            f"horizon={until:g}: runs that end before it without reaching {threshold:g}: {', '.join(unknown)}; "
            "lower the horizon, or leave them out and say so"
        )
    median = estimate(steps, np.random.default_rng(0), "median", confidence)  # draws no random numbers
    return Reached(steps, float(until), int(np.isfinite(steps).sum()), median)


def _cleaned(curves: Curves) -> tuple[dict[str, tuple[Array, Array]], list[str]]:
    """The finite points of every curve, and a note on the others."""
    named = curves if isinstance(curves, Mapping) else {f"curve {index}": curve for index, curve in enumerate(curves)}
    if not named:
        raise ValueError("curves: need at least 1")
    kept, lost, holed = {}, 0, 0
    for name, curve in named.items():
        x, value = _points(name, curve)
        finite = np.isfinite(value)
        if not finite.any():
            raise ValueError(f"{name}: no value is finite; leave the run out and say so")
        lost, holed = lost + int((~finite).sum()), holed + int(not finite.all())
        kept[name] = (x[finite], value[finite])
    return kept, [f"{lost} values of {holed} runs are not finite and left out"] if lost else []


def _points(name: str, curve: Curve) -> tuple[Array, Array]:
    x, value = (np.asarray(side, np.float64) for side in curve)
    if x.ndim != 1 or x.shape != value.shape or not len(x):
        raise ValueError(f"{name}: need as many values as places, at least 1, got shapes {x.shape} and {value.shape}")
    if not (np.diff(x) > 0).all():
        raise ValueError(f"{name}: x must rise from point to point; is a step recorded twice?")
    return x, value


def _ends_note(ends: Array, ragged: str) -> str:
    short = f"{int((ends < ends.max()).sum())} of {len(ends)} runs end before {ends.max():,.10g}"
    if ragged == "common":
        return f"{short}: all are cut at {ends.min():,.10g}"
    return f"{short}, the first at {ends.min():,.10g}: beyond it the others are left"
