"""Schedules by hand, and their length."""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from research import algorithms
from research.algorithms import ALGORITHMS
from research.algorithms.config import ScheduledConfig
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


def test_no_algorithm_reads_how_long_it_is_trained():
    """A run that is continued for longer would change its schedules: they read `schedule_length`."""
    root = Path(algorithms.__file__).parent
    readers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "num_iterations"
    }
    assert readers == {"config.py"}


@pytest.mark.parametrize("name", [name for name, one in ALGORITHMS.items() if issubclass(one.Config, ScheduledConfig)])
def test_schedules_have_a_length_of_their_own(name):
    config = ALGORITHMS[name].Config(num_iterations=8)
    assert config.schedule_length == 8
    longer = dataclasses.replace(config, num_iterations=20, schedule_iterations=8)
    assert longer.schedule_length == 8
    assert "schedule_iterations" in config.resume_settings
    with pytest.raises(ValueError, match="schedule_iterations=0: need at least 1"):
        dataclasses.replace(config, schedule_iterations=0)
