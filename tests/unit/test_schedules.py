"""Schedules by hand."""

import numpy as np
import pytest

from research.algorithms.schedules import anneal, interpolate


def test_interpolation_takes_numbers_and_arrays():
    assert [interpolate(2.0, 6.0, progress) for progress in (0.0, 0.25, 1.0)] == [2.0, 3.0, 6.0]
    np.testing.assert_array_equal(interpolate(1.0, 0.0, np.array([0.0, 0.5, 1.0])), [1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("anneal_from", "expected"),
    [(0.0, [2.0, 1.5, 1.0, 0.0, 0.0]), (0.5, [2.0, 2.0, 2.0, 0.0, 0.0]), (1.0, [2.0] * 5)],
)
def test_an_annealed_rate_is_constant_first_and_then_falls_linearly_to_zero(anneal_from, expected):
    assert [anneal(2.0, anneal_from, iteration / 8) for iteration in (0, 2, 4, 8, 9)] == expected


def test_the_fall_begins_where_it_is_told_to():
    assert [anneal(2.0, 0.5, iteration / 8) for iteration in (4, 6, 7)] == [2.0, 1.0, 0.5]
