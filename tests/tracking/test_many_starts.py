"""Processes that start at the same instant."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import toy_experiment

START = """
import sys, time, toy_experiment
experiment = toy_experiment.make()
print("ready", flush=True)
sys.stdin.read()
experiment.run(config_updates={"seed": int(sys.argv[1]), "num_iterations": 3})
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sixty_four_processes_on_one_directory(lab):
    support = toy_experiment.Path(toy_experiment.__file__).parent
    environment = {"PYTHONPATH": f"{support}:{support.parents[1]}", "PATH": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", START, str(index)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for index in range(64)
    ]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for process in processes:  # all of them wait for this
        process.stdin.close()
    for process in processes:
        process.stdout.read()
        assert process.wait() == 0
    assert len(lab.runs()) == 64
    seeds = set()
    for run in lab.runs():
        assert lab.record(run)["status"] == "COMPLETED"
        assert [step for step, _ in lab.metrics(run)] == [1, 2, 3]
        assert lab.state(run)["iteration"] == 3
        assert json.loads((lab.directory / "runs" / run / "metrics.json").read_text())["loss"]["steps"] == [1, 2, 3]
        seeds.add(lab.record(run, "config.json")["seed"])
    assert seeds == set(range(64))
