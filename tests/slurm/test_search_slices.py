"""Slices: the processes that train them, what they cost, and the signals that stop them."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from research.tracking.exit_codes import BUSY, PREEMPTED
from slurm.search import slices
from slurm.search.folder import StudyFolder
from slurm.search.slices import Stop, run_slice
from slurm.search.trials import Job, Outcome

JOB = Job(0, 1, 9, {})


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "runs" / "_searches" / "toy-1"
    (path / "logs").mkdir(parents=True)
    return StudyFolder(path)


@pytest.fixture
def ends(monkeypatch):
    """The exit statuses of the next slices, each of a second; and the pauses between them."""
    statuses, pauses = [], []
    monkeypatch.setattr(slices, "_execute", lambda folder, job, stop: (statuses.pop(0), 1.0))
    monkeypatch.setattr(slices, "is_alive", lambda directory: False)
    monkeypatch.setattr(Stop, "sleep", lambda stop, seconds: pauses.append(seconds))
    return statuses, pauses


def test_a_run_that_another_process_trains_is_waited_for_and_costs_nothing(folder, ends):
    statuses, pauses = ends
    statuses += [BUSY, BUSY, 0]
    with Stop() as stop:
        assert run_slice(folder, JOB, stop) == Outcome(0, 1.0)
    assert pauses == [1.0, 1.0]


def test_a_slice_that_was_stopped_says_what_it_has_cost(folder, ends):
    ends[0].append(PREEMPTED)
    with Stop() as stop:
        execute = slices._execute

        def stopped(*arguments):
            stop._handle(signal.SIGTERM, None)
            return execute(*arguments)

        slices._execute = stopped  # the fixture puts the first one back
        assert run_slice(folder, JOB, stop) == Outcome(PREEMPTED, 1.0, stopped=True)


def test_a_signal_does_not_take_the_exit_status_of_a_child_that_has_ended():
    """`Popen.send_signal` looks whether the child has ended; nobody else could wait for it after that."""
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with Stop() as stop:
        stop.child = child
        stop._handle(signal.SIGTERM, None)
        _, status, _ = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        stop._handle(signal.SIGTERM, None)  # there is no such process
    assert child.returncode == 0 and stop.signum == signal.SIGTERM
