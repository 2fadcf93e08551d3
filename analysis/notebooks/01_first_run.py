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
# # A first run, five times
#
# The result of one run depends on its seed. To judge an algorithm takes several seeds, and an interval that accounts
# for the variation between them. This notebook reads five seeds of MAML-TRPO on 2D navigation: an agent starts at the
# origin, does not observe the goal, and adapts its policy by a few gradient steps on the rewards of its own episodes.

# %%
import numpy as np

from analysis import plots, stats
from analysis.notebooks import open_runs, show

COMMANDS = """
SHORT="navigation_2d num_iterations=20 eval_interval=5 meta_batch_size=10"
for seed in 0 1 2 3 4; do make run ARGS="-c first_run with $SHORT seed=$seed"; done
"""
runs = open_runs("tag=first_run,experiment=maml_trpo,command=train", COMMANDS, expected={"seed": range(5)})

# %% [markdown]
# The lines above name failed, damaged and missing runs. The table has one row for each run, with the last value of each
# metric:

# %%
runs.table[["seed", "status", "seconds", "final.return_pre", "final.return_post", "result.score_after_1"]]

# %% [markdown]
# ## Learning
#
# Every few iterations a run is evaluated on held-out goals. The line is the interquartile mean (IQM) over the seeds,
# which is robust to a single outlier. The band is its 95 % interval at every point.

# %%
after = runs.curves("eval/score_after_1", x="env_steps")
show(
    plots.plot_curves(after, label="mean return after one step", x_label="environment steps"),
    "first_run_learning",
)

# %% [markdown]
# ## Adapting
#
# The aim of meta-learning is fast adaptation: the figure has the return on the held-out goals at the end of training,
# before adaptation and after each gradient step.

# %%
adaptation = runs.adaptation_curves()
show(plots.plot_adaptation(adaptation, label="mean return on held-out goals"), "first_run_adaptation")

# %% [markdown]
# The same numbers and intervals as text:

# %%
for step, rows in adaptation.groupby("adapt_step"):
    found = stats.estimate(rows["value"], np.random.default_rng(0))
    print(f"after {step} gradient steps: {found.text()}  ({found.runs} runs, IQM, {found.interval})")

# %% [markdown]
# The gain of the first step, paired by seed, which removes the variation between seeds:

# %%
before, after_one = (
    adaptation[adaptation["adapt_step"] == step].set_index("seed")["value"].to_dict() for step in (0, 1)
)
gain = stats.paired_difference(after_one, before, np.random.default_rng(0))
print(f"gain of the first step: {gain.estimate.text(sign=True)}, {len(gain.pairs)} seeds, {gain.estimate.interval}")
