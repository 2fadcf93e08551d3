"""The scripts of MAML-PPO, FOMAML and Reptile as a person uses them."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from records import metrics
from torch.utils import _pytree as pytree

from experiments import maml_trpo
from research import checkpoint
from research.inner_loops.base import InnerLoopConfig
from research.inner_loops.func import FuncInnerLoop

NAMES = ("maml_ppo", "fomaml", "reptile")
MODULES = {name: importlib.import_module(f"experiments.{name}") for name in NAMES}
TINY = "fast horizon=10 num_threads=1 num_eval_tasks=2 eval_interval=0"
CHANGES = {
    "maml_ppo": "estimator=dice adaptive_kl=True num_minibatches=2",
    "fomaml": "meta_optimizer=adam",
    "reptile": "anneal_from=1.0",  # otherwise the rate depends on the number of iterations
}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def run(name: str, line: str):
    module = MODULES[name]
    return module.experiment.run_commandline([module.__file__, *shlex.split(line)]).result


def assert_same_run(record: Path, reference: Path) -> None:
    assert metrics(record) == metrics(reference)
    ours, theirs = (checkpoint.load(path / "checkpoints" / "latest").state for path in (record, reference))
    first, second = pytree.tree_leaves(ours), pytree.tree_leaves(theirs)
    assert len(first) == len(second) > 3
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_a_run_prints_the_curve_and_can_be_evaluated_again(name, runs, capsys):
    result = run(name, f"with {TINY}")
    shown = capsys.readouterr().out
    for part in ("Adaptation to 2 held-out test tasks", "iteration 3/3", "before -", "after -", "runs/1/paths.png"):
        assert part in shown
    assert len(result["score"]) == 4
    assert run(name, "evaluate with checkpoint=runs/1/checkpoints/latest") == result


def test_going_on_equals_never_having_stopped(name, runs):
    settings = f"{TINY} {CHANGES[name]}"
    run(name, f"with {settings} num_iterations=4")
    run(name, f"with {settings} num_iterations=2")
    run(name, "resume with run=2 num_iterations=4")
    assert_same_run(runs / "2", runs / "1")


def test_every_named_config_is_valid(name, capsys):
    for config in MODULES[name].experiment.named_configs:
        run(name, f"print_config with {config}")
        assert "meta_batch_size" in capsys.readouterr().out


@pytest.mark.parametrize("script", [*MODULES.values(), maml_trpo], ids=lambda script: script.__name__)
def test_named_configs_have_chunks_of_tasks_for_four_threads(script, capsys):
    for name in set(script.experiment.named_configs) - {"fast"}:
        config = script.experiment.run("print_config", named_configs=[name]).config
        steps = torch.empty(1, config["episodes_per_task"] * (config["horizon"] or 100))
        size = FuncInnerLoop(InnerLoopConfig()).tasks_per_chunk(torch.nn.Tanh(), [steps])
        assert config["meta_batch_size"] // size >= 4, name


@pytest.mark.parametrize(
    ("name", "update", "message"),
    [
        ("maml_ppo", "estimator=foo", "estimator='foo': need one of maml, e_maml, dice, lvc"),
        ("maml_ppo", "clip_eps=-1", "clip_eps=-1.0: need a value between 0 and 1, both excluded"),
        ("maml_ppo", "num_minibatches=50", "num_minibatches=50: need at most meta_batch_size=4"),
        ("maml_ppo", "num_epochs=0", "num_epochs=0: need at least 1"),
        ("maml_ppo", "adaptive_kl=True kl_coef=0", "kl_coef=0: adaptive_kl=True doubles and halves it"),
        ("maml_ppo", "kl_coeff=1", "kl_coeff=1: no such key; did you mean kl_coef?"),
        ("fomaml", "meta_optimizer=sdg", "meta_optimizer='sdg': need one of adam, sgd; did you mean sgd?"),
        ("fomaml", "learn_inner_lr=scalar", "learn_inner_lr='scalar': FOMAML has no gradient to learn it by"),
        ("reptile", "anneal_from=2", "anneal_from=2.0: need a value from 0 to 1"),
        ("reptile", "first_order=False", "first_order=False: Reptile uses no derivative of the inner steps"),
    ],
)
def test_a_setting_that_cannot_be_stops_before_any_work(runs, capsys, name, update, message):
    with pytest.raises(SystemExit) as stopped:
        run(name, f"with fast {update}")
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not runs.exists()


def test_the_promp_settings(capsys):
    config = MODULES["maml_ppo"].experiment.run("print_config", named_configs=["promp"]).config
    expected = dict(
        estimator="lvc", inner_lr=0.1, meta_lr=1e-3, num_epochs=5, clip_eps=0.3, kl_coef=5e-4, adaptive_kl=False
    )
    assert {key: config[key] for key in expected} == expected


def test_interrupted_it_stops_after_the_iteration_and_goes_on_to_the_same_end(runs):
    settings = f"{TINY} estimator=lvc adaptive_kl=True meta_batch_size=2 num_iterations=40 checkpoint_interval=2"
    run("maml_ppo", f"with {settings}")
    script = MODULES["maml_ppo"].__file__
    environment = os.environ | {"PYTHONPATH": str(Path(script).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, script, "with", *shlex.split(settings)], env=environment)
    latest = runs / "2" / "checkpoints" / "latest.pt"
    while process.poll() is None and not latest.exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    assert json.loads((runs / "2" / "run.json").read_text())["status"] == "INTERRUPTED"
    assert checkpoint.load(latest.with_suffix("")).state["iteration"] < 40
    run("maml_ppo", "resume with run=2")
    assert_same_run(runs / "2", runs / "1")
