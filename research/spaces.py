"""Spaces of observations that say what bounds leave open: a Box from 0 to 1 has states, one-hot, or any numbers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray


class OneHot(gymnasium.spaces.Box):
    """Vectors of zeros with a single 1, whose index is one of `size` states.

    >>> [np.array(vector, np.float32) in OneHot(3) for vector in ([0, 1, 0], [0.5, 0.5, 0], [1, 1, 0])]
    [True, False, False]

    Args:
        size: Number of states.
        seed: Seed of `sample`.
    """

    def __init__(self, size: int, seed: int | np.random.Generator | None = None):
        super().__init__(0.0, 1.0, (size,), np.float32, seed)

    def sample(self, mask: None = None, probability: None = None) -> NDArray[Any]:
        """Returns a random one of the vectors, float32."""
        return np.eye(1, len(self.low), int(self.np_random.integers(len(self.low))), np.float32)[0]

    def contains(self, x: Any) -> bool:
        """Returns whether `x` is one of the vectors."""
        return super().contains(x) and np.count_nonzero(x) == 1 and bool(np.max(x) == 1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OneHot) and self.shape == other.shape

    def __repr__(self) -> str:
        return f"OneHot({len(self.low)})"


def is_constant(observations: gymnasium.spaces.Box) -> bool:
    """Returns whether all observations are equal, so that there is nothing to predict."""
    return bool((observations.low == observations.high).all())
