"""Weights that can be changed and drawn from in logarithmic time, many at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class SumTree:
    """A binary tree over `size` weights whose every node holds the sum of those below. All weights start at 0."""

    def __init__(self, size: int):
        self._depth = max(1, int(size - 1).bit_length())
        self._first = 1 << self._depth
        self._sums = np.zeros(2 * self._first)

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self._sums[1])

    def get(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """The weights at `index`."""
        return self._sums.take(index + self._first)

    def set(self, index: NDArray[Any], weight: NDArray[np.float64]) -> None:
        """Gives the entries at `index` these weights; of entries named twice, the last."""
        sums, node = self._sums, index + self._first
        sums[node] = weight
        for _ in range(self._depth):
            node = node >> 1
            sums[node] = sums.take(2 * node) + sums.take(2 * node + 1)

    def find(self, mass: NDArray[np.float64]) -> NDArray[np.int64]:
        """For each mass in [0, total) the entry i with Σ_{j<i} w_j ≤ mass < Σ_{j≤i} w_j."""
        sums, node = self._sums, np.ones(len(mass), np.int64)
        for _ in range(self._depth):
            node = 2 * node
            left = sums.take(node)
            right = mass >= left
            mass = mass - left * right
            node = node + right
        return node - self._first
