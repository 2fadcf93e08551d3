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
# Five arms that pay 1 with unknown probabilities, ten pulls. What is best was worked out decades ago; RL² is not told
# any of it, and has to find out by itself how to explore. Its regret, beside that of policies from the books.

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
# The mean return of the first and of the last pull of a trial, on held-out bandits. The first cannot improve: nothing
# is known of the arms yet. What grows is what the nine pulls before have taught.

# %%
pulls = {"first pull": "eval/score_after_0", "last pull": "eval/score_after_9"}
curves = pd.concat(runs.curves(metric).assign(group=name) for name, metric in pulls.items())
show(plots.plot_curves(curves, label="mean reward of a pull"), "regret_learning")

# %% [markdown]
# ## Regret
#
# The regret of a pull is the mean of the best arm less that of the arm that was pulled: noise of the rewards is not in
# it. The classical policies play 2,000 bandits for each of five seeds.

# %%
classical = Game(arms=5, length=10).classical_regrets(2000)  # on bandits of their own: no pairs with those of RL²
ours = runs.adaptation_curves().assign(group="RL²")
ours["value"] = ours["regret"]
every = pd.concat([ours.drop(columns="regret"), classical])
show(plots.plot_regrets(every, label="regret so far", width=4.2), "regret_pulls")

# %% [markdown]
# ## In total
#
# The same as one number for each run.

# %%
totals = every.groupby(["group", "seed", "run"], sort=False)["value"].sum().reset_index()
show(plots.plot_comparison(totals, label="total regret, lower is better", baseline="Thompson"), "regret_total")
