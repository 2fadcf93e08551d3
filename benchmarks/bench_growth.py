"""How the cost of MAML-TRPO grows with tasks, widths, horizons, inner steps and episodes, with the exponent of each.

Navigation at sizes that take a few minutes together; each point is a process of its own. The table of
docs/results/growth.md is written again.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.bench_peers import Worker
from benchmarks.harness import ROOT, Measurement, benchmark, context

PAGE = ROOT / "docs" / "results" / "growth.md"
BEGIN, END = "<!-- table: make bench ONLY=growth writes it -->\n", "<!-- end of the table -->\n"

BASE = {"tasks": 10, "episodes": 10, "horizon": 100, "hidden": 64, "inner_steps": 1}
AXES = {
    "tasks": (10, 20, 40, 80, 160),
    "hidden": (32, 64, 128, 256, 512),
    "horizon": (25, 50, 100, 200, 400),
    "inner_steps": (1, 2, 3, 5),
    "episodes": (5, 10, 20, 40, 80),
}
"""Sizes of each option of `benchmarks.peers.ours`; the others are those of `BASE`."""


class Point(NamedTuple):
    """Cost of an iteration: median seconds, and the peak memory of its process in MiB."""

    seconds: float
    memory: float


def measure(sizes: dict[str, int], iterations: int = 2) -> Point:
    """Returns the cost of an iteration with these sizes, after one that is not measured."""
    options = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    with Worker(sys.executable, "benchmarks.peers.ours", "navigation", *options) as worker:
        worker.run(1)
        block = worker.run(iterations)
    return Point(statistics.median(block.seconds), block.peak_bytes / 2**20)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Returns p of the power law cost = c · sizeᵖ that fits best, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def row(axis: str, points: dict[int, Point]) -> str:
    """Returns a line of the table of the page."""
    sizes, costs = list(points), list(points.values())
    seconds, memory = [point.seconds for point in costs], [point.memory for point in costs]
    cells = [
        axis.replace("_", " "),
        " / ".join(map(str, sizes)),
        " / ".join(f"{value:.2g}" for value in seconds),
        f"{exponent(sizes, seconds):.2f}",
        " / ".join(f"{value:.0f}" for value in memory),
        f"{exponent(sizes, memory):.2f}",
    ]
    return f"| {' | '.join(cells)} |\n"


def write_page(page: Path, rows: Sequence[str]) -> None:
    """Writes the table between the marks of the page. Raises ValueError if they are not there."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page}: need a line {BEGIN!r} and a line {END!r}")
    head = "| | sizes | seconds | exponent | peak MiB | exponent |\n|---|---|---|---:|---|---:|\n"
    cores, cpu = context()["cores"], context()["cpu"]
    table = f"\nOn {cores} cores ({cpu}), commit {str(context()['commit'])[:9]}:\n\n{head}{''.join(rows)}\n"
    page.write_text(f"{before}{BEGIN}{table}{END}{after}", encoding="utf-8")


@benchmark("growth")
def growth() -> Iterator[Measurement]:
    """Time and memory by tasks, hidden units, horizon, inner steps and episodes."""
    rows = []
    for axis, sizes in AXES.items():
        points = {}
        for size in sizes:
            points[size] = point = measure(BASE | {axis: size})
            yield Measurement(f"growth/{axis}={size}", point.seconds, "s")
            yield Measurement(f"growth/{axis}={size}/peak_memory", point.memory, "MiB")
        fitted = exponent(sizes, [point.seconds for point in points.values()])
        yield Measurement(f"growth/{axis}/exponent", fitted, "", note=f"of the seconds in {axis}")
        fitted = exponent(sizes, [point.memory for point in points.values()])
        yield Measurement(f"growth/{axis}/memory_exponent", fitted, "", note="of the peak memory")
        rows.append(row(axis, points))
    write_page(PAGE, rows)
