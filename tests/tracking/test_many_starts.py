"""Processes that start at the same instant."""

from __future__ import annotations

from toy_experiment import start_together


def test_sixty_four_processes_on_one_directory(lab):
    assert start_together(64, lambda index: lab.directory) == [0] * 64
    assert sorted(map(int, lab.runs())) == list(range(1, 65))
    seeds = set()
    for run in lab.runs():
        assert lab.record(run)["status"] == "COMPLETED"
        assert [step for step, _ in lab.metrics(run)] == [1, 2, 3]
        assert lab.state(run)["iteration"] == 3
        assert lab.record(run, "metrics.json")["loss"]["steps"] == [1, 2, 3]
        seeds.add(lab.record(run, "config.json")["seed"])
    assert seeds == set(range(64))
