"""Cost of recording 20 scalars per iteration, of checksums and the copy in memory, of the end of a run, of reading."""

from __future__ import annotations

import datetime
import functools
import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sacred.run import Run

from benchmarks.harness import Measurement, benchmark, median_seconds
from research import rng
from research.tracking.journal import Journal
from research.tracking.observer import FileObserver
from research.tracking.records import METRICS, read_metrics, to_line
from research.tracking.run import RecordedRun

SCALARS = 20
BEAT_EVERY = 100
"""Iterations between two heartbeats: 10 s in a run with ten iterations per second."""

UNIT = "ms/iteration"
NOW = datetime.datetime(2030, 1, 2, 3, 4, 5, 678901)


def fill(directory: Path, iterations: int, scalars: int) -> None:
    """Writes the metrics of a run with this number of iterations."""
    names = [f"metric/{index}" for index in range(scalars)]
    with (directory / METRICS).open("w", encoding="utf-8") as file:
        for step in range(1, iterations + 1):
            values = {name: 1 / (step + index) for index, name in enumerate(names)}
            stamp = (NOW + datetime.timedelta(seconds=step)).isoformat()
            file.write(json.dumps({"step": step, "timestamp": stamp, "values": values}) + "\n")


def start(runs_dir: Path, resume_at: int | None = None) -> tuple[RecordedRun, FileObserver]:
    """Returns a started Sacred run, a new run or run 1 resumed, and its record."""
    observer = FileObserver(runs_dir, resume_at)
    number = None if resume_at is None else 1
    code: dict[str, Any] = {"name": "bench", "base_dir": str(runs_dir), "sources": [], "repositories": []}
    observer.started_event(code, "train", {}, NOW, {"seed": 0}, {}, number)
    run = Run({}, None, None, [observer], None, None, code, {}, [], [])
    return RecordedRun.adopt(run), observer


def log_milliseconds(run: RecordedRun, first: int, iterations: int = 1_000) -> float:
    """Returns the milliseconds of logging and heartbeats per iteration."""
    began = time.perf_counter()
    for step in range(first, first + iterations):
        for index in range(SCALARS):
            run.log_scalar(f"metric/{index}", 1 / (step + index), step)  # type: ignore[no-untyped-call]
        if step % BEAT_EVERY == 0:
            run.flush()
    return 1e3 * (time.perf_counter() - began) / iterations


@benchmark("tracking/log/20_scalars")
def log() -> Iterator[Measurement]:
    """Logging at the beginning of a run and after 100,000 iterations, including heartbeats and waits for the disk."""
    with tempfile.TemporaryDirectory() as directory:
        run, observer = start(Path(directory))
        yield Measurement("tracking/log/20_scalars/iteration_10", log_milliseconds(run, 1), UNIT, at_most=1.0)
        observer.interrupted_event(NOW, "INTERRUPTED")
        fill(Path(directory) / "1", 100_000, SCALARS)
        run, observer = start(Path(directory), resume_at=100_000)
        late = log_milliseconds(run, 100_001)
        yield Measurement("tracking/log/20_scalars/iteration_100000", late, UNIT, at_most=1.0)
        began = time.perf_counter()
        observer.completed_event(NOW, None)
        yield Measurement("tracking/end/2M_points", time.perf_counter() - began, "s", note="makes metrics.json")


def rows(iterations: int) -> list[dict[str, Any]]:
    """Returns rows of metrics as a run writes them: values of all digits."""
    draws = rng.generator(0, "bench").random((iterations, SCALARS))
    return [
        {"step": step, "timestamp": NOW.isoformat(), "values": {f"metric/{i}": value for i, value in enumerate(values)}}
        for step, values in enumerate(draws.tolist(), 1)
    ]


def microseconds(function: Callable[[], object], count: int) -> float:
    """Returns the least processor time of five calls in microseconds for each of `count` rows."""
    durations = []
    for _ in range(5):
        began = time.process_time()
        function()
        durations.append(time.process_time() - began)
    return 1e6 * min(durations) / count


@benchmark("tracking/safety")
def safety() -> Iterator[Measurement]:
    """Price of what makes lost metrics noticed and restored: a checksum in each line, and a compressed copy in memory.

    Of processor time, against lines without a checksum; neither includes the wait for the disk.
    """
    count, label = 20_000, "tracking/safety/20_scalars"
    written = rows(count)
    lines = [to_line(row) for row in written]
    size = sum(map(len, lines)) + len(lines)
    plain = microseconds(lambda: [json.dumps(row, allow_nan=False) for row in written], count)
    checked = microseconds(lambda: [to_line(row) for row in written], count)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / METRICS
        kept = microseconds(lambda: Journal(path, lines), count)
        tracemalloc.start()
        journal = Journal(path, lines)
        memory = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        yield Measurement(f"{label}/line", plain, "µs/iteration", note="JSON without a checksum")
        yield Measurement(f"{label}/checksum", checked - plain, "µs/iteration", note=f"{checked / plain - 1:.1%} of it")
        yield Measurement(f"{label}/copy", kept, "µs/iteration", note="compression, and the checksum of the file")
        share = f"{memory / size:.2f} of the file's {size / 2**20:.1f} MiB; {count:,} iterations, random digits"
        yield Measurement(f"{label}/copy_memory", memory / 2**20, "MiB", note=share)
        path.write_text("damaged\n", encoding="utf-8")
        began = time.perf_counter()
        restored = journal.check()
        assert restored
        yield Measurement(f"{label}/restore", time.perf_counter() - began, "s", note="a file that was overwritten")


@benchmark("tracking/read")
def read() -> Iterator[Measurement]:
    """Reading a record of 100,000 points, and one of 100,000 iterations with 20 scalars each."""
    for name, iterations, scalars, limit in (
        ("100k_points", 5_000, 20, 1.0),
        ("100k_points_of_one_metric", 100_000, 1, 1.0),
        ("2M_points", 100_000, 20, None),
    ):
        with tempfile.TemporaryDirectory() as directory:
            fill(Path(directory), iterations, scalars)
            seconds = median_seconds(functools.partial(read_metrics, Path(directory)), warmup=1, repeats=3)
        yield Measurement(f"tracking/read/{name}", seconds, "s", at_most=limit)
