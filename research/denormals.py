"""Denormal numbers, with which processors compute slowly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """A context in which the calling thread treats denormal floats (below 1.2e-38 in float32) as zero.

    The gradient of a dead unit is zero, and Adam's average of it halves every seven steps: after 800 steps it is
    denormal. Computing with denormals takes many times as long, and half of the units may be dead: Adam then takes
    three times as long. GPUs are not affected. As a decorator it covers every call.
    """
    smallest = torch.full((), torch.finfo(torch.float32).tiny)
    was_flushed = not float(smallest / 2 * 2)
    torch.set_flush_denormal(True)  # has no effect on processors without this mode
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushed)
