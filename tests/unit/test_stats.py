from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.stats import bootstrap_interval, iqm, mean_interval

finite = st.floats(-1e6, 1e6, allow_subnormal=False)


def test_iqm_drops_the_lowest_and_the_highest_quarter():
    assert iqm([100.0, 1.0, 2.0, -50.0, 3.0, 4.0, 5.0, 0.0]) == pytest.approx((1 + 2 + 3 + 4) / 4)


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (2, 2), (3, 3), (4, 2), (5, 3), (7, 5), (8, 4), (40, 20)])
def test_iqm_cuts_whole_values(count, kept):
    values = np.arange(count, dtype=float) ** 2
    low = (count - kept) // 2
    assert iqm(values[::-1]) == pytest.approx(values[low : low + kept].mean())


def test_iqm_reduces_the_named_axis():
    values = np.array([[4.0, 1.0, 2.0, 30.0], [0.0, 0.0, 8.0, 9.0]])
    np.testing.assert_allclose(iqm(values), [3.0, 4.0])
    np.testing.assert_allclose(iqm(values.T, axis=0), [3.0, 4.0])


@given(st.lists(finite, min_size=4, max_size=30))
def test_iqm_is_not_moved_by_one_outlier(values):
    outlier = sorted(values)
    outlier[-1] = 1e9
    assert iqm(outlier) == pytest.approx(iqm(values))


def one_by_one(values, confidence, num_resamples, seed, statistic):
    draws = np.random.default_rng(seed).integers(len(values), size=(num_resamples, len(values)))
    statistics = sorted(statistic(np.array([values[i] for i in draw])) for draw in draws)

    def quantile(share):  # linear between the two nearest order statistics
        place = share * (num_resamples - 1)
        below = int(place)
        above = min(below + 1, num_resamples - 1)
        return statistics[below] + (place - below) * (statistics[above] - statistics[below])

    return quantile((1 - confidence) / 2), quantile((1 + confidence) / 2)


@pytest.mark.parametrize("statistic", [np.mean, np.median, iqm])
def test_interval_equals_a_loop_over_resamples(statistic):
    values = np.random.default_rng(1).gamma(2.0, size=9)
    interval = bootstrap_interval(values, confidence=0.9, num_resamples=301, seed=7, statistic=statistic)
    assert interval == pytest.approx(one_by_one(values, 0.9, 301, 7, statistic))


def test_interval_of_two_values_is_known():
    # The mean of two draws from {0, 1} is 0, ½, 1 with probability ¼, ½, ¼.
    assert bootstrap_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5)
    assert bootstrap_interval([0.0, 1.0], confidence=0.9) == (0.0, 1.0)


def test_interval_of_the_mean_approaches_the_normal_one():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.01)
    assert high == pytest.approx(values.mean() + half, abs=0.01)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    samples = np.random.default_rng(2).normal(size=(600, 40))
    low, high = bootstrap_interval(samples, confidence=0.8, num_resamples=1000)
    assert np.mean((low < 0) & (high > 0)) == pytest.approx(0.8, abs=0.05)


def test_rows_are_treated_alike_and_keep_their_shape():
    values = np.random.default_rng(3).normal(size=(2, 3, 8))
    low, high = bootstrap_interval(values, num_resamples=200, seed=5)
    assert low.shape == high.shape == (2, 3)
    for index in np.ndindex(2, 3):
        assert (low[index], high[index]) == bootstrap_interval(values[index], num_resamples=200, seed=5)


@given(st.lists(finite, min_size=2, max_size=12), finite)
def test_interval_moves_with_the_values(values, shift):
    low, high = bootstrap_interval(values, num_resamples=50)
    assert min(values) - 1e-6 <= low <= high <= max(values) + 1e-6
    moved = bootstrap_interval(np.array(values) + shift, num_resamples=50)
    assert moved == pytest.approx((low + shift, high + shift), rel=1e-9, abs=1e-6)


def test_interval_is_a_function_of_the_seed():
    values = np.random.default_rng(4).normal(size=20)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_one_value_has_no_interval():
    assert np.isnan(bootstrap_interval([2.5])).all()
    low, high = bootstrap_interval([[1.0], [2.0]])
    assert low.shape == high.shape == (2,)
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, r"values: need an array with at least 1 value, got shape \(0,\)"),
        ({"values": 3.0}, r"got shape \(\)"),
        ({"values": [1.0, np.nan, 2.0]}, r"values: 1 of 3 are NaN"),
        ({"values": [1.0, 2.0], "confidence": 1.0}, r"confidence=1.0: need a value between 0 and 1"),
        ({"values": [1.0, 2.0], "num_resamples": 0}, r"num_resamples=0: need at least 1"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)


def test_iqm_refuses_nan_instead_of_trimming_it():
    with pytest.raises(ValueError, match="1 of 8 are NaN"):
        iqm([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, np.nan])


def test_the_interval_of_many_values_is_that_of_the_bootstrap_without_drawing_it():
    values = np.random.default_rng(0).exponential(size=(2, 1000))
    few = mean_interval(values)
    np.testing.assert_array_equal(few, bootstrap_interval(values))
    many = mean_interval(np.concatenate([values, [[7.0], [9.0]]], 1))
    again = bootstrap_interval(np.concatenate([values, [[7.0], [9.0]]], 1))
    width = again[1] - again[0]
    assert (np.abs(np.subtract(many, again)) < 0.05 * width).all() and not np.array_equal(many, again)
    by_hand = values[0].mean() + 2.5758293 * np.sqrt(((values[0] - values[0].mean()) ** 2).sum() / 999 / 1000)
    tiled = mean_interval(np.tile(values[0], 2), confidence=0.99)[1]
    assert tiled == pytest.approx(values[0].mean() + (by_hand - values[0].mean()) / np.sqrt(2), rel=1e-3)
    with pytest.raises(ValueError, match=r"confidence=1\.5: need a value between 0 and 1"):
        mean_interval(np.arange(2000.0), confidence=1.5)
