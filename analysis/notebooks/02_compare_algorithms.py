# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which algorithm?
#
# MAML-TRPO differentiates through the adaptation and takes a trust-region step. MAML-PPO differentiates through it and
# takes clipped steps. Reptile does not differentiate through it. Which of them adapts best, given the same task, the
# same number of samples in an iteration and the same held-out goals, and are five seeds enough to decide?

# %%
import numpy as np

from analysis import plots, stats
from analysis.data.sweeps import ranking
from analysis.notebooks import open_runs, show

ALGORITHMS = ["maml_trpo", "maml_ppo", "reptile"]
COMMANDS = """
for seed in 0 1 2 3 4; do
    for algorithm in maml_trpo maml_ppo reptile; do
        python experiments/$algorithm.py -c compare with navigation_2d num_iterations=100 seed=$seed
    done
done
"""
runs = open_runs("tag=compare,command=train", COMMANDS, [{"experiment": one, "seed": 0} for one in ALGORITHMS])
BY = ["experiment"]

# %% [markdown]
# Runs that were evaluated on different tasks, and two runs of one algorithm with the same seed, raise an error.
#
# ## Learning curves
#
# The horizontal axis counts environment steps, the cost of samples.

# %%
after = runs.curves("eval/score_after_1", x="env_steps", by=BY)
show(
    plots.plot_curves(after, label="mean return after one step", x_label="environment steps"),
    "compare_learning",
)

# %% [markdown]
# ## Final scores
#
# A dot is a run, the diamond the IQM, the line its interval. The right panel has the differences from MAML-TRPO, paired
# by seed. If an interval contains 0, these seeds do not show a difference.

# %%
scores = runs.scores("result.score_after_1", by=BY)
show(
    plots.plot_comparison(scores, label="mean return after one step", baseline="maml_trpo"),
    "compare_forest",
)

# %%
ranking(scores)

# %% [markdown]
# The probability that a run of one algorithm is better than a run of MAML-TRPO; ½ means no difference.

# %%
show(plots.plot_improvement(scores, baseline="maml_trpo", label="return"), "compare_improvement")

# %% [markdown]
# Averages do not show how often an algorithm fails. A performance profile shows the distribution over runs: higher is
# better, and curves that cross do not order the algorithms.

# %%
show(plots.plot_profiles(scores, label="mean return after one step"), "compare_profiles")

# %% [markdown]
# ## Sample efficiency
#
# The number of environment steps to the lowest of the median final scores. A run that has diverged counts as the worst
# of its algorithm; an algorithm whose median run has diverged sets no level. A run that does not reach the level is
# censored: it counts as needing more steps than it had.

# %%
medians = scores.assign(value=scores["value"].fillna(-np.inf)).groupby("group")["value"].median()
level = medians[np.isfinite(medians)].min()
for group, rows in after.groupby("group"):
    curves = {run: (part["x"].to_numpy(), part["value"].to_numpy()) for run, part in rows.groupby("run")}
    reached = stats.steps_to_threshold(curves, level)
    print(f"{group}: median {reached.estimate.text()} steps to {level:.1f}; {reached.reached} of {len(curves)} runs")

# %% [markdown]
# ## Throughput

# %%
speed = runs.scores("time/env_steps_per_second", by=BY)
show(plots.plot_throughput(speed), "compare_throughput")
