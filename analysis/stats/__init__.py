"""Statistics for a few runs or a few dozen tasks. Knows only arrays; what is used where, and why: docs/statistics.md.

bootstrap.py: point statistics and the plain percentile bootstrap; estimate.py: one number with the interval that covers
at five to ten runs; comparing.py: two groups; tasks.py: scores of several tasks; curves.py: learning curves;
student.py: Student's t.
"""

from analysis.stats.bootstrap import bootstrap_interval, iqm, mean_interval, optimality_gap
from analysis.stats.comparing import Paired, difference, paired_difference, probability_of_improvement
from analysis.stats.curves import Aligned, Reached, align, area_under_curve, steps_to_threshold
from analysis.stats.estimate import CUTS, NAMES, Estimate, estimate, interval, interval_name, trimmed_mean
from analysis.stats.tasks import AGGREGATES, Profile, aggregate, improvement_over_tasks, performance_profile

__all__ = [
    "AGGREGATES",
    "CUTS",
    "NAMES",
    "Aligned",
    "Estimate",
    "Paired",
    "Profile",
    "Reached",
    "aggregate",
    "align",
    "area_under_curve",
    "bootstrap_interval",
    "difference",
    "estimate",
    "improvement_over_tasks",
    "interval",
    "interval_name",
    "iqm",
    "mean_interval",
    "optimality_gap",
    "paired_difference",
    "performance_profile",
    "probability_of_improvement",
    "steps_to_threshold",
    "trimmed_mean",
]
