from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from analysis.stats import (
    CUTS,
    difference,
    estimate,
    iqm,
    paired_difference,
    probability_of_improvement,
    simultaneous,
    simultaneous_note,
)
from analysis.stats.student import t_quantile

RNG = np.random.default_rng


def test_means_have_welchs_interval():
    found = difference([1.0, 2.0, 3.0, 6.0], [0.0, 1.0, 2.0], RNG(0), "mean")
    squares = (14 / 3 / 4, 1 / 3)  # s²/n of either side
    freedom = math.floor(sum(squares) ** 2 / (squares[0] ** 2 / 3 + squares[1] ** 2 / 2))
    reach = t_quantile(0.975, freedom) * math.sqrt(sum(squares))
    assert freedom == 4
    assert found[:3] == pytest.approx((2.0, 2 - reach, 2 + reach))
    assert (found.runs, found.interval) == (3, "95 % Welch t interval")


def test_a_difference_is_that_of_all_pairs_of_resamples():
    ours, theirs = RNG(0).normal(size=5), RNG(1).normal(size=5)
    found = difference(ours, theirs, RNG(0), num_resamples=200_000, confidence=0.8)
    draws = list(itertools.product(range(5), repeat=5))
    every = [np.array([iqm(side[list(draw)]) for draw in draws]) for side in (ours, theirs)]
    exact = np.subtract.outer(*every).ravel()
    tail = NormalDist().cdf(-t_quantile(0.9, 8))
    assert found.value == pytest.approx(iqm(ours) - iqm(theirs))
    assert [(exact < found.low).mean(), (exact > found.high).mean()] == pytest.approx([tail, tail], abs=0.005)


def test_few_runs_on_a_side_have_the_standard_error_of_both():
    ours, theirs = np.array([1.0, 3.0, 8.0]), np.array([0.0, 1.0])
    found = difference(ours, theirs, RNG(0), num_resamples=200_000)
    reach = t_quantile(0.975, 3) * math.sqrt(ours.var(ddof=1) / 3 + theirs.var(ddof=1) / 2)
    assert found[:3] == pytest.approx((3.5, 3.5 - reach, 3.5 + reach), rel=0.02)


def test_one_run_on_a_side_has_no_interval():
    for found in (difference([1.0, 2.0], [3.0], RNG(0)), probability_of_improvement([1.0, 2.0], [3.0])):
        assert not found.has_interval and found.interval == "no interval: 1 run on a side"


def test_equal_groups_differ_by_nothing():
    assert difference([2.0, 2.0], [2.0, 2.0, 2.0], RNG(0), "mean")[:3] == (0.0, 0.0, 0.0)
    assert difference([2.0] * 6, [2.0] * 6, RNG(0))[:3] == (0.0, 0.0, 0.0)


def test_pairs_are_seeds_that_both_have_and_the_others_are_named():
    ours, theirs = {3: 5.0, 1: 2.0, 7: 9.0, 4: 4.0}, {1: 1.0, 3: 1.0, 4: 1.5, 9: 100.0}
    found = paired_difference(ours, theirs, RNG(0), "mean")
    assert found.pairs == (1, 3, 4) and found.unpaired == (7, 9)
    assert found.estimate[:3] == estimate([1.0, 4.0, 2.5], RNG(0), "mean")[:3]
    assert found.estimate.interval == "95 % Student t interval of 3 pairs"
    assert paired_difference({1: 2.0}, {1: 1.0}, RNG(0)).estimate.interval == "no interval: 1 pair"
    with pytest.raises(ValueError, match=r"reference: it has no seed in common with the values \(\[2\] and \[1\]\)"):
        paired_difference({1: 2.0}, {2: 1.0}, RNG(0))


def test_pairing_takes_out_what_seeds_share():
    tasks, noise = RNG(0).normal(0, 10, 8), RNG(1).normal(0, 0.1, (2, 8))
    ours, theirs = tasks + 1 + noise[0], tasks + noise[1]
    paired = paired_difference(dict(enumerate(ours)), dict(enumerate(theirs)), RNG(0)).estimate
    apart = difference(ours, theirs, RNG(0))
    assert paired.low > 0.7 and paired.high < 1.3
    assert apart.low < 0 < apart.high


def test_improvement_counts_pairs():
    ours, theirs = [1.0, 2.0, 2.0, 5.0], [2.0, 0.0, 3.0]
    wins = sum((a > b) + 0.5 * (a == b) for a in ours for b in theirs)
    found = probability_of_improvement(ours, theirs)
    assert found.value == pytest.approx(wins / 12)
    assert probability_of_improvement(theirs, ours).value == pytest.approx(1 - wins / 12)
    # Both ends are z standard errors of their own away.
    for end in (found.low, found.high):
        curvature = (1 - end) / (2 - end) + end / (1 + end)
        variance = end * (1 - end) * (1 + 2.5 * curvature) / 12
        assert (found.value - end) ** 2 == pytest.approx(1.959964**2 * variance, rel=1e-5)
    mirrored = probability_of_improvement(theirs, ours)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_a_clean_win_of_few_runs_is_not_certain():
    found = probability_of_improvement([4.0, 5.0, 6.0], [1.0, 2.0, 3.0])
    assert found.value == found.high == 1.0 and 0.3 < found.low < 0.8
    more = probability_of_improvement(np.arange(20.0, 40.0), np.arange(20.0))
    assert found.low < more.low < 1


@pytest.mark.parametrize(
    "call", [lambda x: difference(x, [1.0], RNG(0)), lambda x: probability_of_improvement([1.0], x)]
)
def test_groups_are_one_value_for_each_run(call):
    with pytest.raises(ValueError, match=r"need one for each run, got shape \(1, 2\)"):
        call([[1.0, 2.0]])


def test_a_run_that_has_diverged_loses_to_every_finite_one_and_ties_with_its_like():
    lost = np.nan
    assert probability_of_improvement([lost, 1.0], [0.0, 0.0]).value == 0.5
    assert probability_of_improvement([0.0, 0.0], [lost, 1.0]).value == 0.5
    assert probability_of_improvement([lost, lost], [lost, -1e300]).value == 0.25
    assert probability_of_improvement([lost, 3.0], [2.0]).value == probability_of_improvement([-9.0, 3.0], [2.0]).value


@pytest.mark.parametrize("statistic", CUTS)
def test_a_difference_with_a_run_that_has_diverged_has_no_value(statistic):
    found = difference([1.0, 2.0, np.nan], [1.0, np.nan], RNG(0), statistic)
    assert np.isnan(found.value) and found.text() == "diverged: 2 of 5" and found.runs == 2
    paired = paired_difference({0: 1.0, 1: np.nan, 2: 3.0}, {0: 0.0, 1: 1.0, 2: np.nan}, RNG(0), statistic)
    assert paired.estimate.text() == "diverged: 2 of 3 pairs" and paired.pairs == (0, 1, 2)


def test_simultaneous_intervals_hold_together():
    """Ten groups of one distribution, compared with the first: at least one interval misses 0."""
    rng, tries = np.random.default_rng(0), 200
    missed = dict.fromkeys((0.95, simultaneous(9)), 0)
    for _ in range(tries):
        groups = rng.normal(size=(10, 5))
        for confidence in missed:
            ends = [difference(one, groups[0], rng, "mean", confidence) for one in groups[1:]]
            missed[confidence] += any(not each.low <= 0 <= each.high for each in ends)
    alone, together = (count / tries for count in missed.values())
    assert alone > 0.2 and together < 0.06
    assert simultaneous(1) == 0.95 and simultaneous_note(1) == []
    assert "Bonferroni: 99.44 % for each)" in simultaneous_note(9)[0]
    assert "99.44 % for each, unless an interval is named with less" in simultaneous_note(9, "median")[0]


def test_simultaneous_intervals_of_five_pairs_hold_together():
    """A bootstrap of 5 values stays between them: it could not have more than 93.75 %, whatever is asked for."""
    rng, tries, missed = np.random.default_rng(1), 300, 0
    for _ in range(tries):
        groups = [dict(enumerate(values)) for values in rng.normal(size=(10, 5))]
        ends = [paired_difference(one, groups[0], rng, "iqm", simultaneous(9), 500).estimate for one in groups[1:]]
        missed += any(not each.low <= 0 <= each.high for each in ends)
    assert missed / tries < 0.08
