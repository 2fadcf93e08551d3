"""The scripts of Algorithm Distillation as a person uses them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from records import metrics
from torch.utils import _pytree as pytree

from experiments import distillation, histories, lookahead_dqn, rl2
from research import checkpoint
from research.algorithms.memory.distillation import Distillation
from research.sampling.histories import read_histories
from research.sampling.trials import collect_trials
from research.tasks import make_tasks

TINY = "fast num_threads=1 eval_interval=0"
ROOM = "task=dark_room task_args.size=3 horizon=4"


def run(line: str, script=distillation):
    return script.experiment.run_commandline([script.__file__, *shlex.split(line)]).result


@pytest.mark.thorough
def test_going_on_equals_never_having_stopped(runs, capsys):
    settings = f"{TINY} final_lr_fraction=1"  # schedules depend on the number of iterations
    result = run(f"with {settings} num_iterations=4")
    assert len(result["score"]) == 3 and result["total_source"] > 0
    assert json.loads((runs / "1" / "run.json").read_text())["result"] == result
    run(f"with {settings} num_iterations=2")
    assert histories.main(["source", "own.npz", "with", *settings.split()]) == 0
    run("resume with run=2 num_iterations=4 histories=own.npz")  # the same, from a file
    assert metrics(runs / "1") == metrics(runs / "2")
    ours, theirs = (checkpoint.load(runs / name / "checkpoints" / "latest").state for name in ("1", "2"))
    first, second = pytree.tree_leaves(ours), pytree.tree_leaves(theirs)
    assert len(first) == len(second) > 30 and ours["checksum"] > 0
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert run("evaluate with run=1") == result
    assert "source_kept" in capsys.readouterr().out and (runs / "1" / "source.png").is_file()


@pytest.mark.thorough
def test_a_run_needs_the_file_of_its_histories_to_learn_and_not_to_be_evaluated(runs, capsys):
    for seed, name in ((0, "own.npz"), (1, "other.npz")):
        assert histories.main(["source", name, "with", *TINY.split(), f"seed={seed}"]) == 0
    result = run(f"with {TINY} num_iterations=1 histories=own.npz")
    assert "total_source" not in result
    Path("own.npz").rename("moved.npz")
    assert run("evaluate with run=1") == result
    before = [(runs / "1" / name).read_bytes() for name in ("run.json", "metrics.jsonl", "cout.txt")]
    for line, message in [
        ("resume with run=1 num_iterations=2", "histories='own.npz': no such file"),
        ("resume with run=1 num_iterations=2 histories=other.npz", "histories='other.npz': the checkpoint was trained"),
        ("evaluate with run=1 histories=\"''\"", "histories='': "),
    ]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as refused:
            run(line)
        assert refused.value.code == 2 and message in capsys.readouterr().err, line
    assert before == [(runs / "1" / name).read_bytes() for name in ("run.json", "metrics.jsonl", "cout.txt")]


@pytest.mark.parametrize("name", distillation.NAMED_CONFIGS)
def test_every_named_config_is_valid(name):
    settings = distillation.experiment.settings
    Distillation(settings.typed(settings.given({}, [name]))[0]).init()


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ("histories=none.npz", "histories='none.npz': no such file"),
        ("keep_every=3", "source.num_episodes=6: need at least 9"),
        ("source.kind=sarsa", "source.kind='sarsa': need one of"),
        ("source.step=1", "source.step=1: no such key"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(update, message, check_refused):
    check_refused(run, f"with {TINY} {update}", message)


def check_room(path, episodes):
    """Every episode of a file is one in a dark room of 3×3 cells, whose goal is that of its history."""
    found = read_histories(path, "dark_room", make_tasks("dark_room", size=3, horizon=4))
    following = make_tasks("dark_room", size=3).next_cell()[found.observation, found.action]
    assert found.length.shape == (len(found.length), episodes) and (found.length == 4).all()
    np.testing.assert_array_equal(found.observation[:, :, 0], 4)
    np.testing.assert_array_equal(found.observation[:, :, 1:], following[:, :, :-1])
    for cells, rewards in zip(following, found.reward, strict=True):
        goals = set(cells[rewards == 1])
        assert set(rewards.ravel()) <= {0.0, 1.0} and len(goals) <= 1 and not goals & set(cells[rewards == 0])
    return found


@pytest.mark.thorough
@pytest.mark.slow
def test_what_records_hold_can_be_distilled(runs, capsys):
    """Replay buffers of DQN are learning histories, and agents with a memory play their trials again."""
    dqn = f"design=lookahead {ROOM} network.hidden_sizes=[4] meta_batch_size=1 rows_per_task=1 batch_size=4"
    dqn += " train_freq=13 gradient_steps=1 phases_per_iteration=1 num_iterations=4 learning_starts=10 eval_episodes=1"
    dqn += " num_eval_tasks=2 adapt_transitions=8"
    for seed in (0, 1):
        run(f"with {dqn} seed={seed}", lookahead_dqn)
    assert histories.main(["records", "dqn.npz", "runs/1", "runs/2/checkpoints/latest.pt"]) == 0
    assert "dqn.npz: 2 histories of 13 episodes of dark_room" in capsys.readouterr().out
    found = check_room("dqn.npz", 13)
    kept = checkpoint.load(runs / "2" / "checkpoints" / "latest").state["replay"]["transitions"]
    np.testing.assert_array_equal(found.action[1].ravel(), kept["action"].numpy())
    np.testing.assert_array_equal(found.reward[1].ravel(), kept["reward"].numpy())
    run(f"with {TINY} histories=dqn.npz episodes_per_trial=3 keep_every=4 num_iterations=1")

    run(f"with fast num_threads=1 {ROOM} episodes_per_trial=3 num_iterations=1 eval_interval=0", rl2)
    assert histories.main(["records", "rl2.npz", "runs/4", "--trials", "7"]) == 0
    check_room("rl2.npz", 3)
    run(f"with {dqn} replay.buffer_size=30", lookahead_dqn)
    for paths, message in [
        (["runs/5"], "its replay buffer holds 30 of 52 transitions; need replay.buffer_size"),
        (["runs/9"], "no such checkpoint"),
        (["runs/4", "runs/1"], None),
    ]:
        if message is None:
            assert histories.main(["records", "both.npz", *paths, "--trials", "5"]) == 0
            check_room("both.npz", 3)
            continue
        with pytest.raises(SystemExit):
            histories.main(["records", "none.npz", *paths])
        assert message in capsys.readouterr().err


def test_diverged_trials_are_left_out(monkeypatch, capsys):
    settings = distillation.experiment.settings
    algorithm = Distillation(settings.typed(settings.given({}, ["fast"]))[0])
    untrained = SimpleNamespace(path="latest.pt", restore=lambda state: state)
    expected = histories._of_trials(algorithm, untrained, 5).histories
    rows = [2]

    def collected(*arguments, **named):
        """Trials some of which diverged in the third step, before their first episode ended."""
        trials = collect_trials(*arguments, **named)
        trials.diverged[rows] = True
        trials.valid[rows, :, 2:] = False
        return trials

    monkeypatch.setattr(histories, "collect_trials", collected)
    found = histories._of_trials(algorithm, untrained, 5).histories
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs[[0, 1, 3, 4]])
    assert "latest.pt: 1 of 5 trials diverged and are left out" in capsys.readouterr().out
    rows[:] = range(5)
    with pytest.raises(ValueError, match=r"latest\.pt: all of the 5 trials diverged; need"):
        histories._of_trials(algorithm, untrained, 5)
