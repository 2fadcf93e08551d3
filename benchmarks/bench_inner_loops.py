"""Inner loops: a meta-gradient through one step by backend and size of a batch, and a meta-update on sinusoids."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch

from benchmarks.harness import Measurement, benchmark, median_seconds
from research.algorithms.regression.maml import MAMLRegression, MAMLRegressionConfig
from research.inner_loops import INNER_LOOPS, InnerLoopConfig, make_inner_loop
from research.losses import ExampleBatch, squared_error
from research.memory import keep_freed_memory
from research.policies.mlp import mlp
from research.types import MetaParams

TASKS = 40
ROWS = (10, 50, 200, 1000, 2000)
AT_MOST = {10: 0.003, 200: 0.020, 2000: 0.170}
"""Aims of the backend `func` on the CPU, in seconds by rows."""


def meta_gradient(backend: str, rows: int, device: str = "cpu") -> Callable[[], object]:
    """Returns a function that computes a second-order meta-gradient of `TASKS` regression tasks, 64×64 tanh units."""
    generator = torch.Generator().manual_seed(0)
    model = mlp((8, 64, 64, 2), "tanh", generator).to(device)
    inputs = torch.randn(TASKS, rows, 8, generator=generator).to(device)
    targets = torch.randn(TASKS, rows, 2, generator=generator).to(device)
    inner_loop = make_inner_loop(backend, InnerLoopConfig(inner_lr=0.1), probe=False)
    params = {name: value.detach() for name, value in model.named_parameters()}
    meta, batch = MetaParams(params, inner_loop.init_update(model, params, 1)), ExampleBatch(inputs, targets)
    return functools.partial(inner_loop.meta_gradient, model, meta, squared_error, [batch], batch)


@benchmark("inner_loops/meta_gradient")
def by_backend_and_size() -> Iterator[Measurement]:
    """Every backend at every size, with the ratio to `func`."""
    keep_freed_memory()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        for rows in ROWS:
            reference = None
            for backend in INNER_LOOPS:
                duration = median_seconds(meta_gradient(backend, rows, device), warmup=2, repeats=9)
                reference = reference or duration
                name = f"inner_loops/meta_gradient/{device}/{TASKS}x{rows}/{backend}"
                limit = AT_MOST.get(rows) if (backend, device) == ("func", "cpu") else None
                yield Measurement(name, duration, "s", at_most=limit, note=f"{duration / reference:.2f} × func")


@benchmark("inner_loops/sinusoid")
def sinusoid() -> Iterator[Measurement]:
    """A meta-update of MAML on sinusoids: 25 tasks, 5 + 10 points, 2 inner steps, 40×40 units; one thread."""
    torch.set_num_threads(1)
    config = MAMLRegressionConfig()
    algorithm = MAMLRegression(config)
    state = algorithm.init()
    duration = median_seconds(lambda: algorithm.step(state), warmup=1, repeats=5) / config.updates_per_iteration
    yield Measurement("inner_loops/sinusoid/meta_update", 1e3 * duration, "ms", at_most=1.2)
