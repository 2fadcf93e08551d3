from __future__ import annotations

import itertools
import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from analysis.stats import AGGREGATES, aggregate, improvement_over_tasks, iqm, performance_profile
from analysis.stats.tasks import by_task, stratified_resamples

RNG = np.random.default_rng
PEER = Path(__file__).parents[1] / "support" / "peer_rliable"
MEASURED = json.loads((PEER / "measured.json").read_text())
CASES = MEASURED["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "{}x{}".format(*np.shape(case["scores"])))
@pytest.mark.parametrize("statistic", AGGREGATES)
def test_aggregates_are_rliables(case, statistic):
    value, low, high = case["aggregates"][statistic]
    found = aggregate(case["scores"], statistic, RNG(0))
    assert found.value == pytest.approx(value, abs=1e-12)
    tasks = by_task(case["scores"])
    resampled = AGGREGATES[statistic](stratified_resamples(tasks, RNG(0), 20_000))
    # A quantile of 20,000 draws has a standard error of about 0.02 deviations, on either side.
    np.testing.assert_allclose(np.quantile(resampled, [0.025, 0.975]), [low, high], atol=0.1 * resampled.std())
    assert found.low <= low + 0.1 * resampled.std() and found.high >= high - 0.1 * resampled.std()


@pytest.mark.parametrize("case", CASES, ids=lambda case: "{}x{}".format(*np.shape(case["scores"])))
def test_profiles_and_improvement_are_rliables(case):
    fraction, low, high = case["profile"]
    found = performance_profile(case["scores"], MEASURED["thresholds"], RNG(0))
    np.testing.assert_allclose(found.fraction, fraction, atol=1e-12)
    assert (found.low <= np.array(low) + 0.03).all() and (found.high >= np.array(high) - 0.03).all()
    value, low, high = case["improvement"]
    found = improvement_over_tasks(case["scores"], case["reference"], RNG(0))
    assert found.value == pytest.approx(value, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_rliable_still_measures_the_same(tmp_path):
    """Makes the pinned environment and measures again; needs a package index."""
    venv.create(tmp_path / "peer", with_pip=True)
    python = tmp_path / "peer" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", PEER / "requirements.txt"], check=True)
    printed = subprocess.run([python, PEER / "measure.py"], check=True, capture_output=True, text=True).stdout
    again = json.loads(printed)
    assert again["versions"] | {"python": ""} == MEASURED["versions"] | {"python": ""}
    for ours, theirs in zip(again["cases"], CASES, strict=True):
        assert ours == theirs, "rliable draws from a seeded state: the same to the last digit"


def test_the_fixed_scores_are_those_of_the_script():
    namespace: dict[str, object] = {}
    source = (PEER / "measure.py").read_text().split("def measure")[0].split("from rliable")[0]
    source += (PEER / "measure.py").read_text().split("}\n\n\n", 1)[1].split("def measure")[0]
    exec(source, namespace)
    assert namespace["scores"](0, 10, 5).tolist() == CASES[0]["scores"]


def test_every_task_weighs_the_same_however_many_runs_it_has():
    ragged = {"a": [1.0, 2.0, 3.0, 4.0], "b": [10.0, 20.0]}
    doubled = np.array([ragged["a"], [10.0, 10.0, 20.0, 20.0]]).T  # each run of b counts twice: as much as one of 2
    for statistic in ("mean", "median", "optimality_gap"):
        expected = aggregate(doubled, statistic, RNG(0)).value
        assert aggregate(ragged, statistic, RNG(0)).value == pytest.approx(expected), statistic
    # ⌊6/4⌋/6 of the weight goes from either end: 1 and ⅓ of 2; ⅔ of 20.
    weights, values = [0, 1 / 12, 1 / 8, 1 / 8, 1 / 4, 1 / 12], [1, 2, 3, 4, 10, 20]
    assert aggregate(ragged, "iqm", RNG(0)).value == pytest.approx(np.dot(weights, values) / (2 / 3))


def test_scores_that_are_not_finite_count():
    array = np.array([[1.0, 10.0], [2.0, np.nan], [3.0, 30.0]])
    for statistic in AGGREGATES:
        found = aggregate(array, statistic, RNG(0))
        assert np.isnan(found.value) and found.text() == "diverged: 1 of 6" and not found.has_interval
    low = np.nan_to_num(array, nan=-1e9)
    profile, expected = (performance_profile(one, [0.0, 15.0], RNG(0)) for one in (array, low))
    for name in ("fraction", "low", "high"):
        np.testing.assert_array_equal(getattr(profile, name), getattr(expected, name))
    assert improvement_over_tasks(array, array, RNG(0)) == improvement_over_tasks(low, low, RNG(0))


def test_with_one_task_the_iqm_is_that_of_its_runs():
    values = RNG(0).normal(size=(11, 1))
    assert aggregate(values, "iqm", RNG(0)).value == pytest.approx(iqm(values[:, 0]))


def test_resamples_stay_within_their_task():
    tasks = by_task(np.array([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0]]))
    first, second = stratified_resamples(tasks, RNG(0), 4000)
    assert set(np.unique(first)) == {0.0, 1.0, 2.0} and set(np.unique(second)) == {10.0, 11.0, 12.0}
    exact = [np.mean(draw) for draw in itertools.product(range(3), repeat=3)]
    for side, level in ((first, 0), (second, 10)):
        fractions = [(np.abs(side.mean(-1) - level - mean) < 1e-9).mean() for mean in sorted(set(exact))]
        expected = [np.mean(np.isclose(exact, mean)) for mean in sorted(set(exact))]
        np.testing.assert_allclose(fractions, expected, atol=0.03)
    assert abs(np.corrcoef(first.mean(-1), second.mean(-1))[0, 1]) < 0.06


def test_a_profile_is_the_fraction_above_each_threshold():
    scores = {"a": [0.2, 0.6, 1.0], "b": [0.5, 2.0]}
    found = performance_profile(scores, [0.0, 0.5, 1.0], RNG(0))
    np.testing.assert_allclose(found.fraction, [1.0, (2 / 3 + 1 / 2) / 2, (0 + 1 / 2) / 2])
    assert (found.low <= found.fraction).all() and (found.high >= found.fraction).all()
    alone = performance_profile({"a": [0.2, 0.6, 1.0, 1.2]}, [0.1, 0.7], RNG(0))
    z2 = 1.959964**2  # Wilson's band at a fraction of 1 begins at n/(n + z²), at ½ it is symmetric
    assert alone.low[0] == pytest.approx(4 / (4 + z2)) and alone.high[0] == 1.0
    assert alone.low[1] + alone.high[1] == pytest.approx(1.0)
    assert alone.interval == "95 % Wilson band"


def test_one_run_of_a_task_leaves_no_interval():
    scores = {"a": [1.0, 2.0], "b": [3.0]}
    reason = "no interval: 1 run in 1 of 2 tasks"
    assert aggregate(scores, "mean", RNG(0)) == pytest.approx((2.25, np.nan, np.nan, 1, reason), nan_ok=True)
    assert np.isnan(performance_profile(scores, [1.5], RNG(0)).low).all()
    assert improvement_over_tasks(scores, scores, RNG(0)).interval == "no interval: 1 run in 2 of 4 tasks"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aggregate([1.0, 2.0], "iqm", RNG(0)), r"need an array \[runs, tasks\], got shape \(2,\)"),
        (lambda: aggregate({"a": [1.0], "b": []}, "iqm", RNG(0)), "scores: no runs of task b"),
        (lambda: aggregate({}, "iqm", RNG(0)), "scores: no runs of any task"),
        (lambda: aggregate([[1.0]], "mode", RNG(0)), "statistic='mode': need one of iqm, mean, median, optimality_gap"),
        (lambda: improvement_over_tasks({"a": [1]}, {"b": [1]}, RNG(0)), r"need the tasks \['a'\], got \['b'\]"),
        (lambda: improvement_over_tasks([[1.0, 2.0]], [[1.0]], RNG(0)), "reference: need 2 tasks, got 1"),
    ],
)
def test_what_has_no_answer_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_statistics_cost_neither_torch_nor_matplotlib():
    program = "import sys, analysis.stats; print([m for m in ('torch', 'matplotlib', 'pandas') if m in sys.modules])"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True).stdout == "[]\n"
