"""The DQN script, in this process: every named config runs, is recorded, resumes and draws."""

from __future__ import annotations

import math

import pytest

from experiments.lookahead_dqn import DESIGNS, NAMED_CONFIGS, choose, experiment
from research.algorithms.value.config import LookaheadDQNConfig
from research.algorithms.value.lookahead_dqn import LookaheadDQN
from research.checkpoint import CheckpointError, load
from research.policies.q_network import QNetworkConfig
from research.tracking.config import ConfigError
from research.tracking.observer import read_rows

MODIFIERS = ("half_rate", "fast_slow", "slow_target", "rainbow", "learned_td", "bandit")


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
    names = ["cartpole", "bandit", "fast"]  # without what is annealed over `num_iterations`
    straight = run(names, tmp_path / "straight")
    run(names, tmp_path / "stopped", num_iterations=2)
    resumed = run([], tmp_path / "stopped", "resume", run=1, num_iterations=3)
    assert resumed.result["score"] == straight.result["score"]
    rows = [
        {key: value for key, value in row["values"].items() if not key.startswith("time/")}
        for directory in ("straight", "stopped")
        for row in read_rows(tmp_path / directory / "1")
    ]
    half = len(rows) // 2
    assert rows[:half] == rows[half:] and half >= 3


def test_the_designs_are_those_of_the_settings():
    for design, kind in DESIGNS.items():
        assert type(choose(LookaheadDQNConfig(design=design))) is kind


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
