"""One meaning of "95 %": commands print intervals of `stats.estimate` and of the comparisons around it, no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from records import write_record

from analysis import __main__ as commands
from analysis import stats
from analysis.commands.regret import totals_table
from analysis.data.load import load_runs
from analysis.data.sweeps import ranking
from analysis.studies.rl2_games import Game
from experiments import maml_sinusoid
from experiments.report import report
from research.evaluation import AdaptationCurve

ROOT = Path(__file__).parents[2]
SCORES = {
    loop: np.random.default_rng(seed).normal(10.0, 3.0, size=(6, 4)) for seed, loop in enumerate(("func", "higher"))
}
"""Values of a metric by inner loop, `[seeds, iterations]`."""

BRACKETS = re.compile(r"\[[+-]?[\d.]+, [+-]?[\d.]+\]")


def of(values, statistic="iqm"):
    return stats.estimate(values, np.random.default_rng(0), statistic)


def in_brackets(*found, digits=3, sign=False):
    return [each.text(digits, sign).partition(" ")[2] for each in found]


def to_two_places(*found):
    return [f"[{each.low:.2f}, {each.high:.2f}]" for each in found]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Six seeds of two inner loops, evaluated after every iteration; at the end on two tasks, after 0 and 1 steps."""
    monkeypatch.chdir(tmp_path)
    for loop, scores in SCORES.items():
        for seed, values in enumerate(scores):
            last = [[values[step] - 1, values[step] + 1] for step in (0, 3)]
            folder = Path("runs", f"{loop}{seed}")
            write_record(folder, seed=seed, inner_loop=loop, metrics={"eval": values}, score=last)


def printed(line, capsys):
    assert commands.main(line.split()) == 0
    return BRACKETS.findall(capsys.readouterr().out)


@pytest.mark.parametrize("statistic", stats.CUTS)
@pytest.mark.parametrize("value", ["last", "area", "max"])
def test_compare(runs, capsys, statistic, value):
    number = {"last": lambda curve: curve[-1], "max": max,
              "area": lambda curve: stats.area_under_curve(range(4), curve)}[value]  # fmt: skip
    func, higher = ([number(curve) for curve in scores] for scores in SCORES.values())
    pairs = [dict(enumerate(side)) for side in (higher, func)]
    expected = in_brackets(of(func, statistic), of(higher, statistic))
    expected += in_brackets(stats.paired_difference(*pairs, np.random.default_rng(0), statistic).estimate, sign=True)
    expected += in_brackets(stats.probability_of_improvement(higher, func), digits=2)
    line = f"compare runs --by inner_loop --metric eval --value {value} --statistic {statistic}"
    assert printed(line, capsys) == expected


def test_compare_independent_groups(runs, capsys):
    func, higher = SCORES["func"][:3, -1], SCORES["higher"][3:, -1]
    expected = in_brackets(of(func), of(higher))
    expected += in_brackets(stats.difference(higher, func, np.random.default_rng(0)), sign=True)
    expected += in_brackets(stats.probability_of_improvement(higher, func), digits=2)
    assert printed("compare runs inner_loop=func,seed<3 inner_loop=higher,seed>2 --metric eval", capsys) == expected


def test_adaptation(runs, capsys):
    expected = [text for scores in SCORES.values() for text in to_two_places(of(scores[:, 0]), of(scores[:, 3]))]
    assert printed("adaptation runs --by inner_loop", capsys) == expected


def test_export(runs, capsys):
    assert printed("export runs scores --metric eval,result.score_after_0 --by inner_loop -o table.tex", capsys) == []
    expected = [text for scores in SCORES.values() for text in in_brackets(of(scores[:, 3]), of(scores[:, 0]))]
    assert BRACKETS.findall(Path("table.tex").read_text()) == expected


def test_regret(capsys):
    game = Game(arms=5, length=10)
    regrets = game.classical_regrets(20)
    groups = regrets.groupby(["group", "seed"], sort=False)["value"].sum().groupby("group", sort=False)
    expected = to_two_places(*(of(game.best() - totals.to_numpy(), "mean") for _, totals in groups))
    assert len(expected) > 3 and BRACKETS.findall(totals_table(regrets, game)) == expected


def test_report(runs, capsys):
    assert printed("report runs --by inner_loop -o page.html", capsys) == []
    bands = re.findall(r'"y":(\[[^\]]*\]),"low":(\[[^\]]*\]),"high":(\[[^\]]*\])', Path("page.html").read_text())
    drawn = {json.loads(middle)[-1]: (low, high) for middle, low, high in bands}
    for scores in SCORES.values():
        ends = stats.interval(scores.T, np.random.default_rng(0), num_resamples=1000)
        band = drawn[float(f"{of(scores[:, 3]).value:.6g}")]
        for shown, end in zip(band, ends, strict=True):
            np.testing.assert_allclose(json.loads(shown)[-1], end[-1], rtol=1e-5)


def test_notebooks_rank_by_it(runs):
    shown = ranking(load_runs("runs").scores("eval", by=["inner_loop"]))
    expected = sorted((of(scores[:, 3]) for scores in SCORES.values()), key=lambda found: -found.value)
    assert list(shown["iqm"]) == [found.text() for found in expected]


@pytest.mark.parametrize("script", ["policies", "sinusoid"])
def test_experiments(capsys, script):
    score = np.random.default_rng(0).normal(size=(3, 40))
    curve = AdaptationCurve("error", score, None)
    (report if script == "policies" else maml_sinusoid.report)(curve, None)
    shown = BRACKETS.findall(capsys.readouterr().out)
    if script == "policies":
        samples = [*score, score[-1] - score[0]]
        assert shown == to_two_places(*(of(sample, "mean") for sample in samples))
    else:
        assert shown == [f"[{of(sample, 'mean').low:.4g}, {of(sample, 'mean').high:.4g}]" for sample in score]


HELD = {"compare", "adaptation", "export", "regret", "report"}
"""Commands whose intervals are held above."""

PAGES = {"classical": "rl2_classical", "coverage": "coverage", "estimators": "estimators"}
"""Commands that print no such interval: the pages that they write speak of standard errors or of none."""


def test_no_command_is_left_out(runs, capsys):
    assert set(commands.COMMANDS) == HELD | PAGES.keys() | {
        "table",
        "notebooks",
        "bayes",
        "search",
    }  # the last has values of single runs
    assert printed("table runs", capsys) == []
    assert printed("bayes gridnavi --episodes 1", capsys) == []  # exact values
    for command, page in PAGES.items():
        text = (ROOT / "docs" / "results" / f"{page}.md").read_text()
        parts = text.split(f"<!-- written by python -m analysis {command}")[1:]
        assert parts and not any("95 %" in part.split("<!-- end -->")[0] for part in parts)


def test_three_seeds_are_wider_than_their_range():
    """The published returns of `cheetah_dir_quick` after one step."""
    found = of([424.41, 411.30, 427.44])
    assert (round(found.low, 2), round(found.high, 2)) == (399.79, 442.31)
