"""The mean of one evaluation, where some of its tasks are the same."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from analysis.stats import estimate, task_mean
from experiments import maml_sinusoid
from experiments.report import report
from research.evaluation import AdaptationCurve
from research.tasks import make_tasks
from research.tasks.splits import evaluation_tasks

RNG = np.random.default_rng


class Directions(NamedTuple):
    direction: np.ndarray
    start: np.ndarray


def two_ways(count, rng):
    """Scores of `count` tasks that are forward or backward in turn, and the tasks."""
    direction = np.tile([1.0, -1.0], count // 2)
    return 100.0 * direction + rng.normal(size=count), Directions(direction, np.zeros((count, 2)))


def distinct(tasks, count):
    return AdaptationCurve("return", np.zeros((1, count)), tasks).distinct()


def test_tasks_are_told_apart_by_all_of_their_fields():
    tasks = Directions(np.array([1.0, -1.0, 1.0, 1.0]), np.array([[0, 0], [0, 0], [0, 0], [0, 1]]))
    assert distinct(tasks, 4).tolist() == [0, 1, 0, 2]
    assert distinct((np.array([0.1, 0.1 + 2**-56]),), 2).tolist() == [0, 1]
    for unknown in (None, np.zeros((4, 2))):
        assert distinct(unknown, 4).tolist() == [0, 1, 2, 3]


def test_draws_and_repetitions_of_one_task_have_students_interval():
    values = RNG(0).normal(size=12)
    for kinds in (np.arange(12), np.zeros(12, np.int64), np.array([0, *np.arange(11)])):
        found, expected = task_mean(values, kinds), estimate(values, RNG(0), "mean")
        assert found[:4] == pytest.approx(expected[:4])


def test_an_interval_of_two_tasks_covers_as_often_as_it_says_and_is_narrow():
    inside, widths = 0, []
    for seed in range(1000):
        values, tasks = two_ways(8, RNG(seed))
        found = task_mean(values, distinct(tasks, 8))
        inside += found.low <= 0 <= found.high
        widths.append(found.high - found.low)
    assert 0.945 < inside / 1000 < 0.985, "degrees of freedom are rounded down"
    assert estimate(values, RNG(0), "mean").high > 20 * np.mean(widths)


def test_one_task_has_no_interval_and_a_score_that_is_not_finite_no_mean():
    assert task_mean([3.0], np.array([0])).text() == "3.00 (no interval: 1 task)"
    assert task_mean([3.0, np.nan, 2.0, 1.0], np.array([0, 0, 1, 1])).text() == "diverged: 1 of 4"


def test_a_run_prints_each_of_two_directions(capsys):
    values, tasks = two_ways(40, RNG(0))
    report(AdaptationCurve("mean return", np.stack([values - 50, values]), tasks), None)
    shown = capsys.readouterr().out
    assert (
        "2 distinct tasks" in shown
        and f"direction 1.0, start [0.0, 0.0] (20 times): {values[::2].mean():.2f}  [" in shown
    )
    assert f"direction -1.0, start [0.0, 0.0] (20 times): {values[1::2].mean():.2f}  [" in shown
    found = task_mean(values, distinct(tasks, 40))
    assert f"[{found.low:.2f}, {found.high:.2f}]" in shown


@pytest.mark.parametrize("script", [report, maml_sinusoid.report])
def test_one_task_prints_the_reason_and_no_nan(capsys, script):
    script(AdaptationCurve("mean return", np.array([[1.0], [2.0]]), None), None)
    shown = capsys.readouterr().out
    assert "nan" not in shown and shown.count("(no interval: 1 task)") >= 2


@pytest.mark.parametrize(
    ("count", "shown"), [(21, "(no interval: each of all 21 tasks once)"), (42, "[4.57, 4.57]"), (20, None)]
)
def test_all_tasks_of_a_family_are_no_draws_from_it(count, shown, capsys):
    """The score of a goal is its distance from the start, without noise: that of all goals is 96/21."""
    family = make_tasks("gridnavi")
    tasks, evaluated = evaluation_tasks(family, "test", count)
    score = np.tile((tasks.goal + 2).sum(1), (2, 1))
    report(AdaptationCurve("mean return", score, tasks, distribution=family, evaluated=evaluated), None)
    first, *_ = (line for line in capsys.readouterr().out.splitlines() if line.lstrip().startswith("0 "))
    assert first.endswith(shown) if shown else "[" in first and "[4.57, 4.57]" not in first
