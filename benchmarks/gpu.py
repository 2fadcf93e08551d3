"""Figures of a GPU as Markdown, with the CPU next to it: `benchmarks/gpu.sh` runs this, see there.

The cases come in the order of their interest. One that no longer fits into the time is left out by name, and one that
needs more memory than there is says so; the others go on.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.harness import context
from research.algorithms.gradient.maml_trpo import MAMLTRPO, MAMLTRPOConfig
from research.algorithms.memory.config import RL2Config
from research.algorithms.memory.rl2 import RL2
from research.algorithms.value.lookahead_dqn import LookaheadDQN, LookaheadDQNConfig
from research.memory import keep_freed_memory
from research.parallel import available_cores
from research.streams import prepare_streams
from research.types import Metrics

SECONDS = 280.0
"""Time of all cases together, below five minutes with the start of the interpreter."""

CASE_SECONDS = 60.0
"""Longest time of one case."""

MINIBATCH_TRIALS = 25_000
"""Largest minibatch of RL²: the states of more trials take too much memory in the backward pass."""


class Case(NamedTuple):
    """A size of an algorithm.

    Attributes:
        table: Title of its table.
        size: Size as the table shows it.
        work: Number of rows, tasks or steps, for the estimate of the time on the CPU.
        make: Function of a device that returns the algorithm.
        columns: Cells of its row by title, functions of the metrics of an iteration.
    """

    table: str
    size: str
    work: int
    make: Callable[[str], Any]
    columns: dict[str, Callable[[Metrics], float]]


class Row(NamedTuple):
    """A measured case, or why there is no measurement: `cells` are then empty."""

    case: Case
    device: str
    cells: list[float]
    seconds: float
    memory: float
    note: str


def rl2_cases(quick: bool) -> Iterator[Case]:
    """Yields RL² on bandits (100 pulls) and on tabular MDPs (10 episodes of 10 steps) by number of trials."""
    horizon = 5 if quick else 100
    for trials in (8, 16) if quick else (1_000, 10_000, 100_000, 1_000_000):
        sizes = {"meta_batch_size": trials, "episodes_per_trial": horizon}
        yield _rl2("RL² on bandits", trials, horizon, sizes)
    episodes = 2 if quick else 10
    for trials in (8,) if quick else (1_000, 10_000, 100_000):
        sizes = {"meta_batch_size": trials, "episodes_per_trial": episodes}
        yield _rl2("RL² on tabular MDPs", trials, 10 * episodes, {"task": "tabular_mdp"} | sizes)


def _rl2(table: str, trials: int, steps: int, settings: dict[str, Any]) -> Case:
    minibatches = max(4, -(-trials // MINIBATCH_TRIALS))
    config: dict[str, Any] = settings | {"num_minibatches": minibatches, "num_epochs": 1}

    def make(device: str) -> RL2:
        return RL2(RL2Config(device=device, **config))

    columns = {
        "update, rows/s": lambda m: m["env_steps"] / m["time/update_seconds"],
        "collection, rows/s": lambda m: m["env_steps"] / m["time/sample_seconds"],
    }
    return Case(table, f"{trials:,} trials × {steps} steps", trials * steps, make, columns)


def maml_trpo_cases(quick: bool) -> Iterator[Case]:
    """Yields MAML-TRPO on navigation, 20 episodes × 100 steps, by number of tasks."""
    episodes, horizon = (2, 5) if quick else (20, 100)
    columns: dict[str, Callable[[Metrics], float]] = {
        "update, s": lambda m: m["time/update_seconds"],
        "sampling, s": lambda m: m["time/sample_seconds"],
    }
    for tasks in (2, 3) if quick else (20, 40, 100, 400, 1000):
        sizes: dict[str, Any] = {"meta_batch_size": tasks, "episodes_per_task": episodes, "horizon": horizon}

        def make(device: str, sizes: dict[str, Any] = sizes) -> MAMLTRPO:
            return MAMLTRPO(MAMLTRPOConfig(device=device, **sizes))

        size = f"{tasks:,} tasks × {episodes} episodes × {horizon} steps"
        yield Case("MAML-TRPO on navigation", size, tasks * episodes * horizon, make, columns)


def dqn_cases(quick: bool) -> Iterator[Case]:
    """Yields DQN on CartPole, and on more rows of it."""
    columns: dict[str, Callable[[Metrics], float]] = {"environment steps/s": lambda m: m["time/steps_per_second"]}
    phases: dict[str, Any] = {"learning_starts": 0}
    if quick:
        phases |= {"train_freq": 16, "gradient_steps": 4, "batch_size": 8}
    for rows in (1, 4) if quick else (1, 64):

        def make(device: str, rows: int = rows) -> LookaheadDQN:
            return LookaheadDQN(LookaheadDQNConfig(device=device, rows_per_task=rows, **phases))

        yield Case("DQN on CartPole", f"{rows} environments", 1024 * rows, make, columns)


def measure(case: Case, device: str, deadline: float) -> Row:
    """Returns the medians of up to five iterations after one that is not measured; fewer near the deadline."""
    metrics: list[Metrics] = []
    seconds: list[float] = []
    try:
        algorithm = case.make(device)
        state = algorithm.init()
        while len(seconds) < 6 and (len(seconds) < 2 or time.perf_counter() + 2 * seconds[-1] < deadline):
            start = time.perf_counter()
            state, measured = algorithm.step(state)
            _wait(device)
            seconds.append(time.perf_counter() - start)
            metrics.append(measured)
            if sum(seconds) > 10 and len(seconds) > 1:
                break
    except torch.OutOfMemoryError as error:
        return Row(case, device, [], float("nan"), _peak(device), f"out of memory: {str(error).splitlines()[0][:80]}")
    cells = [statistics.median(map(column, metrics[1:])) for column in case.columns.values()]
    return Row(case, device, cells, statistics.median(seconds[1:]), _peak(device), "")


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _peak(device: str) -> float:
    """Returns the peak memory on the GPU since the last case in GiB; NaN for the CPU."""
    if device == "cpu":
        return float("nan")
    peak = torch.cuda.max_memory_allocated() / 2**30
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return peak


def run(cases: Sequence[Case], devices: Sequence[str], deadline: float) -> Iterator[Row]:
    """Yields the rows of all cases; one that would take too long, by the last size of its table, is left out."""
    for device in devices:
        rate: dict[str, float] = {}
        for case in cases:
            left = min(CASE_SECONDS, deadline - time.perf_counter())
            expected = 2 * case.work * rate.get(case.table, 0.0)  # one iteration to warm up, one to measure
            if left < expected or left < 0:
                nan = float("nan")
                yield Row(case, device, [], nan, nan, f"left out: {expected:.0f} s, of {max(left, 0):.0f} s")
                continue
            row = measure(case, device, time.perf_counter() + left)
            if row.cells:
                rate[case.table] = row.seconds / case.work
            yield row


def tables(rows: Iterable[Row]) -> str:
    """Returns a table for each kind of case, a line for each size and device."""
    parts: list[str] = []
    by_table: dict[str, list[Row]] = {}
    for row in rows:
        by_table.setdefault(row.case.table, []).append(row)
    for title, own in by_table.items():
        head = ["", "device", *own[0].case.columns, "iteration, s", "GPU memory, GiB", "CPU time over it"]
        parts += [f"### {title}\n", f"| {' | '.join(head)} |", f"|---|---|{'---:|' * (len(head) - 2)}"]
        parts += [_line(row, own) for row in sorted(own, key=lambda row: row.case.work)]
        parts.append("")
    return "\n".join(parts)


def _line(row: Row, others: Sequence[Row]) -> str:
    if not row.cells:
        return f"| {row.case.size} | {row.device} | {row.note} |"
    cpu = [other.seconds for other in others if other.device == "cpu" and other.case == row.case and other.cells]
    memory = "" if row.device == "cpu" else f"{row.memory:.2f}"
    ratio = f"{cpu[0] / row.seconds:.2f}" if cpu and row.device != "cpu" else ""
    cells = [*map(_figure, row.cells), _figure(row.seconds), memory, ratio]
    return f"| {row.case.size} | {row.device} | {' | '.join(cells)} |"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main(argv: Sequence[str]) -> int:
    """Prints all tables. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, or cpu for the CPU alone")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"time for all cases (default {SECONDS:.0f})")
    options = parser.parse_args(argv)
    deadline = time.perf_counter() + options.seconds
    if options.device != "cpu" and not torch.cuda.is_available():
        print(f"--device={options.device}: torch {torch.__version__} finds no GPU; need one, or cpu", file=sys.stderr)
        return 2
    keep_freed_memory()
    torch.set_num_threads(1)  # as in a run: the cores work on tasks
    cases = [*rl2_cases(options.quick), *maml_trpo_cases(options.quick), *dqn_cases(options.quick)]
    devices = ["cpu"] if options.device == "cpu" else [options.device, "cpu"]
    rows = []
    for row in run(cases, devices, deadline):
        print(f"{row.device}: {row.case.table}, {row.case.size} {row.note}", file=sys.stderr, flush=True)
        rows.append(row)
    about = context()
    print(f"{about['gpu'] or 'no GPU'}; {available_cores()} cores of {about['cpu']}; torch {about['torch']}, "
          f"Python {platform.python_version()}, commit {str(about['commit'])[:9]}\n")  # fmt: skip
    print(tables(rows))
    return 0


if __name__ == "__main__":
    prepare_streams()
    sys.exit(main(sys.argv[1:]))
