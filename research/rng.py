"""Random generators that are pure functions of (seed, stream, index...), so that no generator state is ever stored.

A run that is stopped after iteration i and resumed draws the same numbers in iteration i + 1 as one that is not.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def _entropy(seed: int, stream: str, index: tuple[int, ...]) -> np.random.SeedSequence:
    if seed < 0:
        raise ValueError(f"seed={seed}: need an integer of at least 0")
    # The length keeps (3,) and (3, 0) apart, which SeedSequence itself does not.
    return np.random.SeedSequence([seed, zlib.crc32(stream.encode()), len(index), *index])


def generator(seed: int, stream: str, *index: int) -> np.random.Generator:
    """Returns a NumPy generator that depends only on the arguments.

    Args:
        seed: The seed of the run, at least 0.
        stream: Name of the quantity that is drawn, e.g. `"tasks"` or `"policy"`. Streams are independent.
        index: Position in the stream, e.g. the iteration and the inner step. Positions are independent.

    >>> float(generator(3, "tasks", 7).random()) == float(generator(3, "tasks", 7).random())
    True
    """
    return np.random.Generator(np.random.PCG64(_entropy(seed, stream, index)))


def torch_generator(seed: int, stream: str, *index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a torch generator on `device` that depends only on the other arguments. See `generator`."""
    import torch  # here: not all that draws tasks needs it, and it takes seconds

    state = int(_entropy(seed, stream, index).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device=device).manual_seed(state)


class Rows(NamedTuple):
    """The position of some rows in a larger batch, whose random numbers they draw.

    Attributes:
        number: Index of each row in the larger batch, `[rows]`.
        total: Number of rows in the larger batch.
    """

    number: NDArray[np.intp]
    total: int


def rows_of(options: Mapping[str, Any] | None, num_rows: int) -> Rows:
    """Returns `options["rows"]` of the reset of a vector environment; without it, the rows are the whole batch."""
    return (options or {}).get("rows") or Rows(np.arange(num_rows), num_rows)
