"""Point statistics: the interquartile mean and the optimality gap. Also the checks of values and confidence levels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def iqm(values: ArrayLike, axis: int = -1) -> Any:
    """Returns the interquartile mean: the mean without the ⌊n/4⌋ lowest and the ⌊n/4⌋ highest values.

    It has a smaller variance than the median and, unlike the mean, is robust to single runs.
    (Agarwal et al. 2021, arXiv:2108.13264, section 4.3.)
    A value that is not finite is not trimmed: the interquartile mean is then NaN.

    Args:
        values: Values, of any shape.
        axis: The axis that is reduced.

    Raises:
        ValueError: There are no values.

    Example:
        >>> float(iqm([0.0, 1.0, 2.0, 100.0]))
        1.5
    """
    array = np.sort(np.moveaxis(checked(values), axis, -1), axis=-1)
    count = array.shape[-1]
    cut = count // 4
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(array).all(-1), array[..., cut : count - cut].mean(-1), np.nan)[()]


def optimality_gap(values: ArrayLike, target: float = 1.0) -> float:
    """Returns the optimality gap: target − mean of min(value, target); NaN if a value is not finite.

    Source: Agarwal et al. 2021, arXiv:2108.13264, section 4.3.

    Args:
        values: Values, of any shape.
        target: The score of a solved task.

    Raises:
        ValueError: There are no values.

    Example:
        >>> optimality_gap([0.5, 1.0, 2.0, 0.5])
        0.25
    """
    array = checked(values)
    return float(target - np.minimum(array, target).mean()) if np.isfinite(array).all() else float("nan")


def check_confidence(confidence: float, num_resamples: int = 1) -> None:
    """Raises ValueError if the confidence is not between 0 and 1, or there is no resample."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: need a value between 0 and 1, both excluded")
    if num_resamples < 1:
        raise ValueError(f"num_resamples={num_resamples}: need at least 1")


def checked(values: ArrayLike) -> NDArray[np.float64]:
    """Returns the values as an array with at least one axis.

    Raises:
        ValueError: There are no values.
    """
    array = np.asarray(values, np.float64)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"values: need an array with at least 1 value, got shape {array.shape}")
    return array
