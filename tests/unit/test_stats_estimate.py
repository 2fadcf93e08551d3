from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from analysis.stats import CUTS, estimate, interval, iqm, optimality_gap, trimmed_mean
from analysis.stats.estimate import resample
from analysis.stats.student import t_cdf, t_quantile
from analysis.studies import coverage
from analysis.studies.pages import END, mark

RNG = np.random.default_rng


def every_resample(values, statistic):
    """The statistic of all n^n samples."""
    return np.array([trimmed_mean(values[list(draw)], statistic)
                     for draw in itertools.product(range(len(values)), repeat=len(values))])  # fmt: skip


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),  # Abramowitz & Stegun, table 26.10
    [(0.975, 1, 12.706), (0.975, 2, 4.303), (0.95, 4, 2.132), (0.975, 9, 2.262), (0.995, 18, 2.878), (0.9, 30, 1.310)],
)
def test_quantiles_of_student_are_those_of_the_tables(probability, freedom, expected):
    assert t_quantile(probability, freedom) == pytest.approx(expected, abs=5e-4)
    assert t_quantile(1 - probability, freedom) == pytest.approx(-expected, abs=5e-4)
    assert t_cdf(t_quantile(probability, freedom), freedom) == pytest.approx(probability, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 6, 9])
def test_student_integrates_his_density(freedom):
    x = np.linspace(-3, 1.3, 200_001)
    scale = math.gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)
    density = scale * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    inside = t_cdf(1.3, freedom) - t_cdf(-3, freedom)
    assert inside == pytest.approx(np.trapezoid(density, x), abs=1e-8)


def test_the_mean_has_students_interval():
    values = [4.0, 7.0, 5.0, 8.0]  # mean 6, deviation √(10/3)
    found = estimate(values, RNG(0), "mean")
    reach = 3.182446 * math.sqrt(10 / 3) / 2
    assert (found.value, found.low, found.high) == pytest.approx((6.0, 6 - reach, 6 + reach), abs=1e-5)
    assert (found.runs, found.interval) == (4, "95 % Student t interval")


@pytest.mark.thorough
@pytest.mark.parametrize("statistic", CUTS)
@pytest.mark.parametrize("count", [4, 5, 6])
def test_resamples_have_the_distribution_of_all_that_there_are(statistic, count):
    values = np.sort(RNG(count).lognormal(size=count))
    exact, drawn = every_resample(values, statistic), resample(values, RNG(1), statistic, 100_000)
    error = exact.std() / math.sqrt(len(drawn))
    assert drawn.mean() == pytest.approx(exact.mean(), abs=4 * error)
    assert drawn.std() == pytest.approx(exact.std(), rel=0.02)
    places = np.quantile(exact, np.linspace(0.02, 0.98, 25))
    below = [[(side <= place + 1e-9).mean() for place in places] for side in (exact, drawn)]
    np.testing.assert_allclose(*below, atol=0.008)


@pytest.mark.thorough
def test_the_iqms_interval_is_the_exact_bootstraps_between_students_tails():
    values = RNG(3).normal(size=6)
    low, high = interval(values, RNG(0), "iqm", num_resamples=100_000)
    exact, tail = every_resample(values, "iqm"), NormalDist().cdf(-t_quantile(0.975, 5))
    assert [low, high] == pytest.approx(np.quantile(exact, [tail, 1 - tail]).tolist(), abs=0.06 * exact.std())
    assert low < np.quantile(exact, 0.025) and high > np.quantile(exact, 0.975)


def test_of_three_values_the_iqm_is_the_mean_with_its_interval():
    values = [1.0, 5.0, 9.0]
    ours, means = (estimate(values, RNG(0), name, num_resamples=200_000) for name in ("iqm", "mean"))
    assert ours[:3] == pytest.approx(means[:3], rel=0.01)


def test_four_values_have_the_standard_error_of_all_resamples():
    values = np.array([0.0, 1.0, 5.0, 7.0])
    found = estimate(values, RNG(0), num_resamples=200_000)
    reach = t_quantile(0.975, 3) * math.sqrt(4 / 3) * every_resample(values, "iqm").std()
    assert (found.value, found.high - found.value) == pytest.approx((3.0, reach), rel=0.01)


@pytest.mark.parametrize(("count", "outer", "held"), [(6, 1, 0.96875), (10, 2, 0.978516), (15, 4, 0.964844)])
def test_the_median_lies_between_order_statistics(count, outer, held):
    ordered = np.arange(1.0, count + 1)
    low, high = interval(ordered[::-1], RNG(0), "median", confidence=held - 1e-6)
    assert (low, high) == pytest.approx((outer, count + 1 - outer), abs=1e-3)
    low, high = interval(ordered, RNG(0), "median")
    assert outer <= low < outer + 1 and low + high == pytest.approx(count + 1)


def test_the_medians_interval_covers_between_order_statistics():
    values = RNG(0).uniform(size=(40_000, 10))
    low, high = interval(values, RNG(0), "median")
    assert ((low < 0.5) & (high > 0.5)).mean() == pytest.approx(0.95, abs=0.008)


def test_few_values_have_a_range_and_its_confidence_is_said():
    found = estimate([3.0, 1.0, 2.0, 9.0, 4.0], RNG(0), "median")
    assert found[:3] == (3.0, 1.0, 9.0)
    assert found.interval == "93.8 % order-statistic interval"


@pytest.mark.parametrize("statistic", CUTS)
def test_one_run_has_no_interval_and_it_is_said(statistic):
    found = estimate([2.5], RNG(0), statistic)
    assert not found.has_interval and found.value == 2.5
    assert found.text() == "2.50 (no interval: 1 run)"
    assert np.isnan(interval([[1.0], [2.0]], RNG(0), statistic)).all()


def test_rows_are_treated_alike():
    values = RNG(0).normal(size=(2, 3, 7))
    low, high = interval(values, RNG(4))
    assert low.shape == (2, 3)
    for index in np.ndindex(2, 3):
        assert (low[index], high[index]) == pytest.approx(interval(values[index], RNG(4)), rel=1e-12)


def test_the_same_seed_gives_the_same_bytes():
    values = RNG(0).normal(size=(50, 10))
    assert np.array(interval(values, RNG(7))).tobytes() == np.array(interval(values, RNG(7))).tobytes()
    assert np.array(interval(values, RNG(7))).tobytes() != np.array(interval(values, RNG(8))).tobytes()


def test_numbers_are_shown_with_as_many_places_as_they_need():
    found = estimate([1234.0, 1250.0, 1239.0], RNG(0), "mean")
    assert found.text() == "1241 [1221, 1261]"
    assert estimate([0.5, 0.25, 0.75], RNG(0), "mean").text(sign=True) == "+0.50 [-0.12, +1.12]"
    assert estimate([0.0, 0.0], RNG(0)).text() == "0 [0, 0]"


def test_the_gap_counts_what_lies_beyond_the_target_as_the_target():
    assert optimality_gap([[0.5, 2.0], [1.0, 0.1]]) == pytest.approx(1 - (0.5 + 1 + 1 + 0.1) / 4)
    assert optimality_gap([1.0, 4.0], target=3.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"statistic": "mode"}, "statistic='mode': need one of iqm, mean, median"),
        ({"values": []}, "need an array with at least 1 value"),
        ({"values": [[1.0, 2.0]]}, r"need one for each run, got shape \(1, 2\)"),
        ({"confidence": 0.0}, r"confidence=0\.0: need a value between 0 and 1"),
        ({"num_resamples": 0}, "num_resamples=0: need at least 1"),
    ],
)
def test_impossible_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        estimate(**{"values": [1.0, 2.0], "rng": RNG(0), **change})


@pytest.mark.parametrize(("statistic", "least"), [("iqm", 93.0), ("median", 93.0), ("mean", 93.0)])
def test_intervals_of_ten_runs_cover(statistic, least):
    """A small form of docs/results/coverage.md: 600 sets have a standard error of 0.9."""
    methods = {"used": coverage.used, "percentile": coverage.percentile}
    found = coverage.cover(coverage.POPULATIONS["normal"], statistic, 10, 600, methods)
    assert least - 0.9 <= found["used"].percent <= 97.0 + 1.3
    if statistic == "mean":
        assert found["percentile"].percent < 92.5, "why Student's interval is used in its place"
        assert found["percentile"].width < found["used"].width


def test_the_passed_over_methods_are_right_where_they_should_be():
    normal = coverage.POPULATIONS["normal"]
    methods = {name: coverage.METHODS[name] for name in ("used", "winsorised t", "studentised", "BCa")}
    found = coverage.cover(normal, "mean", 10, 300, methods)
    assert found["winsorised t"] == pytest.approx(found["used"]), "untrimmed, both are Student's"
    assert found["studentised"].percent == pytest.approx(95, abs=3.5)
    assert 85 < found["BCa"].percent < 94


@pytest.mark.thorough
def test_intervals_of_pairs_and_tasks_cover():
    normal = coverage.POPULATIONS["normal"]
    for found in coverage.cover_pairs(normal, 10, 200).values():
        assert found.percent == pytest.approx(95.5, abs=4)
    found = coverage.cover_tasks(normal, "iqm", 10, 100)
    assert found["used"].percent >= 90 and found["used"].width > found["percentile"].width


def test_the_command_renews_its_page(tmp_path, monkeypatch, capsys):
    page = tmp_path / "coverage.md"
    page.write_text(f"before\n{mark(coverage.COMMAND)}\nold\n{END}\nafter\n")
    monkeypatch.setattr(coverage, "report", lambda sets: f"tables of {sets}")
    assert coverage.main(["--page", str(page), "--sets", "7"]) == 0
    assert "tables of 7" in page.read_text() and "old" not in page.read_text()
    assert coverage.main(["--sets", "0"]) == 2
    assert "--sets=0: need at least 1" in capsys.readouterr().err


def test_the_report_has_a_row_for_every_distribution(monkeypatch):
    monkeypatch.setattr(coverage, "POPULATIONS", {"normal": coverage.POPULATIONS["normal"]})
    monkeypatch.setattr(coverage, "_POPULATION", 20_000)
    coverage.truth.cache_clear()
    tables = coverage.report(4)
    coverage.truth.cache_clear()
    assert tables.count("| normal |") == 8
    assert tables.count("**iqm") == 2 and "winsorised t" in tables


def test_iqm_and_trimmed_mean_are_one():
    values = RNG(0).normal(size=(3, 11))
    np.testing.assert_allclose(trimmed_mean(values, "iqm"), iqm(values))
    np.testing.assert_allclose(trimmed_mean(values, "median"), np.median(values, -1))
    np.testing.assert_allclose(trimmed_mean(values[:, :8], "median"), np.median(values[:, :8], -1))


@pytest.mark.parametrize("statistic", CUTS)
@pytest.mark.parametrize("count", [1, 3, 5, 10])
def test_a_group_with_a_run_that_has_diverged_has_no_value_and_says_so(statistic, count):
    values = [*np.arange(float(count - 1)), np.nan]
    found = estimate(values, RNG(0), statistic)
    assert np.isnan([found.value, found.low, found.high]).all() and found.runs == count
    assert found.text() == found.interval == f"diverged: 1 of {count}"
    low, high = interval([values, np.arange(float(count))], RNG(0), statistic)
    assert np.isnan([low[0], high[0]]).all() and np.isfinite([low[1], high[1]]).all() == (count > 1)
    alone = interval([np.arange(float(count))], RNG(0), statistic)
    np.testing.assert_array_equal([low[1], high[1]], np.ravel(alone), "a row does not depend on the others")


def test_means_of_infinite_values_have_none_and_medians_do():
    for statistic in ("mean", "iqm"):
        assert estimate([1.0, 2.0, np.inf], RNG(0), statistic).text() == "diverged: 1 of 3"
    assert estimate([1.0, 2.0, np.inf], RNG(0), "median").value == 2.0
