"""Every random draw is a pure function of (seed, stream, index...), so no generator state is ever stored.

A run that is stopped after iteration i and resumed draws at iteration i + 1 exactly what it would have drawn.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray


def _entropy(seed: int, stream: str, index: tuple[int, ...]) -> np.random.SeedSequence:
    if seed < 0:
        raise ValueError(f"seed={seed}: need an integer of at least 0")
    # The length keeps (3,) and (3, 0) apart, which SeedSequence itself does not.
    return np.random.SeedSequence([seed, zlib.crc32(stream.encode()), len(index), *index])


def generator(seed: int, stream: str, *index: int) -> np.random.Generator:
    """A NumPy generator that depends on its arguments alone.

    Args:
        seed: The run's seed, at least 0.
        stream: What is drawn, e.g. `"tasks"` or `"policy"`: streams are independent of each other.
        index: Where it is drawn, e.g. the iteration and the inner step.
    """
    return np.random.Generator(np.random.PCG64(_entropy(seed, stream, index)))


def torch_generator(seed: int, stream: str, *index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device` that depends on its arguments alone. See `generator`."""
    state = int(_entropy(seed, stream, index).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device=device).manual_seed(state)


class Rows(NamedTuple):
    """Which rows of a larger batch some rows are. They draw what those draw.

    Attributes:
        number: `[rows]`, of each in the larger batch.
        total: How many that one has.
    """

    number: NDArray[np.intp]
    total: int


def rows_of(options: Mapping[str, Any] | None, num_rows: int) -> Rows:
    """The `options["rows"]` of a vector environment's reset; if it has none, its rows are the batch."""
    return (options or {}).get("rows") or Rows(np.arange(num_rows), num_rows)
