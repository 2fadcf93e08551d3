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
# # Three ways to adapt, on one axis
#
# The agent does not observe its goal on a grid. MAML-TRPO adapts by policy-**gradient** steps, RL² by its recurrent
# **memory**, Reptile-DQN by temporal-difference steps on **values**. All record the score on the same held-out goals
# after 0, 1, 2, … steps of adaptation, each in its own unit.

# %%
from analysis import plots
from analysis.notebooks import open_runs, show

COMMANDS = """
GRID="num_eval_tasks=8 horizon=20" ITERATIONS="num_iterations=200"
for seed in 0 1 2 3 4; do
    python experiments/maml_trpo.py -c adaptation with task=grid_goals $GRID $ITERATIONS seed=$seed
    python experiments/rl2.py -c adaptation with task=grid_goals $GRID $ITERATIONS episodes_per_trial=4 seed=$seed
    python experiments/lookahead_dqn.py -c adaptation with grid_goals_reptile $GRID discounted_score=False seed=$seed
done
"""
AGENTS = {"maml_trpo": "MAML-TRPO", "rl2": "RL²", "lookahead_dqn": "Reptile-DQN"}
runs = open_runs("tag=adaptation,command=train", COMMANDS, [{"experiment": name, "seed": 0} for name in AGENTS])

# %%
curves = runs.adaptation_curves(by=["experiment"])
curves["group"] = curves["group"].map(AGENTS)
show(plots.plot_adaptation(curves, label="mean return", width=4.2), "adaptation_all")

# %% [markdown]
# The axis is the fraction of each agent's own adaptation, since a gradient step, an episode and a hundred TD steps use
# different amounts of experience. The caption says so, and gives the number of runs.
#
# ## Each in its own unit

# %%
for name, rows in curves.groupby("group", sort=False):
    figure = plots.plot_adaptation(rows, label="mean return", width=2.8)
    show(figure, f"adaptation_{name.lower().replace('²', '2')}")

# %% [markdown]
# ## Goal by goal
#
# A mean over goals does not show a goal that is never reached. `runs.adaptation` has every held-out task. The table has
# the score after the last step, averaged over seeds.

# %%
last = runs.adaptation[runs.adaptation["task"] >= 0]
last = last[last["adapt_step"] == last.groupby("run")["adapt_step"].transform("max")]
last = last.assign(agent=last["run"].map(runs.table["experiment"]).map(AGENTS))
last.pivot_table(index="task", columns="agent", values="value", aggfunc="mean").round(2)
