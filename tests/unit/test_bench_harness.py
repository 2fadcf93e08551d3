import json

import pytest

from benchmarks import __main__ as command
from benchmarks import bench_maml_ppo, harness
from benchmarks.harness import Measurement


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """An empty registry and a record of its own."""
    monkeypatch.setattr(harness, "BENCHMARKS", {})
    monkeypatch.setattr(command, "MODULES", ())
    monkeypatch.setattr(command, "LATEST", tmp_path / "latest.jsonl")
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    return harness.BENCHMARKS


def test_only_the_matching_benchmarks_run_and_are_recorded(registry, capsys):
    @harness.benchmark("walk/fast")
    def fast():
        yield Measurement("walk/fast/steps", 412345.0, "steps/s", at_least=400_000)

    @harness.benchmark("walk/slow")
    def slow():
        raise AssertionError("does not match")

    assert command.main(["fast"]) == 0
    [line] = command.LATEST.read_text().splitlines()
    record = json.loads(line)
    assert (record["name"], record["value"], record["unit"]) == ("walk/fast/steps", 412345.0, "steps/s")
    assert record["context"].keys() >= {"threads", "cpu", "python", "torch", "numpy", "commit"}
    assert "412,345" in capsys.readouterr().out


def test_what_was_measured_before_a_failure_is_recorded(registry):
    @harness.benchmark("breaks")
    def breaks():
        yield Measurement("breaks/first", 1.0, "s")
        raise RuntimeError("second")

    with pytest.raises(RuntimeError, match="second"):
        command.main([])
    assert json.loads(command.LATEST.read_text())["name"] == "breaks/first"


def test_a_text_that_matches_nothing_names_what_there_is(registry, capsys):
    harness.benchmark("walk")(list)
    assert command.main(["run"]) == 2
    assert capsys.readouterr().err == "ONLY=run: no benchmark's name contains it; there are walk\n"


def test_a_taken_name_is_refused(registry):
    harness.benchmark("walk")(list)
    with pytest.raises(ValueError, match="'walk'"):
        harness.benchmark("walk")(list)


def test_median_leaves_out_the_warm_up(monkeypatch):
    clock = 0.0
    durations = iter([100.0, 100.0, 1.0, 5.0, 2.0])

    def work():
        nonlocal clock
        clock += next(durations)

    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock)
    assert harness.median_seconds(work, warmup=2, repeats=3) == 2.0


def test_table_is_aligned_and_marks_a_missed_limit():
    lines = harness.table(
        [
            Measurement("update", 1.23456, "s", at_most=1.5, note="3.8× faster"),
            Measurement("collect", 399999.0, "steps/s", at_least=400_000),
            Measurement("memory", 0.0, "MiB"),
        ]
    ).splitlines()
    assert lines == [
        "name       value  unit     limit      met  note",
        "update     1.235  s        ≤ 1.500    yes  3.8× faster",
        "collect  399,999  steps/s  ≥ 400,000  NO",
        "memory       0.0  MiB",
    ]


def test_peak_memory_is_that_of_the_process_alone():
    held_here = bytearray(200 * 2**20)
    idle = harness.peak_memory_mib("builtins:bytearray", 0)
    busy = harness.peak_memory_mib("builtins:bytearray", 100 * 2**20)
    assert len(held_here) / 2**20 > idle
    assert busy - idle == pytest.approx(100, abs=10)


def test_a_failing_process_is_reported():
    with pytest.raises(RuntimeError, match="no_such_name"):
        harness.peak_memory_mib("builtins:no_such_name")


def test_the_arithmetic_of_a_meta_gradient_by_hand():
    """Layers 2 → 3 → 1: six products with each of 9 weights, six more with the 3 of the last, two operations each."""
    assert bench_maml_ppo.arithmetic((2, 3, 1), rows=5) == 2 * 5 * (6 * 9 + 6 * 3)
