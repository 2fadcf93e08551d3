"""Independent work items on a pool of threads.

Autograd and torch's kernels release the GIL, so one thread per core over tasks keeps every core busy, whereas threads
inside small kernels mostly wait for each other. Results are in the order of the items, so sums over them do not depend
on the number of threads.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@functools.lru_cache(maxsize=4)
def _pool(num_threads: int, purpose: str = "map") -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, thread_name_prefix=f"research-{purpose}")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a process that was forked has none of the threads


def available_cores() -> int:
    """Returns the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(function: Callable[..., T], work: Iterable[Any], num_threads: int) -> list[T]:
    """Returns `[function(item) for item in work]`, computed on `num_threads` threads; 1 is the thread of the caller.

    The threads have the grad mode of the caller, and torch uses one thread for each kernel meanwhile. If several items
    raise errors, that of the first item is raised.

    >>> parallel_map(abs, [-2, 1], num_threads=2)
    [2, 1]
    """
    if num_threads < 1:
        raise ValueError(f"num_threads={num_threads}: need at least 1 thread")
    grad_enabled = torch.is_grad_enabled()

    def run(item: Any) -> T:
        with torch.set_grad_enabled(grad_enabled):
            return function(item)

    kernel_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [run(item) for item in work] if num_threads == 1 else list(_pool(num_threads).map(run, work))
    finally:
        torch.set_num_threads(kernel_threads)


def start_sharing(function: Callable[[Iterator[T]], None], work: Sequence[T], num_threads: int) -> Callable[[], None]:
    """Starts `function(items)` on `num_threads - 1` threads and returns a function that joins and finishes them.

    All threads take items from one iterator over `work`, so no thread waits for a slow item. The thread of the caller
    is the last one: it can do something else until it calls the returned function, and then takes items, too. The work
    should release the GIL and write its results in place. The first error is raised after all threads have ended.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads={num_threads}: need at least 1 thread")
    items = iter(work)
    others = min(num_threads, len(work)) - 1
    futures = [_pool(others, "share").submit(function, items) for _ in range(others)]

    def finish() -> None:
        try:
            function(items)
        finally:
            wait(futures)
        for future in futures:
            future.result()

    return finish


def chunks(length: int, size: int) -> list[slice]:
    """Returns consecutive slices of at most `size` that cover `range(length)`.

    >>> chunks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
