"""Cost of reading records: time and memory to load 1,000 runs of 1,000 points, and the start of a command."""

from __future__ import annotations

import datetime
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import ROOT, Measurement, benchmark, median_seconds, peak_memory_mib

RUNS = 1_000
POINTS = 1_000
START = datetime.datetime(2030, 1, 2, 3, 4, 5, 678901)


def write_runs(root: Path, runs: int, steps: int, scalars: int) -> None:
    """Writes records of finished runs, each with `steps` lines of `scalars` values."""
    experiment = {"name": "bench", "repositories": [{"commit": "c0ffee", "dirty": False}], "sources": []}
    stamps = [(START + datetime.timedelta(seconds=step)).isoformat() for step in range(steps + 1)]
    for number in range(runs):
        directory = root / str(number + 1)
        directory.mkdir(parents=True)
        entry = {"experiment": experiment, "command": "train", "status": "COMPLETED", "host": {"hostname": "here"},
                 "start_time": stamps[0], "stop_time": stamps[-1], "artifacts": [], "resumed": []}  # fmt: skip
        (directory / "run.json").write_text(json.dumps(entry), encoding="utf-8")
        config = {"seed": number % 10, "lr": number // 10, "policy": {"hidden_sizes": [64, 64]}}
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with (directory / "metrics.jsonl").open("w", encoding="utf-8") as file:
            for step in range(1, steps + 1):
                values = {f"metric/{index}": 1 / (step + index + number) for index in range(scalars)}
                file.write(json.dumps({"step": step, "timestamp": stamps[step], "values": values}) + "\n")


def load(root: str) -> int:
    """Loads all runs. Returns the number of points, which proves that they were read."""
    from analysis.data.load import load_runs

    return len(load_runs(root).metrics)


def start() -> None:
    """Imports the modules that `load` imports, for the memory of an idle process."""
    import analysis.data.load  # noqa: F401


@benchmark("analysis/load")
def load_many() -> Iterator[Measurement]:
    """1,000 runs with 1,000 points each, and the growth of memory with the number of points."""
    name = f"analysis/load/{RUNS}x{POINTS}"
    with tempfile.TemporaryDirectory() as directory:
        sizes = {POINTS: Path(directory, "a"), 2 * POINTS: Path(directory, "b")}
        for points, root in sizes.items():
            write_runs(root, RUNS, points, 1)
        began = time.process_time()
        took = median_seconds(functools.partial(load, str(sizes[POINTS])), warmup=1, repeats=3)
        busy = (time.process_time() - began) / 4
        yield Measurement(f"{name}/time", took, "s", at_most=5.0, note=f"{busy:.1f} s of one core")
        empty = peak_memory_mib("benchmarks.bench_analysis:start")
        peaks = [peak_memory_mib("benchmarks.bench_analysis:load", str(root)) - empty for root in sizes.values()]
    per_point = [2**20 * peak / (RUNS * points) for peak, points in zip(peaks, sizes, strict=True)]
    yield Measurement(f"{name}/memory", peaks[0], "MiB", note=f"{per_point[0]:.0f} bytes per point, at the peak")
    yield Measurement(
        f"analysis/load/{RUNS}x{2 * POINTS}/memory",
        peaks[1],
        "MiB",
        at_most=2.2 * peaks[0],
        note=f"{per_point[1]:.0f} bytes per point: linear",
    )
    with tempfile.TemporaryDirectory() as directory:
        write_runs(Path(directory), RUNS // 10, POINTS, 20)
        took = median_seconds(functools.partial(load, directory), warmup=1, repeats=3)
    yield Measurement(f"analysis/load/{RUNS // 10}x{POINTS}x20_metrics/time", took, "s")


@benchmark("analysis/table")
def table() -> Iterator[Measurement]:
    """`python -m analysis table` of ten short runs, mostly the start of the command."""
    with tempfile.TemporaryDirectory() as directory:
        write_runs(Path(directory), 10, 10, 1)
        command = [sys.executable, "-m", "analysis", "table", directory]
        took = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            took.append(time.perf_counter() - began)
    yield Measurement("analysis/table/10_runs", sorted(took)[1], "s", at_most=2.0)
