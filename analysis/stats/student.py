"""Student's t distribution, for whole degrees of freedom: what intervals of few values need of it."""

from __future__ import annotations

import math
from functools import lru_cache


def t_cdf(t: float, freedom: int) -> float:
    """P(T ≤ t), by the finite sums of Abramowitz & Stegun (1964), 26.7.3 and 26.7.4.

    Args:
        t: Any number.
        freedom: Degrees of freedom, at least 1.

    Example:
        >>> t_cdf(0.0, freedom=4)
        0.5
    """
    angle = math.atan2(abs(t), math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 * (1 + math.copysign(inside, t))


@lru_cache
def t_quantile(share: float, freedom: int) -> float:
    """The t below which `share` of the distribution lies, by bisection to the last bits.

    Args:
        share: Between 0 and 1, both excluded.
        freedom: Degrees of freedom, at least 1.

    Example:
        >>> round(t_quantile(0.975, freedom=4), 3)
        2.776
    """
    if share < 0.5:
        return -t_quantile(1 - share, freedom)
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < share:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < share else (low, middle)
    return (low + high) / 2
