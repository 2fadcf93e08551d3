"""The sinusoid script, in this process: every named config runs and is recorded."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.maml_sinusoid import NAMED_CONFIGS, experiment, report
from research.algorithms.regression.maml import MAMLRegressionConfig
from research.algorithms.regression.reptile import ReptileRegressionConfig
from research.checkpoint import load
from research.evaluation import AdaptationCurve
from research.tracking.records import read_rows


def run(names, directory, **updates):
    options = {"--loglevel": "ERROR"}
    return experiment.run("train", {"runs_dir": str(directory), **updates}, named_configs=names, options=options)


@pytest.mark.parametrize("name", [name for name in NAMED_CONFIGS if name != "fast"])
def test_every_named_config_trains_and_reports(name, tmp_path, capsys):
    finished = run([name, "fast"], tmp_path)
    assert finished.status == "COMPLETED"
    assert finished.result["label"] == "mean squared error"
    assert finished.result["iteration"] == 3
    assert len(finished.result["score"]) == 2
    assert all(map(math.isfinite, finished.result["score"]))
    assert (tmp_path / "1" / "adaptation_curve.png").stat().st_size > 5000
    printed = capsys.readouterr().out
    assert f"{finished.result['score'][1]:.4g}" in printed
    assert (tmp_path / "1" / "checkpoints" / "latest.pt").exists()


def test_the_best_checkpoint_has_the_lowest_error(tmp_path):
    finished = run(["maml", "fast"], tmp_path, eval_interval=1)
    errors = [row["values"] for row in read_rows(tmp_path / "1")]
    lowest = min(values["eval/score_after_1"] for values in errors if "eval/score_after_1" in values)
    assert load(tmp_path / "1" / "checkpoints" / "best").score == pytest.approx(-lowest)
    assert finished.status == "COMPLETED"


def test_an_evaluation_may_have_more_fresh_points(tmp_path):
    trained = run(["maml", "fast"], tmp_path)
    evaluated = experiment.run("evaluate", {"runs_dir": str(tmp_path), "run": 1, "eval_query_points": 200})
    assert evaluated.result["score"] != trained.result["score"]


@pytest.mark.parametrize("updates", [{}, {"algorithm": "reptile_regression"}])
def test_an_algorithm_has_its_own_defaults(updates):
    names = [] if updates else ["reptile"]
    config, _ = experiment.settings.typed(experiment.settings.given(updates, names))
    assert config == ReptileRegressionConfig()
    assert experiment.settings.typed({})[0] == MAMLRegressionConfig()


def test_errors_that_are_not_finite_are_reported_as_far_as_they_are(tmp_path, capsys):
    score = np.array([[3.0, 2.0], [1.0, 0.5], [np.inf, 0.1], [np.nan, 0.1]])
    assert report(AdaptationCurve("mean squared error", score, None, lower_is_better=True), tmp_path)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["1", "0.75"] in [line[:2] for line in lines]
    assert ["2", "diverged:"] in [line[:2] for line in lines]
    assert "3" not in [line[0] for line in lines if line]
