"""Our iterations and their twins in JAX, in turns on the same cores: seconds, ratio, cores used and peak memory.

Each runs in a process of its own, which waits while the other one has its turn. The twins need another environment,
which `make peers` makes; `METAPOLICY_PEERS_PYTHON` names another interpreter. A record of a small iteration of ours in
float64 first shows that the twin computes the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import ROOT, Measurement, benchmark
from benchmarks.peers.blocks import Block

PYTHON = "METAPOLICY_PEERS_PYTHON"
MISSING = f"need another environment: `make peers` makes it in .venv-peers, or {PYTHON} names its interpreter"


def interpreter() -> str | None:
    """Returns the interpreter that has JAX; None if there is no such environment."""
    chosen = os.environ.get(PYTHON)
    if chosen:
        return chosen
    made = ROOT / ".venv-peers" / "bin" / "python"
    return str(made) if made.exists() else None


class Worker:
    """A process that runs iterations in blocks, see `benchmarks.peers.blocks`. Leaving the context ends it.

    Args:
        command: Its interpreter, and the arguments after `-m`.
        environment: Variables in addition to those of this process.
    """

    def __init__(self, *command: str, environment: dict[str, str] | None = None):
        python, *arguments = command
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [python, "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=pipe,
            stdout=pipe,
            encoding="utf-8",
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def run(self, iterations: int) -> Block:
        """Returns the measurement of so many iterations.

        Raises:
            RuntimeError: The process ended; its own message stands above.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{iterations}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{' '.join(map(str, self._process.args))} ended; its message stands above")  # type: ignore[arg-type]
        return Block(**json.loads(answer))


class Pairs(NamedTuple):
    """Blocks of two processes in turns, without the warm-up, in the order of the turns."""

    ours: list[Block]
    theirs: list[Block]

    def ratio(self, column: str) -> float:
        """Returns the median over pairs of blocks of their seconds over ours."""
        medians = ([statistics.median(getattr(block, column)) for block in side] for side in self)
        return statistics.median(theirs / ours for ours, theirs in zip(*medians, strict=True))


def in_turns(ours: Worker, theirs: Worker, warmup: int, iterations: int, turns: int) -> Pairs:
    """Returns blocks of `iterations` iterations; the one that begins changes with each turn."""
    pairs = Pairs([], [])
    ours.run(warmup), theirs.run(warmup)
    for turn in range(turns):
        order = ((ours, pairs.ours), (theirs, pairs.theirs))
        for worker, blocks in order if turn % 2 == 0 else reversed(order):
            blocks.append(worker.run(iterations))
    return pairs


def differences(name: str, python: str) -> dict[str, float]:
    """Returns the relative differences between a small iteration of ours and the twin's, both in float64."""
    with tempfile.TemporaryDirectory() as directory:
        record = Path(directory) / "record.npz"
        ours = [sys.executable, "-m", "benchmarks.peers.ours", name, "--record", str(record)]
        subprocess.run(ours, cwd=ROOT, check=True)
        twin = [python, "-m", f"benchmarks.peers.{name}", "--check", str(record)]
        printed = subprocess.run(twin, cwd=ROOT, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    return {key: float(value) for key, value in (line.split() for line in printed.splitlines())}


def compare(
    name: str, at_least: float, warmup: int, iterations: int, turns: int, cores: int | None = None
) -> Iterator[Measurement]:
    """Measures an iteration of ours and its twin's.

    Args:
        name: Name of the iteration in `benchmarks.peers`.
        at_least: Smallest ratio of their seconds to ours.
        warmup: Iterations of each before the measurement.
        iterations: Iterations of a block.
        turns: Blocks of each.
        cores: Cores that both may use; None for all. With one, the ratio is that of processor time, which other
            programs affect least.
    """
    label, python = f"peers/{name}", interpreter()
    if python is None:
        print(f"{label}: {MISSING}", file=sys.stderr)
        return
    largest = max(differences(name, python).values())
    yield Measurement(f"{label}/difference", largest, "", at_most=1e-6, note="of environment, advantages and update")
    prefix = [] if cores is None else ["--cores", str(cores)]
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Worker(sys.executable, "benchmarks.peers.ours", name, *prefix))
        theirs = stack.enter_context(Worker(python, f"benchmarks.peers.{name}", *prefix))
        pairs = in_turns(ours, theirs, warmup, iterations, turns)
    column = "processor_seconds" if cores == 1 else "seconds"
    kind = "processor time" if cores == 1 else "time"
    note = f"{kind} of the JAX twin over ours, median of {turns} pairs of blocks"
    yield Measurement(f"{label}/ratio", pairs.ratio(column), "×", at_least=at_least, note=note)
    for side, blocks in (("ours", pairs.ours), ("jax", pairs.theirs)):
        yield from describe(f"{label}/{side}", blocks, column)


def describe(label: str, blocks: list[Block], column: str) -> Iterator[Measurement]:
    """Yields the seconds of an iteration, the cores used and the peak memory of a process."""
    seconds = [value for block in blocks for value in getattr(block, column)]
    spread = f"{min(seconds):.3g} to {max(seconds):.3g} s; value {statistics.fmean(blocks[-1].values):.2f} at the end"
    yield Measurement(label, statistics.median(seconds), "s", note=spread)
    busy = sum(sum(block.processor_seconds) for block in blocks) / sum(sum(block.seconds) for block in blocks)
    yield Measurement(f"{label}/cores", busy, "cores")
    yield Measurement(f"{label}/peak_memory", blocks[-1].peak_bytes / 2**20, "MiB")


@benchmark("peers/navigation")
def navigation() -> Iterator[Measurement]:
    """MAML-TRPO on navigation, 20 tasks × 20 episodes × 100 steps, 64×64 tanh."""
    yield from compare("navigation", at_least=1 / 0.6, warmup=2, iterations=2, turns=7)


@benchmark("peers/bandit")
def bandit() -> Iterator[Measurement]:
    """RL² on bandits, 1,000 trials × 100 pulls, 64 units, 3 epochs of 4 minibatches."""
    yield from compare("bandit", at_least=1 / 0.7, warmup=2, iterations=2, turns=7)


@benchmark("peers/cartpole")
def cartpole() -> Iterator[Measurement]:
    """DQN on CartPole, 1,024 environment steps and 512 TD steps of 256×256 units, on one core."""
    yield from compare("cartpole", at_least=1.0, warmup=4, iterations=2, turns=7, cores=1)


def until(worker: Worker, target: float, window: int = 5, most: int = 100) -> tuple[float, int]:
    """Returns the seconds and the number of iterations until the mean of the last values reaches a target.

    Args:
        worker: The process.
        target: The target.
        window: Number of iterations of the mean.
        most: Number of iterations after which it gives up: infinitely many seconds.
    """
    seconds, values = 0.0, list[float]()
    for _ in range(most):
        block = worker.run(1)
        seconds += block.seconds[0]
        values += block.values
        if len(values) >= window and statistics.fmean(values[-window:]) >= target:
            return seconds, len(values)
    return float("inf"), most


@benchmark("peers/time_to_return")
def time_to_return() -> Iterator[Measurement]:
    """Seconds from the start until MAML-TRPO's return on navigation after one inner step is −12, of three seeds.

    The return is the mean over the training tasks of five iterations; the start is that of the first iteration.
    """
    python = interpreter()
    if python is None:
        print(f"peers/time_to_return: {MISSING}", file=sys.stderr)
        return
    seconds: dict[str, list[float]] = {"ours": [], "jax": []}
    iterations: dict[str, list[int]] = {"ours": [], "jax": []}
    for seed in ("0", "1", "2"):
        ours = (sys.executable, "benchmarks.peers.ours", "navigation", "--seed", seed)
        for side, command in (("ours", ours), ("jax", (python, "benchmarks.peers.navigation", "--seed", seed))):
            with Worker(*command) as worker:
                took, count = until(worker, -12.0)
            seconds[side].append(took)
            iterations[side].append(count)
    for side, took_each in seconds.items():
        note = (
            f"{', '.join(f'{took:.1f}' for took in took_each)} s in {', '.join(map(str, iterations[side]))} iterations"
        )
        yield Measurement(f"peers/time_to_return/{side}", statistics.median(took_each), "s", note=note)
