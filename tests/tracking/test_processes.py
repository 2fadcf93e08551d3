"""Runs where the output, the process or the program is not that of one command on a terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
import toy_experiment

from research.tracking.run import KEPT

PROGRAM = """
import sys
from concurrent.futures import ProcessPoolExecutor
import toy_experiment
from research.parallel import parallel_map
def run(seed):
    parallel_map(abs, [1, 2, 3], num_threads=2)
    return toy_experiment.make().run(config_updates={"seed": seed, "num_iterations": 2}).result
before = sys.stdout
first = run(1)
with ProcessPoolExecutor(2) as pool:
    others = list(pool.map(run, (1, 2)))
assert sys.stdout is before
assert others[0] == first != others[1]
"""


def test_a_training_whose_reader_leaves_and_whose_locale_is_ascii_completes(lab):
    command = f"{sys.executable} {toy_experiment.__file__} with num_iterations=300 eval_interval=5"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    line = f"set -o pipefail; {command} | head -1"
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert lab.record(1)["status"] == "COMPLETED"
    assert len(lab.metrics(1)) == 300
    assert "iteration 300: mean return on" in lab.output(1)
    assert " → " in lab.output(1)


def test_in_a_program_with_a_strict_stream_a_run_completes(lab, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    toy_experiment.make().run(config_updates={"eval_interval": 1})
    assert sys.stdout is stream
    assert stream.errors == "strict"
    assert lab.record(1)["status"] == "COMPLETED"


@pytest.mark.parametrize(
    "updates",
    [{"seed": np.int64(3)}, {"lr": np.float32(0.25)}, {"lr": np.array([0.5, 0.25])}, {"surface.size": np.uint8(2)},
     {"surface": {"curvature": (np.float64(1), np.int32(2))}}, {"extra": {"a": np.float64(0.5)}},
     {"remark": np.str_("text")}],
)  # fmt: skip
def test_numbers_of_numpy_are_numbers(lab, updates):
    toy_experiment.make().run(config_updates={"num_iterations": np.int32(1), **updates})
    recorded = lab.record(1, "config.json")
    assert recorded["num_iterations"] == 1
    for key, value in updates.items():
        found = recorded["surface"]["size"] if "." in key else recorded[key]
        wanted = value if isinstance(value, dict) else np.asarray(value).tolist()
        assert found == wanted or found.items() >= {"curvature": [1.0, 2.0]}.items()


def test_a_path_is_a_text(lab):
    toy_experiment.make().run(config_updates={"num_iterations": 1, "runs_dir": lab.directory / "elsewhere"})
    assert (lab.directory / "elsewhere" / "1" / "run.json").is_file()


def test_runs_of_threads_take_turns(lab):
    before, results = sys.stdout, {}

    def run(seed):
        updates = {"seed": seed, "num_iterations": 5}
        results[seed] = toy_experiment.make().run(config_updates=updates)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.stdout is before
    assert lab.runs() == ["1", "2", "3"]
    for run in results.values():
        assert lab.record(run._id)["status"] == "COMPLETED"
        assert lab.output(run._id).count("iteration 5/5") == 1
    assert len({tuple(run.result["score"]) for run in results.values()}) == 3


def test_runs_of_processes_that_were_forked_after_a_run(lab):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], env=environment, capture_output=True,
                          encoding="utf-8", timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert lab.runs() == ["1", "2", "3"]


def test_much_output_is_in_the_record_and_not_in_memory(lab, after_step):
    lines = [f"{number:>1000}" for number in range(20_000)]  # 20 MB in one iteration
    after_step(2, lambda: [sys.stdout.write(f"{line}\n") for line in lines])
    tracemalloc.start()
    try:
        run = toy_experiment.make().run()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [line for line in lab.output(1).splitlines() if line.startswith("   ")] == lines
    assert len(run.captured_out) <= KEPT
    assert peak < 12 * KEPT
