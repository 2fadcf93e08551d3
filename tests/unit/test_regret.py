"""`python -m analysis regret`: totals of recorded runs by hand, classical policies beside them, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from records import write_record

from analysis import __main__ as commands
from analysis.commands.regret import totals_table
from analysis.studies.rl2_games import Game

PULLS, TASKS = 4, 3


def record(directory, seed, each, arms=2, pulls=PULLS, **settings):
    """A run whose regret is `each` at every pull of its evaluation."""
    config = {"task": "bandit", "task_args": {"num_arms": arms}, "episodes_per_trial": PULLS, **settings}
    write_record(directory, seed=seed, **config)
    regret = np.full((pulls, TASKS), each)
    evaluation = {"score": (1 - regret).tolist(), "regret": regret.tolist(), "unit": "episodes of the trial"}
    (directory / "evaluation.json").write_text(json.dumps(evaluation))
    run = json.loads((directory / "run.json").read_text())
    run |= {"artifacts": ["evaluation.json"], "result": {"score": [0.0] * pulls, "unit": "episodes of the trial"}}
    (directory / "run.json").write_text(json.dumps(run))


def test_totals_by_hand_beside_the_classical_policies(tmp_path, capsys):
    for seed, each in enumerate((0.1, 0.2, 0.3)):
        record(tmp_path / str(seed + 1), seed, each)
    assert commands.main(["regret", str(tmp_path), "--tasks", "400", "--picture", str(tmp_path / "regret.png")]) == 0
    shown = capsys.readouterr().out
    best = PULLS * 2 / 3
    assert f"| RL², seed 1 | {best - 0.8:.2f} |" in shown
    assert f"| **RL²** | **{best - 0.8:.2f}** | [" in shown
    assert f"| the best policy from the start | {best:.2f} |" in shown
    totals = {line.split("**")[1]: float(line.split("**")[3]) for line in shown.splitlines() if line.startswith("| **")}
    assert totals["random"] == pytest.approx(PULLS / 2, abs=0.1)
    assert totals["Gittins index of the pulls that remain"] > totals["Thompson"] > totals["random"]
    assert (tmp_path / "regret.png").stat().st_size > 5000


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("game", "figures"),
    [
        (Game(5, 10), ["5.0", "6.6", "5.7", "6.7", "6.6", "", ""]),
        (Game(0, 10), ["100.1", "138.1", "144.1", "146.6", "150.2", "134.8", "", ""]),
    ],
)
def test_games_of_the_paper_have_its_figures(game, figures, monkeypatch):
    monkeypatch.setattr("analysis.studies.classical.mean_optimum", lambda: (21.84, 0.0))
    shown = totals_table(game.classical_regrets(20), game)
    assert [line.split("|")[-2].strip() for line in shown.splitlines()[2:]] == figures


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(task="cheetah_vel", task_args={}), "run 1: its task is 'cheetah_vel' with {}; need task='bandit'"),
        (
            dict(task="tabular_mdp", task_args={"num_states": 3}),
            "its task is 'tabular_mdp' with {'num_states': 3}; need",
        ),
        (
            dict(task="tabular_mdp", task_args={}, horizon=7),
            "its task is 'tabular_mdp' with {'horizon': 7}; need task=",
        ),
        (dict(task_args={"reward": "gaussian"}), "run 1: its task is 'bandit' with {'reward': 'gaussian'}; need task="),
    ],
)
def test_other_tasks_are_refused(tmp_path, capsys, settings, message):
    record(tmp_path / "1", 0, 0.1, **settings)
    assert commands.main(["regret", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [(dict(arms=3), "task_args"), (dict(pulls=3), "play 2 arms, 3 pulls; 2 arms, 4 pulls: need one game")],
)
def test_several_games_are_refused(tmp_path, capsys, settings, message):
    record(tmp_path / "1", 0, 0.1)
    record(tmp_path / "2", 1, 0.1, **settings)
    assert commands.main(["regret", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_the_pulls_are_those_of_the_evaluation(tmp_path, capsys):
    record(tmp_path / "1", 0, 0.1, pulls=7)
    assert commands.main(["regret", str(tmp_path), "--tasks", "20"]) == 0
    shown = capsys.readouterr().out
    assert "2 arms, 7 pulls" in shown and f"| RL², seed 0 | {7 * (2 / 3 - 0.1):.2f} |" in shown


def test_what_learned_from_regrets_is_told_apart(tmp_path, capsys):
    record(tmp_path / "1", 0, 0.1, arms=5, learn_from="reward", num_adapt_steps=None)
    record(tmp_path / "2", 0, 0.05, arms=5, learn_from="regret", num_adapt_steps=None)
    record(tmp_path / "3", 1, 0.1, arms=5, num_adapt_steps=None)  # from before there was a choice
    assert commands.main(["regret", str(tmp_path), "--tasks", "20"]) == 0
    shown = capsys.readouterr().out
    best = PULLS * 5 / 6
    assert f"| **RL²** | **{best - 0.4:.2f}** | [" in shown
    assert f"| **RL², learns from regret** | **{best - 0.2:.2f}** |" in shown


@pytest.mark.thorough
def test_totals_on_tabular_mdps(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("analysis.studies.classical.mean_optimum", lambda: (21.84, 0.0))
    for seed, each in enumerate((2.0, 3.0)):
        record(tmp_path / str(seed + 1), seed, each, task="tabular_mdp", task_args={"num_states": 10}, horizon=10)
    assert commands.main(["regret", str(tmp_path), "--tasks", "50"]) == 0
    shown = capsys.readouterr().out
    assert f"tabular MDPs, {PULLS} episodes" in shown
    assert "| **RL²** | **77.36** | [" in shown
    totals = {line.split("**")[1]: float(line.split("**")[3]) for line in shown.splitlines() if line.startswith("| **")}
    assert totals["random"] == pytest.approx(PULLS * 10, abs=1.5)
    assert totals["BEB, β = 10, prior mean 1"] > totals["BEB, β = 25"] > totals["PSRL"] > totals["random"]


def test_runs_of_other_algorithms_are_refused(tmp_path, capsys):
    write_record(tmp_path / "1", seed=0, task="navigation_2d", score=[[0.5], [0.6]])
    assert commands.main(["regret", str(tmp_path)]) == 2
    assert "run 1: its task is 'navigation_2d' with {}; need task='bandit'" in capsys.readouterr().err


def test_runs_without_a_recorded_regret_are_refused(tmp_path, capsys):
    write_record(tmp_path / "1", seed=0, task="bandit", episodes_per_trial=PULLS, score=[[0.5], [0.6]])
    assert commands.main(["regret", str(tmp_path)]) == 2
    assert "the runs have no recorded regret" in capsys.readouterr().err
