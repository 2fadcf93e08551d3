"""Damaged checkpoints: each one is refused by name, or holds what the whole one held."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch
from damage import KINDS, damages
from toy_experiment import OPTIONS

from experiments import lookahead_dqn, maml_sinusoid, maml_trpo, rl2
from research import checkpoint
from research.checkpoint import CheckpointError

SCRIPTS = {
    "gradient steps": (maml_trpo.experiment, ["navigation_2d", "fast"]),
    "memory": (rl2.experiment, ["bandit_k5_n10", "fast"]),
    "values, with a replay buffer": (lookahead_dqn.experiment, ["cartpole", "fast"]),
    "regression": (maml_sinusoid.experiment, ["fast"]),
}


def trained(name, directory):
    """The latest checkpoint of a run that trained for one iteration."""
    experiment, names = SCRIPTS[name]
    updates = {"runs_dir": str(directory), "num_iterations": 1}
    experiment.run("train", updates, named_configs=names, options={"--loglevel": "ERROR"})
    return directory / "1" / "checkpoints" / "latest.pt"


def is_same(left, right) -> bool:
    """Whether two trees have the same types, and tensors of the same bits in the same order."""
    if isinstance(left, torch.Tensor):
        if not isinstance(right, torch.Tensor) or (left.dtype, left.shape) != (right.dtype, right.shape):
            return False
        return left.stride() == right.stride() and left.numpy().tobytes() == right.numpy().tobytes()
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(is_same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(is_same, left, right))
    return type(left) is type(right) and repr(left) == repr(right)


def outcome(path, whole) -> str:
    """What comes of loading a file that was the checkpoint `whole` before it was damaged."""
    try:
        loaded = checkpoint.load(path)
    except CheckpointError as error:
        return "refused" if str(path) in str(error) else "refused without its name"
    except Exception as error:
        return f"not caught: {type(error).__name__}"
    return "identical" if is_same(vars(loaded) | {"path": ""}, vars(whole) | {"path": ""}) else "silently wrong"


def battery(path, count):
    """The outcomes of so many damages, by kind."""
    whole, content = checkpoint.load(path), path.read_bytes()
    found = collections.Counter()
    damaged = path.with_name("damaged.pt")
    for kind, bad in damages(content, count, np.random.default_rng(0)):
        damaged.write_bytes(bad)
        found[kind, outcome(damaged, whole)] += 1
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_1500_damages_of_a_checkpoint(name, tmp_path, capsys):
    """docs/results/damage.txt keeps what this prints."""
    path = trained(name, tmp_path)
    found = battery(path, 1500)
    with capsys.disabled():
        print(f"\n{name}: {path.stat().st_size} bytes, {found.total()} damages")  # noqa: T201
        for kind in KINDS:
            counts = ", ".join(f"{count} {what}" for (one, what), count in sorted(found.items()) if one == kind)
            print(f"  {kind:8} {counts}")  # noqa: T201
    assert {what for _, what in found} <= {"refused", "identical"}
    assert sum(count for (_, what), count in found.items() if what == "refused") > 1000


def test_damages_of_a_small_checkpoint(lab):
    lab.run("with num_iterations=3 surface.size=2000")
    found = battery(lab.directory / "runs/1/checkpoints/latest.pt", 180)
    assert {what for _, what in found} <= {"refused", "identical"}
    assert {kind for kind, what in found if what == "refused"} == set(KINDS)


@pytest.mark.thorough
def test_a_damaged_best_does_not_stop_a_run(lab, caplog):
    lab.run(f"with {OPTIONS}")
    lab.run(f"with {OPTIONS.replace('=12', '=7')}")
    best = lab.directory / "runs/2/checkpoints/best.pt"
    score = checkpoint.load(best).score
    best.write_bytes(best.read_bytes()[:-3])
    lab.run("resume with run=2 num_iterations=12")
    assert lab.exit_code == 0
    assert "best.pt is damaged" in caplog.text and f"(score {score:g}) is lost" in caplog.text
    assert checkpoint.load(best).iteration > 7, "the best of the evaluations that followed"
    best.unlink()
    caplog.clear()
    lab.run("resume with run=2 num_iterations=13")
    assert lab.exit_code == 0
    assert "best.pt: no such checkpoint" in caplog.text and "is lost" in caplog.text


@pytest.mark.thorough
@pytest.mark.parametrize("kept", [3, 5000, -1])
def test_ensure_goes_on_from_the_best_if_the_latest_is_cut(lab, capsys, kept):
    surface = "surface.size=2000"
    lab.run(f"with {OPTIONS} {surface}")
    lab.run(f"ensure with run=2 {OPTIONS.replace('=12', '=7')} {surface}")
    latest = lab.directory / "runs/2/checkpoints/latest.pt"
    latest.write_bytes(latest.read_bytes()[:kept])
    capsys.readouterr()
    lab.run(f"ensure with run=2 {OPTIONS} {surface}")
    assert lab.exit_code == 0
    assert "warning: runs/2/checkpoints/latest.pt is damaged" in capsys.readouterr().out
    lab.assert_same(2, 1)


def test_the_best_is_not_missed_where_there_was_none(lab, caplog):
    lab.run("with num_iterations=4 eval_interval=0")
    lab.run("resume with run=1 num_iterations=6")
    assert "best" not in caplog.text


@pytest.mark.thorough
def test_checkpoints_that_are_damaged_both_are_said_and_the_run_starts_again(lab, capsys):
    lab.run(f"with {OPTIONS}")
    lab.run(f"ensure with run=2 {OPTIONS.replace('=12', '=7')}")
    for path in (lab.directory / "runs/2/checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:700])
    capsys.readouterr()
    lab.run(f"ensure with run=2 {OPTIONS}")
    assert lab.exit_code == 0
    shown = capsys.readouterr()
    assert "latest.pt is damaged" in shown.out and "best.pt is damaged" in shown.out
    lab.assert_same(2, 1)
