"""Collection of cheetah_vel episodes: steps per second against the bare physics, Gymnasium and EnvPool, and scaling.

The bare physics means the same simulations from the same initial states under the same actions, with only `mj_step` in
a thread per core: no policy, observation or reward. It is called from Python, and from C as in the sampler, which
avoids the cost of Python between two calls. The measurements alternate in one process.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from benchmarks import bench_peers
from benchmarks.harness import Measurement, benchmark
from research import rng
from research.memory import keep_freed_memory
from research.parallel import available_cores
from research.policies import GaussianMLP, PolicyConfig
from research.sampling.collect import collect
from research.sampling.simulations import Simulations, load_robot
from research.tasks.cheetah import CheetahVel
from research.types import Params, Trajectories

TASKS = 20
HORIZON = 100
FRAME_SKIP = 5


def policy_of_each_task(tasks: int = TASKS) -> tuple[GaussianMLP, Params]:
    """Returns a 64×64 policy and different parameters for every task."""
    generator = torch.Generator().manual_seed(0)
    policy = GaussianMLP(17, 6, PolicyConfig(), generator)
    params = {
        name: value.detach() + 0.01 * torch.randn(tasks, *value.shape, generator=generator)
        for name, value in policy.named_parameters()
    }
    return policy, params


def ours(episodes: int, tasks: int = TASKS, num_threads: int = 0) -> Callable[[], tuple[float, Trajectories]]:
    """Returns a function that collects once and returns its duration in seconds and the episodes."""
    distribution = CheetahVel(horizon=HORIZON)
    policy, params = policy_of_each_task(tasks)
    envs = distribution.make_envs(distribution.test_tasks(tasks), episodes)
    return lambda: timed_collect(policy, params, envs, tasks, HORIZON, num_threads)


def gymnasiums(kind: Any, rows: int, horizon: int) -> Iterator[float]:
    """Yields steps per second of a vector environment of Gymnasium under the same policies."""
    policy, params = policy_of_each_task()
    envs = kind([lambda: gymnasium.make("HalfCheetah-v5")] * rows, autoreset_mode=AutoresetMode.NEXT_STEP)
    try:
        while True:
            yield rows * horizon / timed_collect(policy, params, envs, TASKS, horizon)[0]
    finally:
        envs.close()


def timed_collect(
    policy: GaussianMLP, params: Params, envs: Any, tasks: int, horizon: int, num_threads: int = 0
) -> tuple[float, Trajectories]:
    """Returns the duration of one collection in seconds, and the episodes."""
    start = time.perf_counter()
    sampled = collect(policy, params, envs, tasks, horizon, rng.torch_generator(0, "benchmark"), num_threads)
    return time.perf_counter() - start, sampled


class Physics:
    """The same episodes with the bare physics."""

    def __init__(self, rows: int, threads: int):
        self.model = load_robot("half_cheetah.xml").model
        self.data = [mujoco.MjData(self.model) for _ in range(rows)]
        self.control = [data.ctrl for data in self.data]
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)

    def seconds(self, sampled: Trajectories) -> float:
        """Returns the seconds for the sampled steps, from the same initial states under the same actions."""
        start = sampled.observation[:, :, 0].flatten(0, 1).double().numpy()
        actions = sampled.action.flatten(0, 1).transpose(0, 1).double().numpy()
        for data, observation in zip(self.data, start, strict=True):
            mujoco.mj_resetData(self.model, data)
            data.qpos[1:], data.qvel[:] = observation[:8], observation[8:]
        blocks = np.array_split(np.arange(len(self.data)), self.threads)
        begin = time.perf_counter()
        list(self.pool.map(lambda block: self._run(block.tolist(), actions), blocks))
        return time.perf_counter() - begin

    def seconds_in_c(self, sampled: Trajectories) -> float:
        """Returns the same with the simulations of the sampler, called from C."""
        start = sampled.observation[:, :, 0].flatten(0, 1).double().numpy()
        actions = sampled.action.flatten(0, 1).transpose(0, 1).double().contiguous().numpy()
        rows = list(range(len(start)))
        simulations = Simulations(load_robot("half_cheetah.xml"), [self.model] * len(rows), FRAME_SKIP, ("qpos",))
        simulations.num_threads = self.threads
        simulations.reset(rows, np.pad(start[:, :8], ((0, 0), (1, 0))), start[:, 8:])
        begin = time.perf_counter()
        for action in actions:
            simulations.step(rows, action)()
        duration = time.perf_counter() - begin
        simulations.wait()
        return duration

    def _run(self, rows: list[int], actions: NDArray[np.float64]) -> None:
        for action in actions:
            for row in rows:
                self.control[row][:] = action[row]
                mujoco.mj_step(self.model, self.data[row], FRAME_SKIP)


class Rates(NamedTuple):
    """Steps per second, medians over repeats, and median ratios of the collection to each of the others."""

    collecting: float
    physics: float
    in_c: float
    ratio: float
    ratio_in_c: float


def side_by_side(episodes: int, repeats: int, threads: int = 0) -> Rates:
    """Measures collection, and the bare physics called from Python and from C."""
    collecting, physics = ours(episodes, num_threads=threads), Physics(TASKS * episodes, threads or available_cores())
    steps = TASKS * episodes * HORIZON
    rates = []
    for _ in range(repeats + 1):
        duration, sampled = collecting()
        rates.append((steps / duration, steps / physics.seconds(sampled), steps / physics.seconds_in_c(sampled)))
    median = statistics.median
    closed, raw, in_c = zip(*rates[1:], strict=True)
    ratio, ratio_in_c = (median(c / r for c, r in zip(closed, other, strict=True)) for other in (raw, in_c))
    return Rates(median(closed), median(raw), median(in_c), ratio, ratio_in_c)


def prepare() -> None:
    """Sets up the process as for a run."""
    keep_freed_memory()
    torch.set_num_threads(1)


@benchmark("collect/cheetah_vel")
def against_the_physics() -> Iterator[Measurement]:
    """20 tasks × 20 episodes × 100 steps with a 64×64 policy for each task."""
    prepare()
    rates = side_by_side(20, repeats=9)
    threads = available_cores()
    yield Measurement("collect/cheetah_vel", rates.collecting, "steps/s")
    yield Measurement("collect/cheetah_vel/raw", rates.physics, "steps/s", note=f"mj_step alone, {threads} threads")
    yield Measurement("collect/cheetah_vel/share_of_raw", rates.ratio, "", at_least=0.92, note="median over 9 pairs")
    yield Measurement("collect/cheetah_vel/raw_in_c", rates.in_c, "steps/s", note="the same, called from C")
    yield Measurement("collect/cheetah_vel/share_of_raw_in_c", rates.ratio_in_c, "", note="median over 9 pairs")


@benchmark("collect/gymnasium")
def against_gymnasium() -> Iterator[Measurement]:
    """Gymnasium's vector environments in the same closed loop, alternating with ours."""
    prepare()
    for name, kind, rows, horizon, least in (
        ("sync", SyncVectorEnv, 400, 10, 3.0),
        ("async", AsyncVectorEnv, 40, 50, 8.0),
    ):
        theirs, mine, many = gymnasiums(kind, rows, horizon), ours(rows // TASKS), ours(400 // TASKS)
        next(theirs), mine(), many()
        rates = [(next(theirs), rows * HORIZON / mine()[0], 400 * HORIZON / many()[0]) for _ in range(5)]
        theirs.close()  # type: ignore[attr-defined]
        ratio = statistics.median(own / other for other, own, _ in rates)
        yield Measurement(f"collect/gymnasium/{name}", statistics.median(rate for rate, *_ in rates), "steps/s")
        note = f"{rows} rows" + (", a process each" if name == "async" else "")
        yield Measurement(f"collect/gymnasium/ours_over_{name}", ratio, "×", at_least=least, note=note)
        if rows != 400:
            ratio = statistics.median(own / other for other, _, own in rates)
            yield Measurement(
                f"collect/gymnasium/ours_at_400_over_{name}", ratio, "×", note=f"400 rows over its {rows}"
            )


@benchmark("collect/envpool")
def against_envpool() -> Iterator[Measurement]:
    """EnvPool without a policy, its random actions drawn in advance, against ours with a policy for each task."""
    python = bench_peers.interpreter()
    if python is None:
        print(f"collect/envpool: {bench_peers.MISSING}", file=sys.stderr)
        return
    prepare()
    for rows in (40, 400):
        mine, steps = ours(rows // TASKS), rows * HORIZON
        command = ("benchmarks.peers.envpool_cheetah", "--rows", str(rows), "--horizon", str(HORIZON))
        with bench_peers.Worker(python, *command) as theirs:
            mine(), theirs.run(1)
            rates = [(steps / mine()[0], steps / theirs.run(1).seconds[0]) for _ in range(7)]
        own, other = (statistics.median(column) for column in zip(*rates, strict=True))
        ratio = statistics.median(own / other for own, other in rates)
        label = f"collect/envpool/{rows}"
        yield Measurement(label, other, "steps/s", note=f"{rows} rows, without a policy")
        yield Measurement(f"{label}/ours", own, "steps/s", note="with a policy for each task")
        yield Measurement(f"{label}/ours_over_it", ratio, "×", note="median over 7 pairs")


@benchmark("collect/scaling")
def scaling() -> Iterator[Measurement]:
    """Steps per second by number of rows and of threads."""
    prepare()
    for episodes in (1, 2, 5, 20, 80):
        rates = side_by_side(episodes, repeats=9 if episodes == 2 else 3)
        yield Measurement(
            f"collect/scaling/rows={TASKS * episodes}",
            rates.collecting,
            "steps/s",
            note=f"{rates.ratio:.0%} of the bare physics",
        )
        if episodes == 2:
            yield Measurement("collect/scaling/rows=40/share_of_raw", rates.ratio, "", at_least=0.75)
    cores = available_cores()
    for threads in sorted({1, *(2**k for k in range(1, cores.bit_length())), cores}):
        if threads > cores:
            continue
        rates = side_by_side(20, repeats=3, threads=threads)
        yield Measurement(
            f"collect/scaling/threads={threads}",
            rates.collecting,
            "steps/s",
            note=f"{rates.ratio:.0%} of the bare physics on as many threads",
        )
