"""Pictures fit for a paper. Importing this pays for matplotlib: commands import it where they draw.

Of runs, from the frames that `Runs` joins (docs/analysis.md), each a function that returns a Figure; `save` writes it:
curves.py: learning curves, adaptation, regret; scores.py: comparisons, profiles, throughput; estimates.py: bias.

Of one evaluation, each a function that writes a file: evaluations.py.

style.py: colours, sizes, saving; labels.py: names beside the ends of lines.
"""

from analysis.plots.curves import plot_adaptation, plot_curves, plot_regrets
from analysis.plots.estimates import plot_bias, plot_estimates
from analysis.plots.evaluations import plot_adaptation_curve, plot_paths, plot_regret
from analysis.plots.scores import plot_comparison, plot_improvement, plot_profiles, plot_throughput
from analysis.plots.style import COLOURS, INK, STYLE, make_figure, save

__all__ = [
    "COLOURS",
    "INK",
    "STYLE",
    "make_figure",
    "plot_adaptation",
    "plot_adaptation_curve",
    "plot_bias",
    "plot_comparison",
    "plot_curves",
    "plot_estimates",
    "plot_improvement",
    "plot_paths",
    "plot_profiles",
    "plot_regret",
    "plot_regrets",
    "plot_throughput",
    "save",
]
