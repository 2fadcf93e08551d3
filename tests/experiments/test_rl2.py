"""The RL² script as a person uses it."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import torch
from records import metrics
from torch.utils import _pytree as pytree

from experiments import rl2
from research import checkpoint
from research.algorithms.memory.recurrent import num_parts
from research.algorithms.memory.rl2 import RL2
from research.conversion import from_mapping

TINY = "fast num_threads=1 eval_interval=0"


def run(line: str):
    return rl2.experiment.run_commandline([rl2.__file__, *shlex.split(line)]).result


def test_a_run_reports_episodes_regret_and_the_total(runs, capsys):
    result = run(f"with {TINY}")
    shown = capsys.readouterr().out
    for part in (
        "Adaptation to 50 held-out test tasks",
        "episodes of the trial",
        "regret",
        "total regret",
        "runs/1/regret.png",
    ):
        assert part in shown
    gain = float(shown.split("last less first")[1].split()[0])
    assert gain == pytest.approx(result["score"][-1] - result["score"][0], abs=0.006) and "tasks paired" in shown
    assert len(result["score"]) == 4 and result["unit"] == "episodes of the trial"
    assert result["total"] == pytest.approx(4 * 5 / 6 - result["total_regret"])
    assert run("evaluate with run=1") == result
    longer = run("evaluate with run=1 num_adapt_steps=29")
    assert len(longer["score"]) == 30 and longer["score"][:4] == result["score"]
    assert run("evaluate with run=1 eval_trials=3")["score"] != result["score"]
    assert capsys.readouterr().out.count("\n") < 60, "a long curve is a short table"
    assert all(
        (runs / "1" / name).read_bytes().startswith(b"\x89PNG") for name in ("regret.png", "adaptation_curve.png")
    )


def test_going_on_equals_never_having_stopped(runs):
    settings = f"{TINY} task=tabular_mdp num_minibatches=2 policy.outer_input=True policy.per_state_heads=True"
    settings += " meta_batch_size=6 final_lr_fraction=1 entropy_coef=0"  # schedules depend on the number of iterations
    run(f"with {settings} num_iterations=4")
    run(f"with {settings} num_iterations=2")
    run("resume with run=2 num_iterations=4")
    assert metrics(runs / "1") == metrics(runs / "2")
    ours, theirs = (checkpoint.load(runs / name / "checkpoints" / "latest").state for name in ("1", "2"))
    first, second = pytree.tree_leaves(ours), pytree.tree_leaves(theirs)
    assert len(first) == len(second) > 30
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_a_transformer_is_evaluated_on_longer_trials_if_its_positions_have_no_table(positions, runs, capsys):
    settings = "policy.memory=transformer policy.head=hyper policy.head_hidden_sizes=[4] policy.num_attention_heads=2"
    result = run(f"with {TINY} {settings} policy.positions={positions}")
    assert run("evaluate with run=1") == result
    if positions == "rotary":
        longer = run("evaluate with run=1 num_adapt_steps=9")
        assert len(longer["score"]) == 10 and longer["score"][:4] == result["score"]
    else:
        with pytest.raises(SystemExit):
            run("evaluate with run=1 num_adapt_steps=4")
        assert "policy.context_length=4: need at least 5, the steps of a trial" in capsys.readouterr().err


def test_tasks_without_a_known_optimum_have_no_regret(runs, capsys):
    settings = "task=navigation_2d horizon=5 update=trpo policy.separate_value=True chunk_length=4"
    result = run(f"with {TINY} {settings}")
    assert "regret" not in capsys.readouterr().out and "total" not in result
    assert not (runs / "1" / "regret.png").exists()
    assert np.isfinite(result["score"]).all() and json.loads((runs / "1" / "run.json").read_text())["result"] == result


@pytest.mark.parametrize("name", rl2.NAMED_CONFIGS)
def test_every_named_config_is_valid(name):
    config = from_mapping(RL2.Config, rl2.NAMED_CONFIGS[name])
    assert config.tasks_at(config.num_iterations - 1) >= config.num_minibatches
    assert config.task.startswith("cheetah_") or config.discount == 1.0, "the published tables are not discounted"


@pytest.mark.parametrize("name", rl2.NAMED_CONFIGS)
def test_every_minibatch_of_a_named_config_has_equal_parts_for_two_and_four_threads(name):
    config = from_mapping(RL2.Config, rl2.NAMED_CONFIGS[name])
    agent = RL2(config).agent
    for iteration in range(0, config.num_iterations, 7):
        trials = config.tasks_at(iteration) * config.trials_per_task
        for rows in {trials // config.num_minibatches, -(-trials // config.num_minibatches)}:
            parts = num_parts(rows, agent.longest, cheap=True)
            assert parts % 4 == 0 and 4 <= parts <= rows, (iteration, rows)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ("episodes_per_trial=0", "episodes_per_trial=0: need at least 1"),
        ("chunk_length=5", "chunk_length=5: need at most 4, the steps of a trial (4 episodes); 0 for whole trials"),
        ("update=a2c", "update='a2c': need one of ppo, trpo"),
        ("inner_lr=0.1", "inner_lr=0.1: no such key"),
        ("task=cheetah_vel policy.outer_input=True", "policy.outer_input=True: it is for discrete actions"),
        ("policy.hidden_size=0", "policy.hidden_size=0: need at least 1"),
        (
            "policy.head=hyper policy.head_hidden_sizes=[0]",
            "policy.head_hidden_sizes=(0,): need at least 1 unit in",
        ),
        (
            "policy.memory=transformer policy.context_length=3",
            "policy.context_length=3: need at least 4, the steps of",
        ),
        ("policy.memory=transformer chunk_length=2", "chunk_length=2: gradients are truncated at the state of a GRU"),
        ("task_args.num_arms=1", "task_args.num_arms=1: need at least 2"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(update, message, check_refused):
    check_refused(run, f"with {TINY} {update}", message)


def test_the_task_of_a_run_need_not_be_repeated(runs, capsys):
    """Its arguments are read as those of the task in the record, which is not the default."""
    line = f"{TINY} num_iterations=1 task=tabular_mdp num_eval_tasks=4"
    run(f"ensure with run=7 {line} task_args.num_states=3")
    result = run(f"ensure with run=7 {TINY} num_eval_tasks=4 num_iterations=1 task_args.num_states=3")
    assert "Run 7 is complete" in capsys.readouterr().out
    assert result == json.loads((runs / "7" / "run.json").read_text())["result"]
    run(f"ensure with run=7 {TINY} num_eval_tasks=4 num_iterations=2 task_args.num_states=3")
    assert checkpoint.load(runs / "7" / "checkpoints" / "latest").iteration == 2
    assert run("evaluate with run=7 task_args.num_states=3 num_eval_tasks=4 eval_split=train")["split"] == "train"
    with pytest.raises(SystemExit):
        run("evaluate with run=7 task_args.num_stat=3")
    assert "task_args.num_stat=3: no such key" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(f"ensure with run=7 {TINY} task_args.num_states=4")
    assert "task_args.num_states=4" in (shown := capsys.readouterr().err) and "keeps to it" in shown
