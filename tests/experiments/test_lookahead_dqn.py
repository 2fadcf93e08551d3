"""The DQN script, in this process: every named config runs, is recorded, resumes and draws."""

from __future__ import annotations

import math

import pytest
import torch

from experiments.lookahead_dqn import DESIGNS, NAMED_CONFIGS, choose, experiment
from research.algorithms import ALGORITHMS
from research.algorithms.value.lookahead_dqn import LookaheadDQN, LookaheadDQNConfig
from research.checkpoint import CheckpointError, load
from research.conversion import ConfigError, to_mapping
from research.policies.q_network import QNetworkConfig
from research.tracking.observer import read_rows

MODIFIERS = ("half_rate", "fast_slow", "slow_target", "rainbow")


def run(names, directory, command="train", **updates):
    options = {"--loglevel": "ERROR"}
    return experiment.run(command, {"runs_dir": str(directory), **updates}, named_configs=names, options=options)


@pytest.mark.parametrize("name", [name for name in NAMED_CONFIGS if name != "fast"])
def test_every_named_config_trains_and_reports(name, tmp_path, capsys):
    names = ["cartpole", name, "fast"] if name in MODIFIERS else [name, "fast"]
    finished = run(names, tmp_path)
    assert finished.status == "COMPLETED"
    assert finished.result["iteration"] == 3 and len(finished.result["score"]) == 2
    assert all(map(math.isfinite, finished.result["score"]))
    assert (tmp_path / "1" / "adaptation_curve.png").stat().st_size > 5000
    is_grid = "grid" in name
    assert (tmp_path / "1" / "paths.png").exists() == is_grid
    assert finished.result["label"] == ("mean discounted return" if is_grid else "mean return")
    assert "TD steps" in capsys.readouterr().out


def test_a_run_that_was_stopped_ends_where_one_that_was_not_did(tmp_path):
    names, constant = ["cartpole", "fast"], {"exploration": {"start": 0.3, "end": 0.3}}  # nothing is annealed
    straight = run(names, tmp_path / "straight", **constant)
    run(names, tmp_path / "stopped", num_iterations=2, **constant)
    resumed = run([], tmp_path / "stopped", "resume", run=1, num_iterations=3)
    assert resumed.result["score"] == straight.result["score"]
    rows = [
        {key: value for key, value in row["values"].items() if not key.startswith("time/")}
        for directory in ("straight", "stopped")
        for row in read_rows(tmp_path / directory / "1")
    ]
    half = len(rows) // 2
    assert rows[:half] == rows[half:] and half >= 3


def resolved(names=(), **updates):
    return experiment.settings.typed(experiment.settings.given(updates, names))[0]


@pytest.mark.parametrize("design", DESIGNS)
def test_a_design_has_its_own_settings_and_defaults(design, capsys):
    assert resolved(design=design) == ALGORITHMS[DESIGNS[design]].Config()
    assert type(choose(resolved(design=design))) is ALGORITHMS[DESIGNS[design]]
    shown = experiment.run("print_config", {"design": design}, options={"--loglevel": "ERROR"}).config
    shown = {key: value for key, value in shown.items() if key not in ("run", "runs_dir", "checkpoint")}
    assert shown == to_mapping(ALGORITHMS[DESIGNS[design]].Config())
    assert f"design = {design!r}" in capsys.readouterr().out


def test_a_named_config_holds_differences_for_each_design():
    assert resolved(["fast"]).train_freq == 8
    assert resolved(["fast"], design="reptile").num_inner_steps == 2
    assert resolved(["grid_goals_maml", "fast"]).num_inner_steps == 2
    assert resolved(["fast", "grid_goals_maml"]).num_inner_steps == 6
    assert resolved(["fast"], design="maml", num_inner_steps=5).num_inner_steps == 5


@pytest.mark.parametrize(
    ("names", "updates", "message"),
    [
        ([], dict(design="dqn"), "design='dqn': need one of lookahead, reptile, maml"),
        ([], dict(num_inner_steps=2), "num_inner_steps=2: no such key with design='lookahead'; design='reptile' or "),
        ([], dict(design="reptile", train_freq=8), "train_freq=8: no such key with .*; design='lookahead' has it"),
        ([], dict(design="maml", target="slow"), "target='slow': need one of hard, polyak"),
        (["grid_goals_maml", "rainbow"], {}, "double=True: no such key with design='maml'; design='lookahead' or "),
        ([], dict(num_iner_steps=2), "num_iner_steps=2: no such key"),
    ],
)
def test_a_setting_of_another_design_is_refused(names, updates, message):
    with pytest.raises(ConfigError, match=message):
        resolved(names, **updates)


def test_a_command_keeps_to_the_design_of_the_checkpoint(tmp_path):
    run(["grid_goals_reptile", "fast"], tmp_path)
    assert run([], tmp_path, "evaluate", run=1, num_adapt_steps=0).result["unit"] == "× 100 TD steps"
    with pytest.raises(ConfigError, match="train_freq=8: no such key with design='reptile'; design='lookahead' has it"):
        run([], tmp_path, "evaluate", run=1, train_freq=8)
    with pytest.raises(ConfigError, match=r"design='maml': .* was trained with 'reptile'"):
        run([], tmp_path, "evaluate", run=1, design="maml")


def test_a_checkpoint_with_settings_of_an_older_version_is_refused(tmp_path):
    run(["cartpole", "fast"], tmp_path)
    path = tmp_path / "1" / "checkpoints" / "latest.pt"
    content = torch.load(path, weights_only=True)
    torch.save({**content, "config": {**content["config"], "num_inner_steps": 1}}, path)
    with pytest.raises(CheckpointError, match=r"made with other settings .*num_inner_steps=1: .*Use the version that"):
        run([], tmp_path, "evaluate", run=1)


def test_the_checkpoint_of_another_network_is_refused(tmp_path):
    run(["cartpole", "fast"], tmp_path)
    with pytest.raises(
        ConfigError, match=r"network.hidden_sizes=\[9\]: .* was trained with \[8\], and evaluate keeps to it"
    ):
        run([], tmp_path, "evaluate", run=1, network={"hidden_sizes": [9]})
    other = LookaheadDQN(LookaheadDQNConfig(network=QNetworkConfig((9,))))
    with pytest.raises(
        CheckpointError, match=r"does not fit these settings: state.meta.model\['value.0.weight'\] is .*8, 4"
    ):
        load(tmp_path / "1" / "checkpoints" / "latest").restore(other.init())


def test_exploration_does_not_rise_in_a_run_that_is_continued_for_longer(tmp_path):
    """ε, and the step size of Reptile, go on from where they were."""
    settings = {"learning_starts": 8, "eval_interval": 0, "exploration": {"fraction": 1.0}}
    run(["cartpole", "fast"], tmp_path, **settings, num_iterations=4)
    run((), tmp_path, "resume", run=1, num_iterations=6)
    continued = [row["values"]["epsilon"] for row in read_rows(tmp_path / "1")]
    assert continued[:4] == sorted(continued[:4], reverse=True)
    assert continued[4] == continued[5] <= continued[3]
    run((), tmp_path, "resume", run=1, num_iterations=8, schedule_iterations=16)
    assert [row["values"]["epsilon"] for row in read_rows(tmp_path / "1")][6] > continued[5]
