"""A process that is measured in blocks: it stays ready between them, so that two processes can take turns.

It reads a number of iterations from each line of its standard input, runs them, and writes a line of JSON: a `Block`.
The other process waits for its turn without using a core. Only the standard library is needed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.peak_memory import peak_bytes


class Block(NamedTuple):
    """The measurement of some iterations in a row.

    Attributes:
        seconds: Wall time of each iteration.
        processor_seconds: Processor time of all threads in each iteration.
        values: Result of each iteration, e.g. the mean return: the learning curve.
        peak_bytes: Largest resident memory of the process so far.
    """

    seconds: list[float]
    processor_seconds: list[float]
    values: list[float]
    peak_bytes: int


def serve(iterate: Callable[[], float]) -> None:
    """Measures `iterate` in blocks until standard input ends. It must return when its work is done, not before."""
    for line in sys.stdin:
        block = measure(iterate, int(line))
        sys.stdout.write(json.dumps(block._asdict()) + "\n")
        sys.stdout.flush()


def measure(iterate: Callable[[], float], count: int) -> Block:
    """Returns the measurement of `count` calls of `iterate`."""
    block = Block([], [], [], 0)
    for _ in range(count):
        wall, processor = time.perf_counter(), time.process_time()
        value = iterate()
        block.seconds.append(time.perf_counter() - wall)
        block.processor_seconds.append(time.process_time() - processor)
        block.values.append(value)
    return block._replace(peak_bytes=peak_bytes())


def cores() -> int:
    """Returns the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores(count: int) -> None:
    """Keeps this process to the first `count` of its cores; 0 leaves it all. Call it before threads start."""
    if count and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
