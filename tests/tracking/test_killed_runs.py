"""A run that is killed at any one of its file operations goes on to the record of one that never was."""

from __future__ import annotations

import shlex
import shutil

import pytest
import toy_experiment
from crash_points import CrashPoints
from toy_experiment import OPTIONS

ENSURE = f"ensure with run=7 {OPTIONS}"
STARTS = ["", ENSURE.replace("num_iterations=12", "num_iterations=6")]


def prepare(lab, first: str) -> None:
    shutil.rmtree(lab.directory / "runs" / "7", ignore_errors=True)
    if first:
        lab.run(first)


def check_points(lab, first: str, points: slice) -> int:
    """Number of points that were tried; `first` is a command that is done before, or empty."""

    def ensure():
        toy_experiment.make().run_commandline([toy_experiment.__file__, *shlex.split(ENSURE)])

    watched = CrashPoints(lab.directory / "points", below=lab.directory / "runs")
    lab.run(f"with {OPTIONS}")
    prepare(lab, first)
    watched.fork(ensure)
    lab.assert_same(7, 1)
    tried = list(enumerate(watched.operations(), start=1))[points]
    for number, operation in tried:
        prepare(lab, first)
        watched.fork(ensure, number)
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
