"""Sum tree: changes of weights, and draws in proportion to them, in logarithmic time and many at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class SumTree:
    """Binary tree over `size` weights whose nodes are the sums of the weights below. All weights start at 0."""

    def __init__(self, size: int):
        self._depth = max(1, int(size - 1).bit_length())
        self._first = 1 << self._depth
        self._sums = np.zeros(2 * self._first)

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._sums[1])

    def get(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns the weights of the entries `index`, in the shape of `index`."""
        return self._sums.take(index + self._first)

    def set(self, index: NDArray[Any], weight: NDArray[np.float64]) -> None:
        """Sets the weights of the entries `index`; an entry that occurs twice gets its last weight."""
        sums, node = self._sums, index + self._first
        sums[node] = weight
        for _ in range(self._depth):
            node = node >> 1
            sums[node] = sums.take(2 * node) + sums.take(2 * node + 1)

    def find(self, mass: NDArray[np.float64]) -> NDArray[np.int64]:
        """Returns for each mass in [0, total) the entry i with Σ_{j<i} w_j ≤ mass < Σ_{j≤i} w_j, `[masses]`."""
        sums, node = self._sums, np.ones(len(mass), np.int64)
        for _ in range(self._depth):
            node = 2 * node
            left = sums.take(node)
            right = mass >= left
            mass = mass - left * right
            node = node + right
        return node - self._first
