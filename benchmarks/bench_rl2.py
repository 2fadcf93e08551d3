"""RL²: collection, update and memory; the GRU compared with a plain loop and with the peak rate of the processor."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Measurement, benchmark, peak_memory_mib
from research.algorithms.memory.config import RL2Config
from research.algorithms.memory.rl2 import RL2
from research.memory import keep_freed_memory
from research.parallel import available_cores
from research.policies.gru_kernel import GRUWeights, gru
from research.policies.memory import MemoryConfig
from research.rng import torch_generator
from research.sampling.trials import collect_trials
from research.types import Metrics

BASE = RL2Config(task="bandit", episodes_per_trial=100, meta_batch_size=1000)
ROWS, TIME, FEATURES, SIZE = 256, 100, 8, 64


def iterate(warmup: int, repeats: int, **changes: Any) -> list[Metrics]:
    """Returns the metrics of `repeats` iterations after a warm-up, and "cores": processor time over wall time."""
    keep_freed_memory()
    torch.set_num_threads(1)  # as in a run: the cores work on trials
    algorithm = RL2(dataclasses.replace(BASE, **changes))
    state, metrics = algorithm.init(), []
    for _ in range(warmup + repeats):
        start = time.perf_counter(), time.process_time()
        state, measured = algorithm.step(state)
        seconds = time.perf_counter() - start[0]
        metrics.append(measured | {"seconds": seconds, "cores": (time.process_time() - start[1]) / seconds})
    return metrics[warmup:]


def peak_memory(changes: dict[str, Any]) -> None:
    """Runs two iterations, for the peak memory."""
    iterate(0, 2, **changes)


def median(metrics: list[Metrics], name: str) -> float:
    """Returns the median over iterations."""
    return statistics.median(iteration[name] for iteration in metrics)


@benchmark("rl2/bandit/1000x100")
def iteration() -> Iterator[Measurement]:
    """1,000 trials of 100 pulls, 64 units, 3 epochs of 4 minibatches, on all cores."""
    least = 420_000 if available_cores() == 1 else 780_000
    yield from _rates("rl2/bandit/1000x100", iterate(1, 5), collect=300_000, update_rows=least)


@benchmark("rl2/bandit/400x100")
def small_minibatches() -> Iterator[Measurement]:
    """The start of `bandit_k5_n100`: 400 trials in 8 minibatches, embeddings of the last action."""
    metrics = iterate(1, 5, meta_batch_size=400, num_minibatches=8, policy=MemoryConfig(outer_input=True))
    yield from _rates("rl2/bandit/400x100", metrics)


def _rates(name: str, metrics: list[Metrics], **at_least: float) -> Iterator[Measurement]:
    update, steps = median(metrics, "time/update_seconds"), median(metrics, "env_steps")
    note = f"{median(metrics, 'cores'):.2f} cores used of {available_cores()}"
    collected, updated = median(metrics, "time/env_steps_per_second"), steps * BASE.num_epochs / update
    yield Measurement(f"{name}/iteration", median(metrics, "seconds"), "s", note=note)
    yield Measurement(f"{name}/collect", collected, "steps/s", at_least=at_least.get("collect"))
    yield Measurement(f"{name}/update", update, "s")
    yield Measurement(f"{name}/update_rows", updated, "rows/s", at_least=at_least.get("update_rows"))


@benchmark("rl2/collect/2500x100")
def collection() -> Iterator[Measurement]:
    """Time of one core for environment and records of 2,500 rows, relative to the steps of the network."""
    keep_freed_memory()
    torch.set_num_threads(1)
    algorithm = RL2(dataclasses.replace(BASE, meta_batch_size=2500, num_threads=1))
    state, policy = algorithm.init(), algorithm.agent.policy
    inputs = policy.encode(
        torch.zeros(2500, 1), torch.zeros(2500, 1), policy.first_action(2500), torch.zeros(2500), torch.zeros(2500)
    )
    start = policy.initial_state(2500)
    distribution, pulls = algorithm.agent.tasks, BASE.episodes_per_trial
    envs = distribution.make_envs(distribution.test_tasks(2500), 1)
    draws = torch_generator(0, "bench")
    with torch.no_grad():
        network = processor_seconds(lambda: [policy.act(inputs, start) for _ in range(pulls)])
    whole = processor_seconds(lambda: collect_trials(policy, state.meta.model, envs, 2500, pulls, 1, draws))
    rest, note = whole - network, f"{whole / network - 1:.2f} × the network"
    yield Measurement("rl2/collect/2500x100/network", network, "s")
    yield Measurement("rl2/collect/2500x100/rest", rest, "s", at_most=network, note=note)


def processor_seconds(function: Callable[[], object]) -> float:
    """Returns the least processor time of five calls, which suits a sum of parts on a shared machine."""
    durations = []
    for _ in range(5):
        begin = time.process_time()
        function()
        durations.append(time.process_time() - begin)
    return min(durations)


def _cell_loop(inputs: Tensor, cell: nn.GRUCell) -> Tensor:
    state, states = inputs.new_zeros(inputs.shape[1], cell.hidden_size), []
    for own in inputs:
        state = cell(own, state)
        states.append(state)
    return torch.stack(states)


@benchmark("rl2/gru/256x100x64")
def sequence() -> Iterator[Measurement]:
    """Forward and backward over 256 trials of 100 steps on one core."""
    keep_freed_memory()
    torch.set_num_threads(1)
    inputs, cell = torch.randn(TIME, ROWS, FEATURES), nn.GRUCell(FEATURES, SIZE)
    start, bias = torch.zeros(ROWS, SIZE), torch.zeros(SIZE, requires_grad=True)

    def ours() -> None:
        weights = GRUWeights(cell.weight_ih, cell.bias_ih, cell.weight_hh, bias)
        gru(inputs, None, None, start, weights).square().sum().backward()

    def loop() -> None:
        _cell_loop(inputs, cell).square().sum().backward()

    def native() -> None:
        weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
        torch.gru(inputs, start[None], weights, True, 1, 0.0, False, False, False)[0].square().sum().backward()

    seconds = {
        key: processor_seconds(function) for key, function in {"ours": ours, "loop": loop, "torch.gru": native}.items()
    }
    rows = ROWS * TIME
    name = "rl2/gru/256x100x64"
    ratios = {key: value / seconds["ours"] for key, value in seconds.items()}
    note = f"{ratios['loop']:.2f} × a loop over nn.GRUCell, {ratios['torch.gru']:.2f} × torch.gru"
    yield Measurement(f"{name}/rows", rows / seconds["ours"], "rows/s", at_least=300_000, note=note)
    work = 3 * 2 * rows * SIZE * 3 * SIZE + 2 * 2 * rows * FEATURES * 3 * SIZE  # inputs need no gradient
    square = torch.randn(1024, 1024)
    peak = 2 * 1024**3 / processor_seconds(lambda: square @ square)
    yield Measurement(f"{name}/peak_share", work / seconds["ours"] / peak, "of peak", note=f"{peak / 1e9:.0f} GFLOP/s")


@benchmark("rl2/peak_memory/2500x100")
def memory() -> Iterator[Measurement]:
    """Peak memory of a process with 2,500 trials of 100 pulls."""
    used = peak_memory_mib("benchmarks.bench_rl2:peak_memory", {"meta_batch_size": 2500})
    yield Measurement("rl2/peak_memory/2500x100", used, "MiB", at_most=2048)
