"""Shared parts of all benchmarks: a registry, timing, peak memory, a table and a record.

A benchmark is a function that yields measurements; `ONLY` selects benchmarks by name:

    @benchmark("returns/gae/40x20x100")
    def gae() -> Iterator[Measurement]:
        reward = torch.randn(40, 20, 100)
        yield Measurement("returns/gae/40x20x100", median_seconds(lambda: discounted_returns(reward, 0.99)), "s")
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Measurement:
    """A measured value.

    Attributes:
        name: Measured quantity, e.g. `"maml_trpo/navigation_2d/20x20x100/update"`.
        value: The value.
        unit: Its unit, e.g. `"s"`, `"steps/s"`, `"MiB"`.
        at_most: Upper limit; None for no limit.
        at_least: Lower limit; None for no limit.
        note: Remark in the table, e.g. the ratio to another implementation.
    """

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    def is_met(self) -> bool:
        """Whether the value is within its limits."""
        above = self.at_least is None or self.value >= self.at_least
        below = self.at_most is None or self.value <= self.at_most
        return above and below


Benchmark = Callable[[], Iterable[Measurement]]

BENCHMARKS: dict[str, Benchmark] = {}
"""The benchmarks by name, in the order of registration."""


def benchmark(name: str) -> Callable[[Benchmark], Benchmark]:
    """Returns a decorator that registers a benchmark.

    Raises:
        ValueError: The name is taken.
    """

    def register(function: Benchmark) -> Benchmark:
        if name in BENCHMARKS:
            raise ValueError(f"benchmark {name!r}: the name is taken by {BENCHMARKS[name]}, choose another")
        BENCHMARKS[name] = function
        return function

    return register


def seconds(function: Callable[[], object], *, warmup: int = 2, repeats: int = 5) -> list[float]:
    """Returns the duration of each of `repeats` calls in seconds, after `warmup` calls that are not measured."""
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: need at least 1 call to measure")
    for _ in range(warmup):
        function()
    durations = []
    for _ in range(repeats):
        _wait_for_device()
        start = time.perf_counter()
        function()
        _wait_for_device()
        durations.append(time.perf_counter() - start)
    return durations


def median_seconds(function: Callable[[], object], *, warmup: int = 2, repeats: int = 5) -> float:
    """Returns the median duration of a call in seconds, see `seconds`."""
    return statistics.median(seconds(function, warmup=warmup, repeats=repeats))


def _wait_for_device() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def peak_memory_mib(target: str, *args: Any) -> float:
    """Returns the peak memory of a new process that imports and calls `target`, in MiB.

    It includes the interpreter and the libraries: a process that only imports torch holds about 250 MiB.

    Args:
        target: The function as `"module:name"`, importable from the project's root.
        args: Its arguments, as JSON values.

    Raises:
        RuntimeError: The process failed; its standard error is in the message.
    """
    command = [sys.executable, "-m", "benchmarks.peak_memory", target, json.dumps(args)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if process.returncode != 0:
        raise RuntimeError(f"{target}{args} failed with status {process.returncode}:\n{process.stderr.strip()}")
    return int(process.stdout.splitlines()[-1]) / 2**20


@functools.cache
def context() -> dict[str, Any]:
    """Returns what a measurement depends on: the commit of the code, threads, processor and versions."""
    return {
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu_model(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*args: str) -> str | None:
    """Returns the output of a git command; None outside a repository or without git."""
    try:
        process = subprocess.run(
            ["git", *args], cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except FileNotFoundError:
        return None
    return process.stdout.strip() if process.returncode == 0 else None


def matching(only: str) -> dict[str, Benchmark]:
    """Returns the registered benchmarks whose name contains `only`.

    Raises:
        ValueError: No name contains it.
    """
    chosen = {name: function for name, function in BENCHMARKS.items() if only in name}
    if not chosen:
        raise ValueError(f"ONLY={only}: no benchmark's name contains it; there are {', '.join(BENCHMARKS) or 'none'}")
    return chosen


def run(chosen: dict[str, Benchmark], record: TextIO) -> Iterator[Measurement]:
    """Runs benchmarks and yields their measurements; appends each to `record` as one line of JSON."""
    for function in chosen.values():
        for measurement in function():
            record.write(as_json(measurement) + "\n")
            record.flush()
            yield measurement


def as_json(measurement: Measurement) -> str:
    """Returns a measurement with its context as JSON: `{"name": …, "value": …, "unit": …, "context": {…}}`."""
    fields = {"name": measurement.name, "value": measurement.value, "unit": measurement.unit}
    optional = {"at_most": measurement.at_most, "at_least": measurement.at_least, "note": measurement.note or None}
    present = {key: value for key, value in optional.items() if value is not None}
    return json.dumps({**fields, **present, "context": context()})


def table(measurements: Sequence[Measurement]) -> str:
    """Returns the measurements as an aligned table."""
    rows = [("name", "value", "unit", "limit", "met", "note")]
    for m in measurements:
        met = "" if m.at_most is None and m.at_least is None else "yes" if m.is_met() else "NO"
        rows.append((m.name, _figure(m.value), m.unit, _limit(m), met, m.note))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = (False, True, False, False, False, False)
    cells = ([c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in cells)


def _limit(measurement: Measurement) -> str:
    bounds = (("≥", measurement.at_least), ("≤", measurement.at_most))
    return " ".join(f"{sign} {_figure(bound)}" for sign, bound in bounds if bound is not None)


def _figure(value: float) -> str:
    """Returns four significant digits, and an integer from a thousand: `0.01234`, `1.235`, `412,345`."""
    if value == 0 or not np.isfinite(value):
        return str(value)
    decimals = max(0, 3 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{decimals}f}"


def load(modules: Iterable[str]) -> None:
    """Imports the modules that register benchmarks."""
    for module in modules:
        importlib.import_module(module)
