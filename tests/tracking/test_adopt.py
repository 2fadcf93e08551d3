"""`--adopt`: a run goes on with the state of another one and with other settings, and its record says so."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_experiment import Config, Toy, make

from research import checkpoint
from research.plain_state import to_plain
from research.tracking.adopting import read_lineage

COMMON = "num_iterations=12 eval_interval=4 checkpoint_interval=5"
OWN = f"ensure with run=2 seed=2 {COMMON}"
NOTE = {"generation": 0, "member": 1, "donor": 0, "why": "truncation", "changed": {"lr": [0.05, 0.15]}}


def identical(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(identical(left[key], right[key]) for key in left)
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """Two runs stopped at iteration 4, made once for all tests."""
    directory = tmp_path_factory.mktemp("stopped")
    with contextlib.chdir(directory):
        for line in (f"ensure with run=1 seed=1 lr=0.2 {COMMON}", f"{OWN} lr=0.05"):
            with pytest.raises(SystemExit, match="0"):
                make().run_commandline(["toy", *line.split(), "--stop-at=4"])
    return directory


@pytest.fixture
def file(lab, stopped) -> Path:
    """A copy of them, and what the second one adopts of the first."""
    shutil.copytree(stopped, lab.directory, dirs_exist_ok=True)
    for run in (1, 2):
        shutil.copy(f"runs/{run}/checkpoints/latest.pt", f"end-{run}.pt")
    return write()


def write(**changes: Any) -> Path:
    content = {"donor": "end-1.pt", "own": "end-2.pt", "note": NOTE} | changes
    Path("adopt.json").write_text(json.dumps(content))
    return Path("adopt.json")


def expected(iteration: int) -> Any:
    """The donor's state after the remaining iterations at the new rate, with the draws of the run's own seed."""
    toy = Toy(Config(seed=2, lr=0.15))
    state = checkpoint.load(Path("end-1.pt")).restore(toy.init())
    while state.iteration < iteration:
        state = toy.step(state).state
    return to_plain(state)


def test_a_run_goes_on_with_another_state_and_other_settings(lab, file):
    before = lab.metrics(2)
    lab.run(f"{OWN} lr=0.15 --adopt={file} --stop-at=8")
    assert lab.exit_code == 0
    assert identical(lab.state(2), expected(8))
    assert lab.metrics(2)[:4] == before
    assert [step for step, _ in lab.metrics(2)] == list(range(1, 9))
    assert lab.record(2, "config.json")["lr"] == 0.15
    assert lab.record(2)["resumed"][-1]["changed"] == {"lr": [0.05, 0.15]}
    assert read_lineage(lab.directory / "runs" / "2") == [NOTE]
    assert read_lineage(lab.directory / "runs" / "1") == []


def test_it_may_be_repeated_and_goes_on_without_the_option(lab, file):
    lab.run(f"{OWN} lr=0.15 --adopt={file} --stop-at=6")
    lab.run(f"{OWN} lr=0.15 --adopt={file} --stop-at=8")
    assert identical(lab.state(2), expected(8))
    lab.run(f"{OWN} lr=0.15")
    assert (lab.exit_code, lab.record(2)["status"]) == (0, "COMPLETED")
    assert identical(lab.state(2), expected(12))
    assert len(read_lineage(lab.directory / "runs" / "2")) == 1


def test_killed_before_a_checkpoint_it_adopts_again(lab, file, after_step):
    def kill() -> None:
        raise GeneratorExit  # no error of Python's kind, which would save a checkpoint

    after_step(5, kill)
    with pytest.raises(GeneratorExit):
        lab.run(f"{OWN} lr=0.15 --adopt={file}")
    assert lab.state(2)["iteration"] == 4
    assert lab.record(2, "config.json")["lr"] == 0.15
    lab.run(f"{OWN} lr=0.15 --adopt={file}")
    assert identical(lab.state(2), expected(12))
    assert [step for step, _ in lab.metrics(2)] == list(range(1, 13))
    assert len(read_lineage(lab.directory / "runs" / "2")) == 1


def test_its_own_state_with_other_settings(lab, file):
    lab.run(f"{OWN} lr=0.15 --adopt={write(donor='end-2.pt')} --stop-at=5")
    toy = Toy(Config(seed=2, lr=0.15))
    state = toy.step(checkpoint.load(Path("end-2.pt")).restore(toy.init())).state
    assert identical(lab.state(2), to_plain(state))


@pytest.mark.parametrize(
    ("line", "changes", "message"),
    [
        ("ensure with run=2 seed=3 num_iterations=12", {}, "seed=3: .* was trained with 2, and keeps to it"),
        (f"{OWN} surface.size=4", {}, "surface.size=4: .* was trained with 3.* that may change are lr"),
        (f"{OWN} lr=0.1", {"donor": "other.pt"}, "optimizer='momentum': the donor has 'sgd', and the setting cannot"),
        (f"{OWN} lr=0.1", {"donor": "late.pt"}, "late.pt is of iteration 6, end-2.pt of 4"),
        (f"{OWN} lr=0.1", {"own": "end-1.pt"}, "end-1.pt was written by another run than runs/2"),
        (f"{OWN} lr=0.1", {"donor": "none.pt"}, "none.pt: no such checkpoint"),
        (f"{OWN} lr=0.1", {"donors": "end-1.pt"}, "donors='end-1.pt': .*donor"),
        ("resume with run=2", {}, "--adopt=adopt.json: resume has no such option; need ensure"),
    ],
)
def test_what_cannot_be_adopted_is_refused(lab, file, capsys, line, changes, message):
    if changes.get("donor") == "other.pt":
        lab.run(f"ensure with run=3 optimizer=sgd {COMMON} --stop-at=4")
        shutil.copy("runs/3/checkpoints/latest.pt", "other.pt")
    if changes.get("donor") == "late.pt":
        lab.run(f"ensure with run=1 seed=1 lr=0.2 {COMMON} --stop-at=6")
        shutil.copy("runs/1/checkpoints/latest.pt", "late.pt")
    before = lab.record(2)
    lab.run(f"{line} --adopt={write(**changes)}")
    assert lab.exit_code == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert lab.record(2) == before
