"""Pictures for papers. This package imports matplotlib, which is slow: commands import it only to draw.

Pictures of runs, from the frames of `Runs` (docs/analysis.md). Each function returns a Figure, which `save` writes:
curves.py: learning curves, adaptation, regret; scores.py: comparisons, profiles, throughput; estimates.py: bias.
searches.py: history, settings and importances of a search.

Pictures of one evaluation. Each function writes a file: evaluations.py; beliefs.py: the search for a hidden goal.

style.py: colours, sizes, saving; labels.py: names at the ends of lines.
"""

from analysis.plots.beliefs import Walk, plot_beliefs
from analysis.plots.curves import plot_adaptation, plot_curves, plot_regrets
from analysis.plots.estimates import plot_bias, plot_estimates
from analysis.plots.evaluations import plot_adaptation_curve, plot_paths, plot_reference, plot_regret
from analysis.plots.scores import plot_comparison, plot_improvement, plot_profiles, plot_throughput
from analysis.plots.searches import plot_history, plot_importances, plot_parallel
from analysis.plots.style import COLOURS, INK, STYLE, make_figure, save

__all__ = [
    "COLOURS",
    "INK",
    "STYLE",
    "Walk",
    "make_figure",
    "plot_adaptation",
    "plot_adaptation_curve",
    "plot_beliefs",
    "plot_bias",
    "plot_comparison",
    "plot_curves",
    "plot_estimates",
    "plot_history",
    "plot_importances",
    "plot_improvement",
    "plot_parallel",
    "plot_paths",
    "plot_profiles",
    "plot_reference",
    "plot_regret",
    "plot_regrets",
    "plot_throughput",
    "save",
]
