"""Student's t distribution for integer degrees of freedom: distribution function and quantiles."""

from __future__ import annotations

import math
from functools import lru_cache


def t_cdf(t: float, freedom: int) -> float:
    """Returns P(T ≤ t), by the finite sums of Abramowitz & Stegun (1964), 26.7.3 and 26.7.4.

    Args:
        t: The argument, any real number.
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
def t_quantile(probability: float, freedom: int) -> float:
    """Returns t with P(T ≤ t) = `probability`, by bisection to floating-point accuracy.

    Args:
        probability: A probability in (0, 1).
        freedom: Degrees of freedom, at least 1.

    Example:
        >>> round(t_quantile(0.975, freedom=4), 3)
        2.776
    """
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2
