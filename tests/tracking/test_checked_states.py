"""Algorithms that check a state refuse a training before its record is opened, and refuse no evaluation."""

from __future__ import annotations

import toy_experiment

from research.tracking.records import has_record


def test_a_training_that_the_algorithm_refuses_leaves_its_record_as_it_is(lab, monkeypatch, capsys):
    asked, problem = [], ["data='x': need other data"]

    class Checking(toy_experiment.Toy):
        def check(self, state):
            asked.append(state.iteration)
            if problem:
                raise ValueError(problem[0])

    def refused(line):
        lab.run(line)
        assert lab.exit_code == 2 and problem[0] in capsys.readouterr().err

    monkeypatch.setattr(toy_experiment, "Toy", Checking)
    record = lab.directory / "runs" / "7"
    refused("with num_iterations=4")
    refused("ensure with run=7 num_iterations=4")
    assert not has_record(record) and asked == [0, 0]
    text = problem.pop()
    lab.run("ensure with run=7 num_iterations=4")
    assert lab.exit_code == 0 and asked == [0, 0, 0]
    problem.append(text)
    names = ("run.json", "config.json", "metrics.jsonl", "cout.txt")
    before = [(record / name).read_bytes() for name in names]
    refused("resume with run=7 num_iterations=6")
    refused("ensure with run=7 num_iterations=6")
    assert asked == [0, 0, 0, 4, 4] and before == [(record / name).read_bytes() for name in names]
    lab.run("evaluate with run=7")
    assert lab.exit_code == 0 and len(asked) == 5
