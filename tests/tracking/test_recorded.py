"""Records with settings that nothing reads any more: they can be used, and what is given is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import toy_experiment
from toy_experiment import OPTIONS

from research.validation import refuse_unread

REASON = "nothing reads it"


@pytest.fixture
def old_runs(lab, monkeypatch):
    """Runs of a version that accepted `remark`, which the algorithm refuses now, and `lr`, which the Config refuses."""
    lab.run(f"with {OPTIONS} remark=old lr=0.2")
    for number in (2, 3):
        lab.run(f"ensure with run={number} {OPTIONS} remark=old lr=0.2 --stop-at=7")
    check, make = toy_experiment.Config.__post_init__, toy_experiment.Toy.__init__

    def refuse(self) -> None:
        check(self)
        refuse_unread(self, ("lr",), REASON)

    def build(self, config) -> None:
        refuse_unread(config, ("remark",), REASON)
        make(self, config)

    monkeypatch.setattr(toy_experiment.Config, "__post_init__", refuse)
    monkeypatch.setattr(toy_experiment.Toy, "__init__", build)
    return lab


def test_they_are_evaluated_and_continued(old_runs, capsys):
    first = old_runs.record(1)["result"]
    assert old_runs.run("evaluate with run=1")["score"] == first["score"], capsys.readouterr().err
    assert old_runs.run("evaluate with run=1 lr=0.2 num_adapt_steps=1")["score"] == first["score"][:2]
    old_runs.run("resume with run=2")
    old_runs.run(f"ensure with run=3 {OPTIONS} remark=old lr=0.2")
    for number in (2, 3):
        assert old_runs.record(number)["status"] == "COMPLETED", capsys.readouterr().err
        old_runs.assert_same(number, 1)
    assert old_runs.run("ensure with run=1")["score"] == first["score"]  # it is complete


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("with lr=0.2", f"lr=0.2: {REASON}; need 0.1"),
        ("with remark=old", f"remark='old': {REASON}; need ''"),
        ("ensure with run=9 lr=0.2", f"lr=0.2: {REASON}; need 0.1"),
        ("resume with run=2 lr=0.3", "lr=0.3: runs/2/checkpoints/latest.pt was trained with 0.2"),
        ("evaluate with run=2 remark=new", "remark='new': runs/2/checkpoints/latest.pt was trained with 'old'"),
    ],
)
def test_what_is_given_is_refused(old_runs, capsys, line, message):
    capsys.readouterr()
    old_runs.run(line)
    assert old_runs.exit_code == 2
    assert message in capsys.readouterr().err
    assert old_runs.record(2)["status"] == "INTERRUPTED"


@pytest.mark.parametrize(("change", "code"), [("", 0), ("lr=0.3", 2)])
def test_their_states_are_adopted_under_settings_that_are_read(old_runs, capsys, change, code):
    for number in (2, 3):
        shutil.copy(f"runs/{number}/checkpoints/latest.pt", f"end-{number}.pt")
    content = {"donor": "end-2.pt", "own": "end-3.pt", "note": {"generation": 0}}
    Path("adopt.json").write_text(json.dumps(content), encoding="utf-8")
    capsys.readouterr()
    old_runs.run(f"ensure with run=3 {OPTIONS} {change} --adopt=adopt.json")
    shown = capsys.readouterr().err
    assert old_runs.exit_code == code, shown
    assert (f"lr=0.3: {REASON}" in shown) == bool(code)
