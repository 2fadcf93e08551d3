from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.stats import iqm, optimality_gap

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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"values: need an array with at least 1 value, got shape \(0,\)"),
        (3.0, r"got shape \(\)"),
    ],
)
def test_impossible_values_are_refused(values, message):
    for statistic in (iqm, optimality_gap):
        with pytest.raises(ValueError, match=message):
            statistic(values)


@pytest.mark.parametrize("lost", [np.nan, np.inf, -np.inf])
def test_the_iqm_does_not_trim_a_value_that_is_not_finite(lost):
    assert np.isnan(iqm([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, lost]))
    np.testing.assert_array_equal(iqm([[1.0, 2.0], [1.0, lost]]), [1.5, np.nan])
    assert np.isnan(optimality_gap([1.0, lost]))
