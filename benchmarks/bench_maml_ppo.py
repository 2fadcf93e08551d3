"""ProMP on navigation and half-cheetahs: an update against the matrix products that it needs, and against autograd."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from unittest import mock

import torch

from benchmarks.harness import Measurement, benchmark
from research.algorithms.gradient import maml_ppo
from research.memory import keep_freed_memory
from research.policies import PolicyConfig

TASKS, EPISODES, HORIZON, HIDDEN = 20, 20, 100, (64, 64)


def processor_seconds(function: Callable[[], object], repeats: int) -> float:
    """Returns the median processor time of a call, after a first one."""
    durations = []
    for _ in range(repeats + 1):
        start = time.process_time()
        function()
        durations.append(time.process_time() - start)
    return statistics.median(durations[1:])


def arithmetic(sizes: tuple[int, ...], rows: int) -> float:
    """Returns the floating-point operations of the products of a meta-gradient through one inner step of one task.

    Two forward and two backward passes, and the tangents and the second backward pass of a Hessian product: six
    products for each weight matrix, and six more for each but the first, whose inputs need no derivative.
    """
    products = [fan_in * fan_out for fan_in, fan_out in itertools.pairwise(sizes)]
    return 2.0 * rows * (6 * sum(products) + 6 * sum(products[1:]))


def products_per_second() -> float:
    """Returns the floating-point operations per second of the largest products of an update, by torch on one core."""
    rows, weight = torch.randn(EPISODES * HORIZON, HIDDEN[0]), torch.randn(HIDDEN)

    def multiply() -> None:
        for _ in range(100):
            torch.mm(rows, weight)

    return 200.0 * rows.numel() * HIDDEN[1] / processor_seconds(multiply, repeats=5)


def updates(task: str) -> Iterator[Measurement]:
    """Measures the update of an iteration, on one thread, with the episodes at hand."""
    name = f"maml_ppo/{task}/{TASKS}x{EPISODES}x{HORIZON}"
    keep_freed_memory()
    torch.set_num_threads(1)
    config = maml_ppo.MAMLPPOConfig(
        estimator="lvc",
        task=task,
        num_threads=1,
        policy=PolicyConfig(HIDDEN),
        meta_batch_size=TASKS,
        episodes_per_task=EPISODES,
        horizon=HORIZON,
    )
    algorithm = maml_ppo.MAMLPPO(config)
    state = algorithm.init()
    sampled = algorithm.agent.sample(state.meta, 0)
    with mock.patch.object(algorithm.agent, "sample", return_value=sampled):
        duration = processor_seconds(lambda: algorithm.step(state), repeats=3)
        with mock.patch.object(maml_ppo, "network_for", return_value=None):
            recorded = processor_seconds(lambda: algorithm.step(state), repeats=3)
    sizes = (sampled.query.observation.shape[-1], *HIDDEN, sampled.query.action.shape[-1])
    operations = config.num_epochs * TASKS * arithmetic(sizes, EPISODES * HORIZON)
    ratio = duration * products_per_second() / operations
    yield Measurement(f"{name}/update", duration, "CPU s", note=f"{operations / 1e9:.1f} GFLOP of matrix products")
    yield Measurement(f"{name}/update_by_products", ratio, "×", at_most=4.0, note="the same products by torch.mm")
    yield Measurement(f"{name}/update_by_autograd", recorded, "CPU s", note=f"{recorded / duration:.2f} × compiled")


@benchmark("maml_ppo/cheetah_vel/20x20x100")
def cheetahs() -> Iterator[Measurement]:
    """ProMP on half-cheetahs, 5 epochs."""
    yield from updates("cheetah_vel")


@benchmark("maml_ppo/navigation_2d/20x20x100")
def navigation() -> Iterator[Measurement]:
    """ProMP on navigation, 5 epochs."""
    yield from updates("navigation_2d")
