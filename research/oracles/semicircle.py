"""A point that is paid near a goal on the upper half of the unit circle: the fastest ways there, and a simple search.

A step moves the point by at most `step_size` on each axis, so k steps reach a square of half side b = k · step_size.
Its nearest point to an offset (X, Y), X ≥ Y ≥ 0, is at most the radius r away from it if

    b ≥ X − r                                      where X − r ≥ Y, as only the larger axis is missing then
    b ≥ ½ (X + Y − √(2 r² − (X − Y)²))             otherwise
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from research.validation import at_least

Floats = NDArray[np.float64]

_ROUNDING = 1e-9
_ANGLES, _RADII, _FINE = 2000, 21, 1e-3
"""Goals and radii of the sweep that are tried, and the distance of the points that describe its way."""


def steps_to_disc(offset: Floats, step_size: float, radius: float) -> NDArray[np.int64]:
    """Returns the least number of steps to a point within `radius` of a goal at `offset [..., 2]`, `[...]`.

    >>> steps_to_disc(np.array([[1.0, 0.0], [0.6, 0.8], [0.1, 0.1]]), 0.1, 0.21).tolist()
    [8, 6, 0]
    """
    small, large = np.moveaxis(np.sort(np.abs(offset), -1), -1, 0)
    both = (large + small - np.sqrt(np.maximum(2 * radius**2 - (large - small) ** 2, 0))) / 2
    half = np.where(large - radius >= small, large - radius, both)
    return np.ceil(np.maximum(half, 0) / step_size - _ROUNDING).astype(np.int64)


def mean_arrival(step_size: float, radius: float, horizon: int) -> float | None:
    """Returns the mean of `steps_to_disc` from the middle over all goals of the half circle; None beyond the horizon.

    Goals are equally likely, and by symmetry the angle θ is uniform on [0, π/4]. There the steps do not grow with θ,
    so E n = Σ_k P(n > k) = Σ_k θ_k / (π/4), with θ_k the least angle that k steps reach.
    """
    if _least_angle(horizon * step_size, radius) > 0:
        return None
    return sum(_least_angle(k * step_size, radius) for k in range(horizon)) / (np.pi / 4)


@functools.lru_cache(maxsize=32)
def sweep_return(episodes: int, horizon: int, step_size: float, radius: float) -> float:
    """Returns the expected return of a simple search over a trial: a lower bound of the Bayes-optimal one.

    In the first episode the point goes to one end of a half circle, follows it at full speed until it is paid, and
    stays. In the others it goes straight to where it was paid first. The radius of the half circle is the best of a
    few between 1 − radius and 1; the goals are 2000 equally spaced angles.
    """
    at_least(dict(episodes=episodes, horizon=horizon), 1, "episodes", "horizon")
    radii = np.linspace(1 - radius, 1, _RADII)
    return max(_sweep(float(rho), episodes, horizon, step_size, radius) for rho in radii)


def _least_angle(half: float, radius: float) -> float:
    """Returns the least angle in [0, π/4] whose goal is within `radius` of a square with this half side; π/4 if none.

    The goal is (cos θ, sin θ). Where sin θ ≤ half, only cos θ is missing; otherwise the squared distance is
    1 − 2 half (cos θ + sin θ) + 2 half², and cos θ + sin θ = √2 cos(π/4 − θ).
    """
    if half + radius >= 1:
        return 0.0
    angle = np.arccos(half + radius)
    if np.sin(angle) <= half:
        return float(angle)
    if half == 0:
        return float(np.pi / 4)
    cosine = (1 + 2 * half**2 - radius**2) / (2 * np.sqrt(2) * half)
    return float(np.pi / 4 - np.arccos(min(cosine, 1.0)))


def _sweep(rho: float, episodes: int, horizon: int, step_size: float, radius: float) -> float:
    """Returns the mean return of the sweep along a half circle of radius `rho`."""
    angle = (np.arange(_ANGLES) + 0.5) * np.pi / _ANGLES
    goals = np.stack([np.cos(angle), np.sin(angle)], -1)
    way = _way(rho, horizon, step_size, radius)
    paid = np.linalg.norm(way[:, None] - goals, axis=-1) <= radius
    first = np.where(paid.any(0), paid.argmax(0), horizon)
    earned = (horizon - first).mean()
    if episodes == 1:
        return float(earned)
    place = way[np.minimum(first, horizon - 1)]
    steps = np.maximum(np.ceil(np.abs(place).max(-1) / step_size - _ROUNDING), 1)
    share = np.minimum(np.arange(1, horizon + 1)[:, None] / steps, 1.0)
    near = np.linalg.norm(share[..., None] * place - goals, axis=-1) <= radius + _ROUNDING
    return float(earned + (episodes - 1) * near.sum(0).mean())


def _way(rho: float, horizon: int, step_size: float, radius: float) -> Floats:
    """Returns the position after each step of the sweep, `[horizon, 2]`: straight to its first point, then along it.

    It begins and ends at the last points that are within `radius` of the ends of the goals.
    """
    inner = np.arccos(np.clip((rho**2 + 1 - radius**2) / (2 * rho), -1.0, 1.0))
    angle = np.arange(inner, np.pi - inner, _FINE)
    line = rho * np.stack([np.cos(angle), np.sin(angle)], -1)
    count = int(np.ceil(np.abs(line[0]).max() / step_size - _ROUNDING))
    way = [line[0] * step / count for step in range(1, count + 1)]
    index = 0
    while len(way) < horizon:
        ahead = np.abs(line[index : index + int(2 * step_size / (rho * _FINE)) + 1] - line[index]).max(-1)
        index += int(np.flatnonzero(ahead <= step_size)[-1])
        way.append(line[index])
    return np.array(way[:horizon])
