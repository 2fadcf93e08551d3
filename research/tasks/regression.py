"""Interface of distributions over regression tasks: a batch of tasks, and examples of each."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Examples(NamedTuple):
    """Examples of a batch of tasks: `inputs [tasks, points, num_inputs]` and `targets [tasks, points, num_outputs]`."""

    inputs: NDArray[np.float64]
    targets: NDArray[np.float64]


class RegressionDistribution(Protocol):
    """A distribution over functions with the same sizes of inputs and outputs.

    A task batch is a NumPy NamedTuple whose every field has a leading `[tasks]` axis; one task is a batch of one.
    """

    @property
    def num_inputs(self) -> int:
        """Number of entries of an input."""

    @property
    def num_outputs(self) -> int:
        """Number of entries of a target."""

    def sample(self, num_tasks: int, rng: np.random.Generator) -> Any:
        """Draws a batch of training tasks. All randomness comes from `rng`."""

    def test_tasks(self, num_tasks: int) -> Any:
        """Returns the first `num_tasks` evaluation tasks of one fixed sequence, which training never draws."""

    def examples(self, tasks: Any, num_points: int, rng: np.random.Generator) -> Examples:
        """Draws `num_points` independent examples of each task. All randomness comes from `rng`."""
