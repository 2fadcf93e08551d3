"""Overhead of Lookahead: the time of a whole cycle relative to as many steps of the base optimiser alone."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.harness import Measurement, benchmark
from research.optim import Lookahead

PARAMETERS = 1_000_000
CYCLES = 60
K = 5
BASES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": functools.partial(torch.optim.SGD, lr=1e-3),
    "sgd_fused": functools.partial(torch.optim.SGD, lr=1e-3, fused=True),
    "momentum": functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
    "adam": functools.partial(torch.optim.Adam, lr=1e-3),
    "adam_foreach": functools.partial(torch.optim.Adam, lr=1e-3, foreach=True),
    "adam_fused": functools.partial(torch.optim.Adam, lr=1e-3, fused=True),
}


def parameters(device: str) -> list[nn.Parameter]:
    """Returns a million parameters, matrices and biases as in a network, with gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [shape for _ in range(4) for shape in ((500, 499), (500,))]
    made = []
    for shape in shapes:
        param = nn.Parameter(torch.randn(shape, generator=generator).to(device))
        param.grad = torch.randn(shape, generator=generator).to(device)
        made.append(param)
    assert sum(param.numel() for param in made) == PARAMETERS
    return made


def seconds_of_a_cycle(optimizer: Any, device: str) -> float:
    """Returns the seconds of K steps: processor time on a CPU, which other processes affect little; else wall time."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    for _ in range(K):
        optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def overhead(make: Callable[..., torch.optim.Optimizer], device: str) -> tuple[float, float]:
    """Returns the relative overhead of Lookahead over a cycle, and the seconds of a cycle without it.

    Both alternate, each on its own tensors, so that a busy machine slows both; the overhead is the median ratio.
    """
    alone, with_it = make(parameters(device)), Lookahead(make(parameters(device)), K)
    pairs = [(seconds_of_a_cycle(alone, device), seconds_of_a_cycle(with_it, device)) for _ in range(CYCLES)][5:]
    return statistics.median(b / a for a, b in pairs) - 1, statistics.median(a for a, _ in pairs)


@benchmark("lookahead/overhead")
def relative_overhead() -> Iterator[Measurement]:
    """The overhead for every base optimiser on every device."""
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        for name, make in BASES.items():
            relative, cycle = overhead(make, device)
            note = f"{1e6 * cycle / K:.0f} µs per step of the base"
            metric = f"lookahead/overhead/{device}/{name}"
            yield Measurement(metric, 100 * relative, "%", at_most=5.0, note=note)
