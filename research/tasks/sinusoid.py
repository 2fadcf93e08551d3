"""Sinusoid regression: sine waves that differ in amplitude and phase, to be learned from a few points.

y = A sin(x − φ), with A uniform in [0.1, 5], φ in [0, π] and x in [−5, 5], without noise.
(Finn et al. 2017, arXiv:1703.03400, section 5.1. The sign of φ is that of the authors' code.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.rng import generator
from research.tasks.base import DRAWN, Examples, RegressionDistribution, Split


class SinusoidTasks(NamedTuple):
    """Sine waves: `amplitude [tasks]`, `phase [tasks]` in radians."""

    amplitude: NDArray[np.float64]
    phase: NDArray[np.float64]


@dataclass(frozen=True)
class Sinusoid(RegressionDistribution):
    """The task distribution.

    Attributes:
        amplitude_range: (low, high); amplitudes are uniform in this range.
        phase_range: (low, high); phases are uniform in this range, in radians.
        input_range: (low, high); inputs are uniform in this range.
    """

    amplitude_range: tuple[float, float] = (0.1, 5.0)
    phase_range: tuple[float, float] = (0.0, math.pi)
    input_range: tuple[float, float] = (-5.0, 5.0)

    def __post_init__(self) -> None:
        for name in ("amplitude_range", "phase_range", "input_range"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not bounds[0] < bounds[1]:
                raise ValueError(f"{name}={bounds}: need two numbers, the lower one first")

    @property
    def num_inputs(self) -> int:
        return 1

    @property
    def num_outputs(self) -> int:
        return 1

    def sample(self, num_tasks: int, rng: np.random.Generator) -> SinusoidTasks:
        return SinusoidTasks(rng.uniform(*self.amplitude_range, num_tasks), rng.uniform(*self.phase_range, num_tasks))

    @property
    def split(self) -> Split:
        return DRAWN

    def test_tasks(self, num_tasks: int) -> SinusoidTasks:
        return self._sequence(num_tasks, "sinusoid/test")

    def validation_tasks(self, num_tasks: int) -> SinusoidTasks:
        return self._sequence(num_tasks, "sinusoid/validation")

    def _sequence(self, num_tasks: int, stream: str) -> SinusoidTasks:
        draws = generator(0, stream).random((num_tasks, 2))
        low = np.array([self.amplitude_range[0], self.phase_range[0]])
        high = np.array([self.amplitude_range[1], self.phase_range[1]])
        amplitude, phase = (low + (high - low) * draws).T
        return SinusoidTasks(amplitude, phase)

    def examples(self, tasks: SinusoidTasks, num_points: int, rng: np.random.Generator) -> Examples:
        inputs = rng.uniform(*self.input_range, (len(tasks.amplitude), num_points, 1))
        return Examples(inputs, self.values(tasks, inputs))

    def values(self, tasks: SinusoidTasks, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns A sin(x − φ) for inputs `[tasks, points, 1]`, in the same shape."""
        amplitude, phase = (field[:, None, None] for field in tasks)
        return np.asarray(amplitude * np.sin(inputs - phase))
