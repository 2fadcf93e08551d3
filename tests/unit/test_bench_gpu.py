"""The script of the figures of a GPU: it runs without one, and says what it could not measure."""

import math
import subprocess
import sys
import time

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import Case, Row
from benchmarks.harness import ROOT


class Stub:
    """An algorithm whose iterations take no time, or need too much memory."""

    def __init__(self, fails=False):
        self.fails = fails

    def init(self):
        return 0

    def step(self, state):
        if self.fails:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")
        return state + 1, {"count": state + 1.0}


def case(size="small", work=10, fails=False):
    return Case("Stubs", size, work, lambda device: Stub(fails), {"count": lambda metrics: metrics["count"]})


def test_the_first_iteration_is_not_measured():
    row = gpu.measure(case(), "cpu", time.perf_counter() + 60)
    assert row.cells == [4]  # the median of 2 to 6


def test_a_late_case_has_one_iteration_that_is_measured():
    assert gpu.measure(case(), "cpu", time.perf_counter() - 60).cells == [2]


def test_a_case_that_needs_too_much_memory_is_named_and_the_others_go_on():
    rows = list(gpu.run([case("large", fails=True), case()], ["cpu"], time.perf_counter() + 60))
    assert "out of memory" in rows[0].note
    assert rows[1].cells


def test_a_case_that_does_not_fit_into_the_time_is_left_out():
    rows = list(gpu.run([case(), case("huge", work=10**15)], ["cpu"], time.perf_counter() + 60))
    assert rows[0].cells
    assert not rows[1].cells
    assert "left out" in rows[1].note


def test_the_table_has_the_time_of_the_cpu_over_that_of_the_gpu():
    own = case("20 tasks")
    rows = [Row(own, "cuda", [1.0], 0.5, 2.0, ""), Row(own, "cpu", [1.0], 2.0, math.nan, "")]
    table = gpu.tables(rows).splitlines()
    assert table[0] == "### Stubs"
    assert table[-2:] == ["| 20 tasks | cuda | 1 | 0.5 | 2.00 | 4.00 |", "| 20 tasks | cpu | 1 | 2 |  |  |"]
    assert len({line.count("|") for line in table[2:]}) == 1


def test_without_a_gpu_the_status_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "finds no GPU" in capsys.readouterr().err


@pytest.mark.thorough
def test_every_case_runs_on_the_cpu(monkeypatch):
    monkeypatch.setenv("PYTHON", sys.executable)
    command = ["sh", str(ROOT / "benchmarks" / "gpu.sh"), "--device", "cpu", "--quick"]
    output = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert output.returncode == 0, output.stderr
    titles = [line for line in output.stdout.splitlines() if line.startswith("### ")]
    assert titles == [
        "### RL² on bandits",
        "### RL² on tabular MDPs",
        "### MAML-TRPO on navigation",
        "### DQN on CartPole",
    ]
    rows = [line for line in output.stdout.splitlines() if "| cpu |" in line]
    assert len(rows) == 7
    assert not any("left out" in row or "out of memory" in row for row in rows)
