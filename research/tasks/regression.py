"""What a distribution over regression tasks offers: a batch of tasks, and examples of each."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Examples(NamedTuple):
    """Inputs and targets of a batch of tasks: `inputs [tasks, points, in]`, `targets [tasks, points, out]`."""

    inputs: NDArray[np.float64]
    targets: NDArray[np.float64]


class RegressionDistribution(Protocol):
    """A distribution over functions that share their inputs and outputs.

    A task batch is a NumPy NamedTuple whose every field has a leading `[tasks]` axis; one task is a batch of one.
    """

    @property
    def num_inputs(self) -> int:
        """Size of an input."""

    @property
    def num_outputs(self) -> int:
        """Size of a target."""

    def sample(self, num_tasks: int, rng: np.random.Generator) -> Any:
        """Training tasks, drawn with `rng` alone."""

    def test_tasks(self, num_tasks: int) -> Any:
        """Held-out tasks: always the same ones, none of which training draws."""

    def examples(self, tasks: Any, num_points: int, rng: np.random.Generator) -> Examples:
        """Independent examples of each task, drawn with `rng` alone."""
