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
# # The morning after a sweep
#
# Some of a sweep's runs have failed, some never began. Before any of it is averaged: what is open and why, what is
# worth doing again, and only then which settings did best.

# %%
import pandas as pd

from analysis import plots
from analysis.data.sweeps import ranking
from analysis.notebooks import open_sweep, show

COMMANDS = """
python -m slurm submit slurm/sweeps/ppo_rates.yaml --local -j 2
"""
pd.set_option("display.max_colwidth", None)  # reasons are to be read whole
SWEEP = None  # a name, e.g. "ppo_rates-1"; None: the one that was submitted last
sweep = open_sweep(SWEEP, COMMANDS)
print(f"{sweep.name}: {len(sweep.table)} runs that differ in {', '.join(sweep.keys)} and the seed")
sweep.table["status"].value_counts().to_frame("runs")

# %% [markdown]
# ## What is open

# %%
sweep.open()

# %% [markdown]
# The last lines that each of those that failed has printed, error included:

# %%
for run in sweep.open().index.intersection(sweep.runs.table.index):
    print(f"--- run {run} ---\n{sweep.runs.log(run, lines=6)}\n")

# %% [markdown]
# ## What to do again
#
# A setting of which every seed fails does not fail by accident; it will fail again.

# %%
sweep.hopeless()

# %% [markdown]
# The rest is worth another try, by this command:

# %%
print(sweep.retry() or "nothing: all that is open has failed with every seed")

# %% [markdown]
# ## What did best
#
# Only completed runs count, and how many a setting has stands beside it. The best of many settings looks better than
# it is, since luck helped to choose it: run the winner once more, with seeds that it was not chosen by.

# %%
scores = sweep.scores("result.score_after_1")
show(plots.plot_comparison(scores, label="mean return after one step"), "sweep_settings")

# %%
ranking(scores)
