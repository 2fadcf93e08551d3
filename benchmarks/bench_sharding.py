"""MAML-TRPO and MAML-PPO in one process with two threads, and on two ranks with one thread each."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator

import torch

from benchmarks.harness import Measurement, benchmark
from research.algorithms import ALGORITHMS
from research.algorithms.gradient.maml_ppo import MAMLPPOConfig
from research.algorithms.gradient.maml_trpo import MAMLTRPOConfig
from research.distributed import join
from research.memory import keep_freed_memory
from research.policies import PolicyConfig

_SIZE = {"meta_batch_size": 20, "episodes_per_task": 20, "horizon": 100, "policy": PolicyConfig((64, 64))}
CONFIGS = {"maml_trpo": MAMLTRPOConfig(**_SIZE), "maml_ppo": MAMLPPOConfig(**_SIZE)}  # type: ignore[arg-type]


def iterate(name: str, num_threads: int, warmup: int, repeats: int) -> None:
    """The program of a rank: the first rank prints the median seconds of an iteration."""
    keep_freed_memory()
    torch.set_num_threads(1)
    ranks = join()
    algorithm = ALGORITHMS[name](dataclasses.replace(CONFIGS[name], num_threads=num_threads), ranks=ranks)  # type: ignore[call-arg]
    state, seconds = algorithm.init(), []
    for _ in range(warmup + repeats):
        state, metrics = algorithm.step(state)
        seconds.append(metrics["time/sample_seconds"] + metrics["time/update_seconds"])
    if ranks.rank == 0:
        sys.stdout.write(json.dumps(statistics.median(seconds[warmup:])))
    ranks.leave()


def seconds(name: str, size: int, num_threads: int) -> float:
    """Returns the median seconds of an iteration with this number of ranks."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    code = f"from benchmarks.bench_sharding import iterate; iterate({name!r}, {num_threads}, 2, 7)"
    processes = []
    for rank in range(size):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{key: str(value) for key, value in place.items()}}
        processes.append(subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE))
    first, *_ = [process.communicate()[0] for process in processes]
    return float(json.loads(first))


@benchmark("sharding")
def sharding() -> Iterator[Measurement]:
    """20 tasks × 20 episodes × 100 steps on navigation_2d, 64×64 tanh."""
    for name in CONFIGS:
        alone = seconds(name, 1, 1)
        threads = seconds(name, 1, 2)
        ranks = seconds(name, 2, 1)
        label = f"sharding/{name}"
        yield Measurement(f"{label}/1_process_1_thread", alone, "s")
        yield Measurement(f"{label}/1_process_2_threads", threads, "s", note=f"{alone / threads:.2f} × 1 thread")
        yield Measurement(f"{label}/2_ranks_1_thread", ranks, "s", note=f"{alone / ranks:.2f} × 1 thread")
