"""The benchmarks that run processes in turns: blocks, ratios, the comparison with the twins, and the page of growth."""

import sys

import pytest

from benchmarks import bench_growth, bench_peers
from benchmarks.bench_peers import Pairs, Worker, in_turns
from benchmarks.peers.blocks import Block, measure

COUNTER = """
import os
from benchmarks.peers.blocks import serve
state = {"number": 0}
def iterate():
    state["number"] += 1
    return float(os.environ.get("FIRST", 0)) + state["number"]
serve(iterate)
"""


def block(*seconds):
    return Block(list(seconds), [2 * value for value in seconds], [0.0] * len(seconds), 0)


def test_a_block_has_the_times_and_the_values_of_its_iterations():
    values = iter([3.0, 4.0])
    measured = measure(lambda: next(values), 2)
    assert measured.values == [3.0, 4.0]
    assert len(measured.seconds) == len(measured.processor_seconds) == 2
    assert all(value > 0 for value in measured.seconds)
    assert measured.peak_bytes > 2**20


@pytest.fixture
def counter(tmp_path, monkeypatch):
    """A program whose iterations count."""
    (tmp_path / "counting.py").write_text(COUNTER)
    paths = [str(tmp_path), str(bench_peers.ROOT)]
    monkeypatch.setenv("PYTHONPATH", ":".join(paths))
    return "counting"


def test_workers_take_turns_and_keep_their_state(counter):
    with (
        Worker(sys.executable, counter) as ours,
        Worker(sys.executable, counter, environment={"FIRST": "100"}) as other,
    ):
        pairs = in_turns(ours, other, warmup=1, iterations=2, turns=2)
    assert [own.values for own in pairs.ours] == [[2, 3], [4, 5]]
    assert [own.values for own in pairs.theirs] == [[102, 103], [104, 105]]


def test_a_worker_that_ends_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "breaking.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Worker(sys.executable, "breaking") as worker, pytest.raises(RuntimeError, match="breaking ended"):
        worker.run(1)


def test_the_ratio_is_a_median_of_pairs():
    pairs = Pairs([block(1, 1, 9), block(2, 2, 2), block(4, 4, 4)], [block(2, 2, 2), block(6, 6, 6), block(16, 0, 16)])
    assert pairs.ratio("seconds") == pairs.ratio("processor_seconds") == 3  # of 2, 3 and 4


def test_without_the_environment_the_command_that_makes_it_is_printed(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv(bench_peers.PYTHON, raising=False)
    monkeypatch.setattr(bench_peers, "ROOT", tmp_path)
    assert list(bench_peers.navigation()) == []
    assert "make peers" in capsys.readouterr().err


def test_a_variable_names_the_interpreter(monkeypatch):
    monkeypatch.setenv(bench_peers.PYTHON, "/some/python")
    assert bench_peers.interpreter() == "/some/python"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["navigation", "bandit", "cartpole"])
def test_the_twin_computes_the_same(name):
    python = bench_peers.interpreter()
    if python is None:
        pytest.skip(bench_peers.MISSING)
    found = bench_peers.differences(name, python)
    assert found.keys() >= {"update"}
    assert max(found.values()) < 1e-6


@pytest.mark.thorough
def test_our_iterations_run_as_workers():
    sizes = {"tasks": 2, "episodes": 2, "horizon": 5, "hidden": 8, "inner_steps": 2}
    point = bench_growth.measure(sizes, iterations=1)
    assert point.seconds > 0
    assert point.memory > 100


def test_the_exponent_is_that_of_the_power_law():
    sizes = [10, 20, 40]
    assert bench_growth.exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_the_table_replaces_the_one_between_the_marks(tmp_path):
    page = tmp_path / "growth.md"
    page.write_text(f"Text.\n{bench_growth.BEGIN}old\n{bench_growth.END}More.\n")
    points = {10: bench_growth.Point(0.5, 400.0), 20: bench_growth.Point(1.0, 800.0)}
    bench_growth.write_page(page, [bench_growth.row("inner_steps", points)])
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("Text.\n")
    assert text.endswith("More.\n")
    assert "| inner steps | 10 / 20 | 0.5 / 1 | 1.00 | 400 / 800 | 1.00 |" in text


def test_a_page_without_marks_is_refused(tmp_path):
    page = tmp_path / "growth.md"
    page.write_text("Text.\n")
    with pytest.raises(ValueError, match=r"growth\.md: need a line"):
        bench_growth.write_page(page, [])


def test_the_page_of_the_project_has_the_marks():
    text = bench_growth.PAGE.read_text(encoding="utf-8")
    assert text.index(bench_growth.BEGIN) < text.index(bench_growth.END)


def test_the_time_to_a_return_ends_with_the_first_mean_that_reaches_it(counter):
    with Worker(sys.executable, counter) as worker:
        seconds, iterations = bench_peers.until(worker, target=4.0, window=3)
    assert iterations == 5  # the mean of 3, 4 and 5
    assert 0 < seconds < 60


def test_a_return_that_is_not_reached_takes_for_ever(counter):
    with Worker(sys.executable, counter) as worker:
        assert bench_peers.until(worker, target=100.0, most=6) == (float("inf"), 6)


def test_a_comparison_has_difference_ratio_and_both_sides(counter, monkeypatch):
    started = []

    def stub(python, *command):
        started.append((python, command))
        return Worker(sys.executable, counter)

    monkeypatch.setenv(bench_peers.PYTHON, "/some/python")
    monkeypatch.setattr(bench_peers, "Worker", stub)
    monkeypatch.setattr(bench_peers, "differences", lambda name, python: {"advantage": 1e-9, "update": 1e-8})
    measured = list(bench_peers.compare("navigation", 1.5, warmup=1, iterations=2, turns=3, cores=1))
    names = [
        "difference",
        "ratio",
        *(f"{side}{part}" for side in ("ours", "jax") for part in ("", "/cores", "/peak_memory")),
    ]
    assert [own.name for own in measured] == [f"peers/navigation/{name}" for name in names]
    assert measured[0].value == 1e-8
    assert measured[1].at_least == 1.5
    assert all(own.value > 0 for own in measured)
    assert "value 6.50 at the end" in measured[2].note  # the mean of 6 and 7
    ours, jax = started
    assert ours == (sys.executable, ("benchmarks.peers.ours", "navigation", "--cores", "1"))
    assert jax == ("/some/python", ("benchmarks.peers.navigation", "--cores", "1"))
