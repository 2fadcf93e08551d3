"""The MAML-TRPO script as a person uses it."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from records import metrics

from experiments import maml_trpo
from research import checkpoint

SCRIPT = Path(maml_trpo.__file__)
TINY = "fast horizon=10 num_threads=1"


def run(line: str):
    return maml_trpo.experiment.run_commandline([str(SCRIPT), *shlex.split(line)]).result


def start(line: str, **options) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(SCRIPT), *shlex.split(line)], text=True, env=environment, **options)


def assert_same_run(record: Path, reference: Path) -> None:
    assert metrics(record) == metrics(reference)
    for name in ("latest", "best"):
        ours, theirs = (checkpoint.load(path / "checkpoints" / name).state for path in (record, reference))
        assert ours["iteration"] == theirs["iteration"]
        assert ours["meta"]["model"].keys() == theirs["meta"]["model"].keys()
        for key, value in theirs["meta"]["model"].items():
            assert torch.equal(ours["meta"]["model"][key], value)
    ours, theirs = (json.loads((path / "run.json").read_text()) for path in (record, reference))
    assert (ours["status"], ours["result"]) == (theirs["status"], theirs["result"])


def test_a_run_ends_with_the_curve_the_record_the_checkpoint_and_two_pictures(runs, capsys):
    result = run(f"with {TINY} num_eval_tasks=6")
    shown = capsys.readouterr().out
    assert "Adaptation to 6 held-out test tasks" in shown
    table = [line.split() for line in shown.splitlines() if line.strip()[:1].isdigit() and "[" in line]
    assert [int(row[0]) for row in table] == [0, 1, 2, 3]
    assert [float(row[1]) for row in table] == pytest.approx(result["score"], abs=0.006)
    for row in table:
        low, high = (float(part.strip("[],")) for part in row[2:])
        assert low <= float(row[1]) <= high
    for name in ("run.json", "checkpoints/latest.pt", "adaptation_curve.png", "paths.png"):
        assert (runs / "1" / name).exists()
    for place in ("runs/1", "runs/1/checkpoints/latest.pt", "runs/1/adaptation_curve.png", "runs/1/paths.png"):
        assert place in shown
    assert json.loads((runs / "1" / "run.json").read_text())["artifacts"] == [
        "evaluation.json",
        "adaptation_curve.png",
        "paths.png",
    ]
    for label in ("iteration 3/3", "before -", "after -", "KL ", "steps/s ", "left 0:"):
        assert label in shown


def test_a_checkpoint_is_evaluated_for_more_steps_than_trained(runs):
    trained = run(f"with {TINY}")
    assert run("evaluate with checkpoint=runs/1/checkpoints/latest") == trained
    longer = run("evaluate with checkpoint=runs/1/checkpoints/latest num_adapt_steps=5")
    assert longer["score"][:4] == trained["score"]
    assert len(longer["score"]) == 6
    other = run("evaluate with checkpoint=runs/1/checkpoints/latest eval_inner_lr=[0.1,0.7]")
    assert other["score"][:2] == trained["score"][:2]
    assert other["score"][2] != trained["score"][2]


def test_going_on_equals_never_having_stopped(runs):
    run(f"with {TINY} num_iterations=4")
    run(f"with {TINY} num_iterations=2")
    run("resume with run=2 num_iterations=4")
    assert_same_run(runs / "2", runs / "1")


@pytest.mark.parametrize("name", maml_trpo.experiment.named_configs)
def test_every_named_config_is_valid(name, capsys):
    run(f"print_config with {name}")
    assert "meta_batch_size" in capsys.readouterr().out


def test_the_papers_settings(capsys):
    config = maml_trpo.experiment.run("print_config", named_configs=["navigation_2d_paper"]).config
    assert (config["meta_batch_size"], config["episodes_per_task"], config["horizon"]) == (40, 20, 100)
    assert (config["num_inner_steps"], config["inner_lr"]) == (1, 0.5)
    assert (config["num_iterations"], config["max_kl"]) == (100, 0.01)
    assert (config["policy"]["hidden_sizes"], config["policy"]["activation"]) == ([100, 100], "relu")


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ("meta_batchsize=4", "meta_batchsize=4: no such key; did you mean meta_batch_size?"),
        ("policy.hiden_sizes=[8]", "policy.hiden_sizes=[8]: no such key; did you mean policy.hidden_sizes?"),
        ("task_args.goal_rang=1", "task_args.goal_rang=1: no such key; did you mean task_args.goal_range?"),
        ("meta_batch_size=ten", "meta_batch_size='ten': need an integer"),
        ("inner_lr=0,1", "inner_lr=0,1: a comma outside of brackets"),
        ("inner_lr=0", "inner_lr=0.0: need a rate above 0"),
        ("meta_batch_size=0", "meta_batch_size=0: need at least 1"),
        ("max_kl=-1", "max_kl=-1.0: need a value above 0"),
        ("task_args.goal_range=x", "task_args.goal_range='x': need a number"),
        ("task_args.goal_range=-1", "task_args.goal_range=-1.0: need a value above 0"),
        ("task=navigation", "task='navigation': need one of "),
        ("policy.activation=sin", "policy.activation='sin': need one of"),
        ("inner_loop=hihger", "inner_loop='hihger': need one of func, higher, learn2learn; did you mean higher?"),
        ("device=abacus", "device='abacus': torch cannot use it"),
    ],
)
def test_a_setting_that_cannot_be_stops_before_any_work(runs, capsys, update, message):
    with pytest.raises(SystemExit) as stopped:
        run(f"with fast {update}")
    shown = capsys.readouterr()
    assert stopped.value.code == 2
    assert message in shown.err
    assert not runs.exists()


def test_the_shell_sees_the_message_and_the_exit_code(runs):
    process = start("with navigation_2d meta_batch_size=ten", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == "error: meta_batch_size='ten': need an integer\n"
    assert not runs.exists()


@pytest.mark.slow
def test_killed_at_three_random_moments_it_ends_as_if_it_never_was(runs):
    settings = f"{TINY} num_iterations=80 eval_interval=20 checkpoint_interval=4 meta_batch_size=2 cg_iterations=3"
    run(f"with {settings}")
    moments = random.Random(0)
    latest = runs / "2" / "checkpoints" / "latest.pt"
    line = f"with {settings}"
    for _ in range(3):
        before = latest.stat().st_mtime_ns if latest.exists() else 0
        process = start(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (latest.exists() and latest.stat().st_mtime_ns > before):
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.1))
        process.kill()
        assert process.wait() == -signal.SIGKILL  # it was still at work
        assert json.loads((runs / "2" / "run.json").read_text())["status"] == "RUNNING"
        line = "resume with run=2"
    run(line)
    assert len(json.loads((runs / "2" / "run.json").read_text())["resumed"]) >= 1
    assert_same_run(runs / "2", runs / "1")


@pytest.mark.parametrize("name", ["cheetah_vel", "cheetah_dir", "ant_dir", "ant_goal"])
def test_the_named_configs_of_robots_train(runs, name, capsys):
    result = run(f"with {name} {TINY} num_iterations=1 eval_interval=1")
    config = json.loads((runs / "1" / "config.json").read_text())
    assert config["task"] == name and config["inner_lr"] == 0.1
    assert (runs / "1" / "checkpoints" / "latest.pt").exists()
    shown = capsys.readouterr().out
    if name.endswith("_dir"):
        assert "mean return on validation tasks (those of training) " in shown
        assert "Adaptation to 5 test tasks (those of training): there are only two directions" in shown
        assert "held-out" not in shown and result["held_out"] is False
    else:
        assert "mean return on held-out validation tasks " in shown
        assert "Adaptation to 5 held-out test tasks\n" in shown and result["held_out"] is True
