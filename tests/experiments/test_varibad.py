"""The VariBAD script as a person uses it."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from records import metrics
from torch.utils import _pytree as pytree

from experiments import varibad
from research import checkpoint
from research.algorithms.memory.varibad import VariBAD

TINY = "fast num_threads=1 eval_interval=0"


def run(line: str):
    return varibad.experiment.run_commandline([varibad.__file__, *shlex.split(line)]).result


@pytest.mark.thorough
@pytest.mark.parametrize("inference", ["varibad", pytest.param("task", marks=pytest.mark.slow)])
def test_going_on_equals_never_having_stopped(inference, runs, capsys):
    settings = f"{TINY} inference={inference} num_minibatches=2 num_inference_minibatches=2 meta_batch_size=6"
    settings += " final_lr_fraction=1 entropy_coef=0"  # schedules depend on the number of iterations
    result = run(f"with {settings} num_iterations=4")
    assert len(result["score"]) == 6 and "total_regret" in result
    assert json.loads((runs / "1" / "run.json").read_text())["result"] == result
    run(f"with {settings} num_iterations=2")
    run("resume with run=2 num_iterations=4")
    assert metrics(runs / "1") == metrics(runs / "2")
    ours, theirs = (checkpoint.load(runs / name / "checkpoints" / "latest").state for name in ("1", "2"))
    first, second = pytree.tree_leaves(ours), pytree.tree_leaves(theirs)
    assert len(first) == len(second) > 50 and ours["inference_optimizer"]["step"] == 8
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert run("evaluate with run=1") == result
    assert "regret" in capsys.readouterr().out


def named(name: str, **changes):
    """The settings of a run with a named config."""
    settings = varibad.experiment.settings
    return settings.typed(settings.given(changes, [name]))[0]


@pytest.mark.parametrize("inference", ["varibad", "task"])
@pytest.mark.parametrize("name", varibad.NAMED_CONFIGS)
def test_every_named_config_is_valid(name, inference):
    config = named(name, inference=inference)
    assert config.tasks_at(config.num_iterations - 1) >= config.num_minibatches
    if name != "cheetah_vel":  # whose robot is slow to make
        VariBAD(config).init()


def test_named_configs_hold_settings_for_each_inference():
    assert named("gridnavi").decoder.reward_per_state and named("gridnavi").transition_coef == 0.0
    inferred = named("gridnavi", inference="task")
    assert inferred.decoder.hidden_sizes == (64,) and inferred.decoder.reward == "gaussian", "which is not read"


def test_the_grid_is_evaluated_on_each_goal_several_times():
    """Once each they have no interval."""
    config = named("gridnavi")
    rounds, rest = divmod(config.num_eval_tasks, 21)
    assert rounds >= 2 and not rest


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ("inference=task task=gym_env", "inference='task': task='gym_env' knows no parameters of its tasks to predict"),
        ("policy.belief_size=0", "policy.belief_size=0: inference='varibad' trains a belief"),
        ("num_elbo_times=7", "num_elbo_times=7: need at most 6, the steps of a trial (6 episodes); 0 for all"),
        ("decoder.reward=poisson", "decoder.reward='poisson': need one of"),
        ("decoder.reward_per_state=True", "decoder.reward_per_state=True: it is for one-hot observations"),
        ("elbo_times=7", "elbo_times=7: no such key"),
        ("inference=task num_elbo_times=4", "num_elbo_times=4: inference='task' does not read it; need 8"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(update, message, check_refused):
    check_refused(run, f"with {TINY} {update}", message)
