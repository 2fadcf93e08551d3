"""`python -m analysis search`: tables and pictures of a search."""

from __future__ import annotations

import numpy as np
import pytest
from search_runs import Bench, quality

from analysis.__main__ import main
from analysis.data.searches import load_search

ASHA = {"asha": {"min_iterations": 1, "reduction": 3}}


@pytest.fixture
def made(tmp_path):
    def make(name="toy-1", score=quality, **sections):
        (tmp_path / "runs" / "_searches").mkdir(parents=True, exist_ok=True)
        bench = Bench(tmp_path / "runs" / "_searches" / name, score, **sections)
        return bench, bench.finish()

    return make


def test_a_search_as_frames_is_what_its_workers_were_told(made, tmp_path):
    _, trials = made(method=ASHA)
    search = load_search(tmp_path / "runs", "toy")
    assert (search.name, search.metric, search.direction) == ("toy-1", "score", "maximize")
    assert search.trials["value"].tolist() == [trial.value for trial in trials]
    assert search.trials["state"].tolist() == [trial.state for trial in trials]
    assert search.trials["x"].tolist() == [trial.settings["x"] for trial in trials]
    assert search.trials["core_minutes"].sum() == pytest.approx(sum(trial.seconds for trial in trials) / 60)
    assert len(search.values) == sum(len(trial.values) for trial in trials)
    history = search.history()
    assert history["trial"].tolist() == [trial.number for trial in trials if trial.reached == 9]
    assert history["best"].tolist() == np.maximum.accumulate(history["value"]).tolist()


def test_the_setting_that_matters_is_the_most_important(made, tmp_path):
    made(score=lambda settings, step: -abs(settings["x"]), budget={"trials": 60})
    found = load_search(tmp_path / "runs").importances()
    assert found["dimension"].iloc[0] == "x" and found["importance"].sum() == pytest.approx(1)


def test_lost_trials_have_no_value_and_a_minimum_is_one(made, tmp_path):
    objective = {"metric": "score", "direction": "minimize"}
    made(score=lambda settings, step: None if settings["x"] > 0.5 else settings["x"] ** 2, objective=objective)
    search = load_search(tmp_path / "runs")
    lost = search.trials["x"] > 0.5
    assert lost.any() and search.trials["value"].isna().tolist() == lost.tolist()
    assert set(search.trials["state"][lost]) == {"lost"}
    assert search.history()["best"].iloc[-1] == search.trials["value"].min()


def test_the_command_prints_tables_and_draws(made, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["search", "toy"]) == 2
    assert "error: runs: no search was begun there" in capsys.readouterr().err
    _, trials = made(method=ASHA)
    assert main(["search", "toy", "--pictures", "pictures"]) == 0
    shown = capsys.readouterr().out
    assert "20 trials (18 stopped, 2 completed), 0.5 core-minutes" in shown and "importance" in shown
    assert shown.splitlines()[4].split()[0] == str(max(trials, key=lambda one: (one.reached, one.value)).number)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "history.png", "importances.png", "parallel.png",
    ]  # fmt: skip
    assert main(["search", "tay"]) == 2
    assert "tay: no such search in runs; did you mean toy-1?" in capsys.readouterr().err
