"""Statistics for a few runs or a few dozen tasks, as functions of arrays. docs/statistics.md explains each choice.

points.py: statistics without an interval; estimate.py: one number with its interval, the only one that the project
prints; comparing.py: two groups; tasks.py: scores of several tasks; repeated.py: tasks of one evaluation; curves.py:
learning curves; student.py: Student's t distribution.
"""

from analysis.stats.comparing import (
    Paired,
    difference,
    paired_difference,
    probability_of_improvement,
    simultaneous,
    simultaneous_note,
)
from analysis.stats.curves import Aligned, Reached, align, area_under_curve, steps_to_threshold
from analysis.stats.estimate import (
    CUTS,
    NAMES,
    NOT_FINITE,
    Estimate,
    diverged,
    estimate,
    interval,
    interval_name,
    trimmed_mean,
)
from analysis.stats.points import iqm, optimality_gap
from analysis.stats.repeated import task_mean
from analysis.stats.tasks import AGGREGATES, Profile, aggregate, improvement_over_tasks, performance_profile

__all__ = [
    "AGGREGATES",
    "CUTS",
    "NAMES",
    "NOT_FINITE",
    "Aligned",
    "Estimate",
    "Paired",
    "Profile",
    "Reached",
    "aggregate",
    "align",
    "area_under_curve",
    "difference",
    "diverged",
    "estimate",
    "improvement_over_tasks",
    "interval",
    "interval_name",
    "iqm",
    "optimality_gap",
    "paired_difference",
    "performance_profile",
    "probability_of_improvement",
    "simultaneous",
    "simultaneous_note",
    "steps_to_threshold",
    "task_mean",
    "trimmed_mean",
]
