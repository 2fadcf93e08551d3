"""The mean of one evaluation over its tasks, with an interval that knows which tasks are the same.

An evaluation on 40 tasks of a family with two tasks, forward and backward, has each of them 20 times. Their difference
is no error of the mean over both, and an interval over 40 "independent tasks" would contain it. If every distinct task
occurs at least twice, the interval is that of a stratified mean (Cochran 1977, "Sampling techniques", section 5.4):

    Σ wₖ x̄ₖ ± t √(Σ wₖ² sₖ²/nₖ),   wₖ = nₖ/n,   t with Satterthwaite's degrees of freedom

Otherwise the tasks are draws from a distribution, and it is Student's. Both are the same for one task that is repeated.
All tasks of a family, once each, are no draws: their mean has no interval, as nothing tells how a repetition differs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.stats.estimate import Estimate, diverged, estimate
from analysis.stats.student import t_quantile


def task_mean(values: ArrayLike, kinds: NDArray[np.intp], confidence: float = 0.95, are_all: bool = False) -> Estimate:
    """Returns the mean over tasks with its interval.

    Args:
        values: Score of each task, `[tasks]`.
        kinds: The number of the distinct task that each task is, `[tasks]`, see `AdaptationCurve.distinct`.
        confidence: Probability that the interval contains the mean over the tasks of the family, in (0, 1).
        are_all: Whether these are all tasks of the family, equally often, see `AdaptationCurve.has_all_tasks`.

    Raises:
        ValueError: There are no values.

    Example:
        >>> task_mean([1.0, 9.0, 2.0, 8.0], np.array([0, 1, 0, 1])).text()
        '5.00 [3.48, 6.52]'
    """
    array = np.asarray(values, np.float64)
    _, counts = np.unique(kinds, return_counts=True)
    if len(array) == 1:
        value = float(array[0])
        return Estimate(value, math.nan, math.nan, 1, "no interval: 1 task" if np.isfinite(value) else diverged(array))
    if are_all and counts.max() < 2 and np.isfinite(array).all():
        reason = f"no interval: each of all {len(array)} tasks once"
        return Estimate(float(array.mean()), math.nan, math.nan, len(array), reason)
    if counts.min() < 2 or not np.isfinite(array).all():
        return estimate(array, np.random.default_rng(0), "mean", confidence)  # the mean draws nothing
    parts = [array[kinds == kind] for kind in np.unique(kinds)]
    squares = np.array([(len(part) / len(array)) ** 2 * part.var(ddof=1) / len(part) for part in parts])
    total = float(squares.sum())
    weights = sum(square**2 / (len(part) - 1) for square, part in zip(squares, parts, strict=True))
    freedom = max(1, math.floor(total**2 / weights + 1e-9)) if total > 0 else len(array) - len(parts)
    reach = t_quantile((1 + confidence) / 2, freedom) * math.sqrt(total)
    mean = float(array.mean())
    repeats = f" of {len(parts)} distinct tasks" if len(parts) > 1 else ""
    return Estimate(
        mean, mean - reach, mean + reach, len(array), f"{100 * confidence:.4g} % Student t interval{repeats}"
    )
