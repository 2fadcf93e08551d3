"""MAML-TRPO on navigation and half-cheetahs: seconds per iteration and their parts, and memory."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.harness import Measurement, benchmark, peak_memory_mib
from research.algorithms.gradient.maml_trpo import MAMLTRPO, MAMLTRPOConfig
from research.memory import keep_freed_memory
from research.policies import PolicyConfig
from research.types import Metrics

BASE = MAMLTRPOConfig(meta_batch_size=20, episodes_per_task=20, horizon=100, policy=PolicyConfig((64, 64)))

# Seconds per iteration of the fastest public implementation, pytorch-maml-rl, on two cores of the same kind, measured
# once in a separate environment: it does not run in this one.
PEER_SECONDS = 4.73


def iterate(warmup: int, repeats: int, **changes: Any) -> list[Metrics]:
    """Returns the metrics of `repeats` iterations after a warm-up."""
    keep_freed_memory()
    torch.set_num_threads(1)  # as in a run: the cores work on tasks
    changes["policy"] = PolicyConfig(tuple(changes.pop("hidden_sizes", BASE.policy.hidden_sizes)))
    algorithm = MAMLTRPO(dataclasses.replace(BASE, **changes))
    state, metrics = algorithm.init(), []
    for _ in range(warmup + repeats):
        state, measured = algorithm.step(state)
        metrics.append(measured)
    return metrics[warmup:]


def peak_memory(changes: dict[str, Any]) -> None:
    """Runs three iterations, for the peak memory."""
    iterate(0, 3, **changes)


def median(metrics: list[Metrics], *names: str) -> float:
    """Returns the median over iterations of a sum of metrics."""
    return statistics.median(sum(iteration[name] for name in names) for iteration in metrics)


def total(metrics: list[Metrics]) -> float:
    """Returns the median duration of an iteration in seconds."""
    return median(metrics, "time/sample_seconds", "time/update_seconds")


@benchmark("maml_trpo/navigation_2d/20x20x100")
def iteration() -> Iterator[Measurement]:
    """20 tasks × 20 episodes × 100 steps, 64×64 tanh, second order, 10 CG iterations."""
    name = "maml_trpo/navigation_2d/20x20x100"
    metrics = iterate(3, 15)
    duration = total(metrics)
    note = f"{PEER_SECONDS / duration:.1f} × pytorch-maml-rl ({PEER_SECONDS} s, recorded)"
    yield Measurement(name, duration, "s", at_most=0.6, note=note)
    yield Measurement(f"{name}/sample", median(metrics, "time/sample_seconds"), "s")
    yield Measurement(f"{name}/update", median(metrics, "time/update_seconds"), "s")
    yield Measurement(f"{name}/collect", median(metrics, "time/env_steps_per_second"), "steps/s", at_least=400_000)
    memory = peak_memory_mib("benchmarks.bench_maml_trpo:peak_memory", {})
    yield Measurement(f"{name}/peak_memory", memory, "MiB", at_most=450)


# Seconds per iteration of the fastest public implementation of each on two cores of the same kind, measured once.
CHEETAH_PEER_SECONDS = {20: 7.49, 40: 15.8}


def cheetahs(tasks: int, at_most: float) -> Iterator[Measurement]:
    """Measures HalfCheetah velocity: 20 episodes × 100 steps per task, 64×64 tanh, second order, 10 CG iterations."""
    name = f"maml_trpo/cheetah_vel/{tasks}x20x100"
    changes = {"task": "cheetah_vel", "meta_batch_size": tasks, "inner_lr": 0.1}
    metrics = iterate(2, 5, **changes)
    duration = total(metrics)
    peer = CHEETAH_PEER_SECONDS[tasks]
    note = f"{peer / duration:.1f} × the fastest public implementation ({peer} s, recorded)"
    yield Measurement(name, duration, "s", at_most=at_most, note=note)
    yield Measurement(f"{name}/sample", median(metrics, "time/sample_seconds"), "s")
    yield Measurement(f"{name}/update", median(metrics, "time/update_seconds"), "s")
    yield Measurement(f"{name}/collect", median(metrics, "time/env_steps_per_second"), "steps/s")
    memory = peak_memory_mib("benchmarks.bench_maml_trpo:peak_memory", changes)
    yield Measurement(f"{name}/peak_memory", memory, "MiB", at_most=1024)


@benchmark("maml_trpo/cheetah_vel/20x20x100")
def cheetahs_20() -> Iterator[Measurement]:
    """HalfCheetah velocity with 20 tasks."""
    yield from cheetahs(20, at_most=1.65)


@benchmark("maml_trpo/cheetah_vel/40x20x100")
def cheetahs_40() -> Iterator[Measurement]:
    """HalfCheetah velocity with 40 tasks."""
    yield from cheetahs(40, at_most=3.3)


@benchmark("maml_trpo/backends")
def backends() -> Iterator[Measurement]:
    """The same iteration with each inner loop."""
    fastest = None
    for backend in ("func", "higher", "learn2learn"):
        duration = total(iterate(1, 5, inner_loop=backend))
        fastest = fastest or duration
        yield Measurement(f"maml_trpo/backends/{backend}", duration, "s", note=f"{duration / fastest:.2f} × func")
