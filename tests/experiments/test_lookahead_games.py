"""The games script, in this process: every named config runs, prints its table and draws its plays."""

from __future__ import annotations

import math
import re

import pytest

from experiments.lookahead_games import NAMED_CONFIGS, experiment


def run(names, directory, command="train", **updates):
    options = {"--loglevel": "ERROR"}
    return experiment.run(command, {"runs_dir": str(directory), **updates}, named_configs=names, options=options)


@pytest.mark.parametrize("name", [name for name in NAMED_CONFIGS if name != "fast"])
def test_every_named_config_plays_and_reports(name, tmp_path, capsys):
    finished = run([name, "fast"], tmp_path)
    assert finished.status == "COMPLETED"
    assert len(finished.result["score"]) == NAMED_CONFIGS["fast"]["num_adapt_steps"] + 1
    assert all(map(math.isfinite, finished.result["score"]))
    assert (tmp_path / "1" / "plays.png").stat().st_size > 5000
    printed = capsys.readouterr().out
    last = f"{finished.result['score'][-1]:.3g}"
    assert re.search(rf"^ +8 +{re.escape(last)} ", printed, re.MULTILINE), printed


@pytest.mark.parametrize("names", [["rock_paper_scissors"], ["matching_pennies", "k10"]])
def test_lookahead_arrives_and_plain_steps_do_not(names, tmp_path, capsys):
    run(names, tmp_path)
    (last,) = re.findall(r"^ +800 +(.*)$", capsys.readouterr().out, re.MULTILINE)
    _, farthest, exploitability, _, nearest = map(float, last.split())
    assert farthest < 1e-6
    assert exploitability < 1e-6
    assert nearest > 0.9


def test_a_recorded_run_plays_on_with_what_it_learned(tmp_path):
    learned = run(["rock_paper_scissors", "learned"], tmp_path, num_iterations=3, num_adapt_steps=2)
    further = run([], tmp_path, "evaluate", run=1, num_adapt_steps=4)
    assert further.result["score"][:3] == learned.result["score"]
    assert len(further.result["score"]) == 5
