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
# # After a sweep
#
# Some runs of a sweep have failed, and some have not begun. This notebook lists the open runs and the reasons, the runs
# to retry, and then the settings with the best scores.

# %%
import pandas as pd

from analysis import plots
from analysis.data.sweeps import ranking
from analysis.notebooks import open_sweep, show

COMMANDS = """
python -m slurm submit slurm/sweeps/ppo_rates.yaml --local -j 2
"""
pd.set_option("display.max_colwidth", None)  # shows the reasons in full
SWEEP = None  # a name, e.g. "ppo_rates-1"; None: the sweep that was submitted last
sweep = open_sweep(SWEEP, COMMANDS)
print(f"{sweep.name}: {len(sweep.table)} runs that differ in {', '.join(sweep.keys)} and the seed")
sweep.table["status"].value_counts().to_frame("runs")

# %% [markdown]
# ## Open runs

# %%
sweep.open()

# %% [markdown]
# The last lines of the output of each failed run, with the traceback:

# %%
for run in sweep.open().index.intersection(sweep.runs.table.index):
    print(f"--- run {run} ---\n{sweep.runs.log(run, lines=6)}\n")

# %% [markdown]
# ## Runs to retry
#
# A setting for which every seed failed will probably fail again:

# %%
sweep.hopeless()

# %% [markdown]
# This command retries the others:

# %%
print(sweep.retry() or "nothing to retry: every open setting has failed with every seed")

# %% [markdown]
# ## The best settings
#
# Only completed runs count; the table has their number. The best of many settings is selected partly by chance, so its
# score is biased upwards: evaluate it again with other seeds.

# %%
scores = sweep.scores("result.score_after_1")
show(plots.plot_comparison(scores, label="mean return after one step"), "sweep_settings")

# %%
ranking(scores)
