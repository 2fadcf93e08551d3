"""Numbers too small for a processor's fast path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Within, the calling thread takes for zero what lies below the smallest normal float (1.2e-38 in float32).

    The gradient of a unit that has died is zero, and Adam's average of it halves every seven steps: after 800 steps it
    is denormal, and stays so. Processors need many times as long for such numbers, and half the units may be dead: Adam
    then takes three times as long. Not on a GPU, where it makes no difference. As a decorator it covers every call.
    """
    smallest = torch.full((), torch.finfo(torch.float32).tiny)
    was_flushed = not float(smallest / 2 * 2)
    torch.set_flush_denormal(True)  # False where the processor cannot: then nothing changes
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushed)
