"""A run that is killed at any one of its file operations goes on to the record of one that never was."""

from __future__ import annotations

import os
import shlex
import shutil
import signal

import crash_points
import pytest
import toy_experiment
from toy_experiment import OPTIONS

ENSURE = f"ensure with run=7 {OPTIONS}"
STARTS = ["", ENSURE.replace("num_iterations=12", "num_iterations=6")]


def run_until(lab, line: str, last: int) -> tuple[int, list[str]]:
    """(exit code, operations) of a fork that runs a command and is killed at an operation, or, with 0, is not."""
    trace = lab.directory / "trace"
    trace.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        os.environ.update(
            CRASH_POINTS_AT=str(last), CRASH_POINTS_BELOW=str(lab.directory / "runs"), CRASH_POINTS_TRACE=str(trace)
        )
        crash_points.install()
        code = 1
        try:
            toy_experiment.make().run_commandline([toy_experiment.__file__, *shlex.split(line)])
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), trace.read_text().splitlines()


def prepare(lab, first: str) -> None:
    shutil.rmtree(lab.directory / "runs" / "7", ignore_errors=True)
    if first:
        lab.run(first)


def check_points(lab, first: str, points: slice) -> int:
    """Number of points that were tried; `first` is a command that is done before, or empty."""
    lab.run(f"with {OPTIONS}")
    prepare(lab, first)
    code, operations = run_until(lab, ENSURE, 0)
    assert code == 0
    lab.assert_same(7, 1)
    tried = list(enumerate(operations, start=1))[points]
    for last, operation in tried:
        prepare(lab, first)
        code, _ = run_until(lab, ENSURE, last)
        assert code == -signal.SIGKILL, operation
        lab.run(ENSURE)
        assert lab.exit_code == 0, operation
        lab.assert_same(7, 1)
        assert lab.record(7)["status"] == "COMPLETED", operation
        assert not list((lab.directory / "runs/7").rglob("*.partial")), operation
    return len(tried)


@pytest.mark.thorough
@pytest.mark.parametrize("first", STARTS, ids=["new", "resumed"])
def test_some_operations(lab, first):
    assert check_points(lab, first, slice(0, None, 40)) > 2


@pytest.mark.slow
@pytest.mark.parametrize("first", STARTS, ids=["new", "resumed"])
def test_every_operation(lab, first):
    assert check_points(lab, first, slice(None)) > 100
