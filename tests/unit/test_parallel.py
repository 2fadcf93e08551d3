from __future__ import annotations

import os
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from research.parallel import available_cores, chunks, parallel_map, start_sharing


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_work(threads):
    def slow_first(item):
        time.sleep(0.02 * (item == 0))
        return item * item

    assert parallel_map(slow_first, range(7), threads) == [0, 1, 4, 9, 16, 25, 36]
    assert parallel_map(slow_first, [], threads) == []


def test_work_is_spread_over_threads():
    both_here = threading.Barrier(2, timeout=30)  # passes only if two items are worked on at once
    names = parallel_map(lambda _: (both_here.wait(), threading.current_thread().name)[1], range(2), 2)
    assert len(set(names)) == 2


def test_one_thread_is_the_callers():
    assert parallel_map(lambda _: threading.current_thread(), range(2), 1) == [threading.current_thread()] * 2


@pytest.mark.parametrize("enabled", [True, False])
def test_the_grad_mode_of_the_caller_holds(enabled):
    with torch.set_grad_enabled(enabled):
        assert parallel_map(lambda _: torch.is_grad_enabled(), range(4), 2) == [enabled] * 4
    assert torch.is_grad_enabled()


def test_sums_do_not_depend_on_the_number_of_threads():
    work = torch.randn(40, 1000, generator=torch.Generator().manual_seed(0)).unbind(0)
    sums = [sum(parallel_map(lambda row: row.exp().sum(), work, threads)) for threads in (1, 2, 3)]
    assert torch.equal(sums[0], sums[1]) and torch.equal(sums[0], sums[2])


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_error_in_the_order_of_the_work_is_raised(threads):
    def fail(item):
        time.sleep(0.02 * (item == 1))
        if item:
            raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 1"):
        parallel_map(fail, range(4), threads)


@pytest.fixture
def two_kernel_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_kernel_threads")
@pytest.mark.parametrize("threads", [1, 3])
def test_kernels_keep_to_one_thread_and_the_callers_are_as_before(threads):
    assert parallel_map(lambda _: torch.get_num_threads(), range(4), threads) == [1] * 4
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda item: 1 // item, range(2), threads)
    assert torch.get_num_threads() == 2, "after an error too"


def test_no_threads_are_refused():
    with pytest.raises(ValueError, match="num_threads=0: need at least 1 thread"):
        parallel_map(lambda item: item, range(2), 0)


@given(st.integers(0, 50), st.integers(1, 12))
def test_chunks_cover_everything_once_in_order(length, size):
    pieces = [list(range(length))[piece] for piece in chunks(length, size)]
    assert [item for piece in pieces for item in piece] == list(range(length))
    assert all(0 < len(piece) <= size for piece in pieces)
    assert all(len(piece) == size for piece in pieces[:-1])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_the_work(threads):
    done, names = [0] * 50, set()

    def work(items):
        for item in items:
            done[item] += 1
            names.add(threading.current_thread().name)
            time.sleep(0.001)

    start_sharing(work, range(50), threads)()
    assert done == [1] * 50
    assert len(names) == threads
    assert threading.current_thread().name in names, "the caller is one of them"
    start_sharing(work, [], threads)()
    assert done == [1] * 50


def test_the_caller_goes_on_while_threads_share_the_work():
    caller_is_here = threading.Event()
    finish = start_sharing(lambda items: [caller_is_here.wait(30) for _ in items], range(4), 2)
    caller_is_here.set()
    finish()


def test_waiting_for_shared_work_raises_its_error_when_all_is_done():
    done = []

    def work(items):
        for item in items:
            if item == 0:
                raise KeyError("item 0")
            time.sleep(0.01)
            done.append(item)

    finish = start_sharing(work, range(6), 2)
    with pytest.raises(KeyError, match="item 0"):
        finish()
    assert done == [1, 2, 3, 4, 5], "the other thread has gone on to the end"
    with pytest.raises(ValueError, match="num_threads=0: need at least 1 thread"):
        start_sharing(work, range(2), 0)


def test_cores_that_may_be_used_are_counted():
    assert 1 <= available_cores() <= os.cpu_count()
