from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.stats import align, area_under_curve, steps_to_threshold


def test_curves_with_the_same_places_keep_them():
    found = align({"a": ([1, 2, 3], [4.0, 5.0, 6.0]), "b": ([1, 2, 3], [0.0, 0.0, 1.0])})
    np.testing.assert_array_equal(found.x, [1, 2, 3])
    np.testing.assert_array_equal(found.values, [[4, 5, 6], [0, 0, 1]])
    assert found.runs.tolist() == [2, 2, 2] and found.notes == ()


def test_curves_end_where_the_shortest_does_or_go_on_with_those_left():
    curves = [([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0]), ([1, 2], [5.0, 6.0])]
    common = align(curves)
    np.testing.assert_array_equal(common.values, [[1, 2], [5, 6]])
    assert common.notes == ("1 of 2 runs end before 4: all are cut at 2",)
    available = align(curves, "available")
    np.testing.assert_array_equal(available.values, [[1, 2, 3, 4], [5, 6, np.nan, np.nan]])
    assert available.runs.tolist() == [2, 2, 1, 1]
    assert available.notes == ("1 of 2 runs end before 4, the first at 2: beyond it the others are left",)


def test_other_places_are_interpolated_and_never_beyond_a_run():
    found = align([([0, 10, 20], [0.0, 10.0, 40.0]), ([0, 5, 16], [1.0, 1.0, 12.0])])
    np.testing.assert_allclose(found.x, [0, 8, 16])
    np.testing.assert_allclose(found.values, [[0, 8, 28], [1, 4, 12]])
    assert "runs were measured at different places: interpolated onto 3 even ones" in found.notes


def test_a_run_that_is_not_finite_stays_and_is_counted():
    found = align([([1, 2, 3], [1.0, np.nan, 3.0]), ([1, 2, 3], [1.0, 1.0, np.inf]), ([1, 2, 3], [0.0, 0.0, 0.0])])
    np.testing.assert_array_equal(found.values, [[1, np.nan, 3], [1, 1, np.nan], [0, 0, 0]])
    assert found.runs.tolist() == [3, 3, 3] and found.diverged.tolist() == [0, 1, 1]
    assert found.notes == ("diverged: 2 of 3 runs, the first at 2; no value of the group at 2 of 3 points",)


def test_interpolation_does_not_bridge_what_is_not_finite():
    found = align([([0, 10, 20], [0.0, np.nan, 40.0]), ([0, 5, 20], [1.0, 1.0, 1.0])])
    np.testing.assert_array_equal(found.values[0], [0, np.nan, 40])
    available = align([([1, 2, 3], [1.0, np.nan, np.nan]), ([1], [5.0])], "available")
    assert available.runs.tolist() == [2, 1, 1] and available.diverged.tolist() == [0, 1, 1]


def test_areas_over_and_beyond_values_that_are_not_finite():
    assert math.isnan(area_under_curve([1, 2, 3], [1, np.nan, 1]))
    assert area_under_curve([1, 2, 3], [1, 1, np.nan], 1, 2) == 1.0


def test_a_run_that_diverges_before_the_threshold_never_reaches_it():
    values = {"a": [0.0, np.nan, np.nan], "b": [0.0, 5.0, np.nan], "c": [5.0] * 3}
    curves = {name: ([1, 2, 3], value) for name, value in values.items()}
    assert steps_to_threshold(curves, 5.0).steps.tolist() == [math.inf, 2, 1]
    assert steps_to_threshold(curves, 0.0, lower_is_better=True).steps.tolist() == [1, 1, math.inf]


@given(st.lists(st.integers(2, 9), min_size=1, max_size=5))
def test_every_run_stays(lengths):
    curves = [(np.arange(n), np.full(n, float(i))) for i, n in enumerate(lengths)]
    for ragged in ("common", "available"):
        found = align(curves, ragged)
        assert len(found.values) == len(lengths)
        assert len(found.x) == (min if ragged == "common" else max)(lengths)
        assert found.runs.tolist() == [sum(n > x for n in lengths) for x in found.x]
        assert bool(found.notes) == (len(set(lengths)) > 1)


def test_the_area_is_the_mean_height():
    x, value = [0.0, 1.0, 3.0], [0.0, 2.0, 4.0]
    assert area_under_curve(x, value) == pytest.approx((1 + 6) / 3)
    assert area_under_curve(x, value, 0.5, 2.0) == pytest.approx(((1 + 2) / 2 * 0.5 + (2 + 3) / 2 * 1) / 1.5)
    assert area_under_curve(x, value, 2.0, 2.0) == 3.0
    assert area_under_curve([5.0], [7.0]) == 7.0


def test_steps_count_the_first_point_at_the_threshold_and_censor_the_others():
    curves = {
        "a": ([1, 2, 3, 4], [0.0, 5.0, 1.0, 9.0]),
        "b": ([1, 2, 3], [0.0, 1.0, 5.0]),
        "c": ([1, 2, 3, 4], [0, 0, 0, 9]),
    }
    found = steps_to_threshold(curves, 5.0)
    assert found.steps.tolist() == [2, 3, math.inf] and (found.horizon, found.reached) == (3, 2)
    assert found.estimate[:4] == (3.0, 2.0, math.inf, 3)
    assert steps_to_threshold(curves, 0.5, lower_is_better=True).steps.tolist() == [1, 1, 1]
    later = steps_to_threshold(curves, 5.0, horizon=4)
    assert later.steps.tolist() == [2, 3, 4], "b has reached it before it ended"


def test_censored_runs_move_the_median_and_not_more():
    reached = {str(i): ([i + 1, 20], [1.0, 1.0]) for i in range(6)}
    never = {str(i): ([1, 20], [0.0, 0.0]) for i in range(6, 10)}
    found = steps_to_threshold(reached | never, 1.0)
    assert found.estimate.value == 5.5 and found.estimate.low < 5.5 and found.estimate.high == math.inf
    most = steps_to_threshold({**never, "0": reached["0"]}, 1.0)
    assert most.estimate.value == math.inf and most.reached == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: align([]), "curves: need at least 1"),
        (lambda: align([([1], [1.0])], "longest"), "ragged='longest': need one of common, available"),
        (lambda: align({"r": ([1, 1], [1.0, 2.0])}), "r: x must rise from point to point"),
        (lambda: align({"r": ([1, 2], [1.0])}), r"r: need as many values as places.* got shapes \(2,\) and \(1,\)"),
        (
            lambda: align([([1, 2], [1, 2]), ([5, 6], [1, 2])]),
            "no point is common to all; one starts at 5, one ends at 2",
        ),
        (lambda: area_under_curve([1, 2], [1, 2], 0, 2), "start=0, stop=2: need places within the curve, 1 to 2"),
        (
            lambda: steps_to_threshold({"r": ([1, 2], [0, 0]), "s": ([1, 9], [0, 1])}, 1.0, horizon=5),
            r"horizon=5: runs that end before it without reaching 1: r \(ends at 2\)",
        ),
    ],
)
def test_what_has_no_answer_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
