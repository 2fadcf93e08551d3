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
# MAML-TRPO differentiates through the adaptation and takes a trust-region step; MAML-PPO differentiates and takes
# clipped steps; Reptile does not differentiate at all. The same task, the same samples for each iteration, the same
# held-out goals: who adapts better, and can these seeds tell?

# %%

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
# Runs that were evaluated on other tasks, or two runs of one algorithm with one seed, would be refused here: neither
# is evidence.
#
# ## How they learn
#
# Against environment steps, which is what a robot would pay with.

# %%
after = runs.curves("eval/score_after_1", x="env_steps", by=BY)
show(
    plots.plot_curves(after, label="mean return after one step", x_label="environment steps"),
    "compare_learning",
)

# %% [markdown]
# ## Where they end
#
# Every run is a dot, the diamond the IQM, the line its interval. To the right the differences to MAML-TRPO, seed by
# seed. Where such an interval holds 0, these seeds do not tell the two apart.

# %%
scores = runs.scores("result.score_after_1", by=BY)
show(
    plots.plot_comparison(scores, label="mean return after one step", baseline="maml_trpo"),
    "compare_forest",
)

# %%
ranking(scores)

# %% [markdown]
# How probably is a run of one better than one of the other? ½ is a coin.

# %%
show(plots.plot_improvement(scores, baseline="maml_trpo", label="return"), "compare_improvement")

# %% [markdown]
# Averages hide how often an algorithm fails. A profile shows the whole distribution over runs: higher is better, and
# curves that cross have no order.

# %%
show(plots.plot_profiles(scores, label="mean return after one step"), "compare_profiles")

# %% [markdown]
# ## How many samples it took
#
# Environment steps to the level that the worst of the three reaches; a run that never got there counts as one that
# would take longer than all that was tried.

# %%
level = scores.groupby("group")["value"].median().min()
for group, rows in after.groupby("group"):
    curves = {run: (part["x"].to_numpy(), part["value"].to_numpy()) for run, part in rows.groupby("run")}
    reached = stats.steps_to_threshold(curves, level)
    print(f"{group}: median {reached.estimate.text()} steps to {level:.1f}; {reached.reached} of {len(curves)} runs")

# %% [markdown]
# ## What it cost

# %%
speed = runs.scores("time/env_steps_per_second", by=BY)
show(plots.plot_throughput(speed), "compare_throughput")
