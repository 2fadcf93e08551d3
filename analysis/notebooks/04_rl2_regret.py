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
# # RL² and the classical bandit policies
#
# A bandit has five arms with Bernoulli rewards of unknown means, and a trial has ten pulls. RL² learns to play such
# bandits by reinforcement learning. This notebook compares its regret with that of classical policies.

# %%
import pandas as pd

from analysis import plots
from analysis.notebooks import open_runs, show
from analysis.studies.rl2_games import Game

COMMANDS = """
for seed in 0 1 2 3 4; do python experiments/rl2.py -c regret with bandit_k5_n10 seed=$seed; done
"""
runs = open_runs("tag=regret,experiment=rl2,command=train", COMMANDS, expected={"seed": range(5)})

# %% [markdown]
# ## Learning to explore
#
# The mean reward of the first and of the last pull of a trial, on held-out bandits. The first cannot improve, since no
# arm has been observed yet. The last improves with the use of the nine pulls before it.

# %%
pulls = {"first pull": "eval/score_after_0", "last pull": "eval/score_after_9"}
curves = pd.concat(runs.curves(metric).assign(group=name) for name, metric in pulls.items())
show(plots.plot_curves(curves, label="mean reward of a pull"), "regret_learning")

# %% [markdown]
# ## Regret
#
# The regret of a pull is the mean of the best arm minus the mean of the pulled arm, without the noise of rewards. The
# classical policies play 2,000 bandits for each of five seeds.

# %%
classical = Game(arms=5, length=10).classical_regrets(2000)  # on other bandits than RL², so seeds are not paired
ours = runs.adaptation_curves().assign(group="RL²")
ours["value"] = ours["regret"]
every = pd.concat([ours.drop(columns="regret"), classical])
show(plots.plot_regrets(every, label="cumulative regret", width=4.2), "regret_pulls")

# %% [markdown]
# ## Total regret
#
# The sum over pulls, one number for each run.

# %%
totals = (
    every.groupby(["group", "seed", "run"], sort=False)["value"]
    .agg(lambda values: values.sum(skipna=False))
    .reset_index()
)
show(plots.plot_comparison(totals, label="total regret, lower is better", baseline="Thompson"), "regret_total")
