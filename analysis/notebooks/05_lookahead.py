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
# # Lookahead: step forward, look back
#
# Lookahead lets fast weights run ahead for $k$ steps and then moves slow weights a share α of the way. Two questions:
# does it turn the circles of a game into a spiral to its equilibrium, and does it help a DQN?

# %%
import numpy as np

from analysis import plots, stats
from analysis.notebooks import open_runs, show

COMMANDS = """
for seed in 0 1 2 3 4; do
    python experiments/lookahead_games.py -c lookahead with rock_paper_scissors seed=$seed
    python experiments/lookahead_games.py -c lookahead with rock_paper_scissors lookahead_alpha=1 seed=$seed
    python experiments/lookahead_dqn.py -c lookahead with cartpole seed=$seed
    python experiments/lookahead_dqn.py -c lookahead with cartpole fast_slow seed=$seed
done
"""
games = open_runs("tag=lookahead,experiment=lookahead_games,command=train", COMMANDS)

# %% [markdown]
# ## A game
#
# Rock, paper, scissors: both players follow their gradients at the same time. With α = 1 the slow weights go all the
# way, which is no Lookahead at all: the players circle the equilibrium and drift off. The rest is the same: five steps
# to a cycle, the same starts.

# %%
curves = games.adaptation_curves(by=["lookahead_alpha"])
show(
    plots.plot_adaptation(curves, label="distance to the equilibrium", log=True),
    "lookahead_game",
)

# %% [markdown]
# The starts of a seed are the same with and without, so the seeds pair:

# %%
last = curves[curves["adapt_step"] == curves["adapt_step"].max()]
ours, plain = (
    last[last["group"] == f"lookahead_alpha={alpha}"].set_index("seed")["value"].to_dict() for alpha in (0.5, 1)
)
less = stats.paired_difference(ours, plain, np.random.default_rng(0))
print(f"Lookahead less plain: {less.estimate.text(sign=True)}, {len(less.pairs)} seeds, {less.estimate.interval}")

# %% [markdown]
# ## A DQN
#
# CartPole at the settings of the zoo, and the same with slow weights behind Adam's ($k$ = 5, α = ½). A learning curve
# that jumps about is badly summed up by its end: the area under it counts the whole way.

# %%
dqn = open_runs("tag=lookahead,experiment=lookahead_dqn,command=train", COMMANDS)
NAMES = {"lookahead_k=0": "Adam", "lookahead_k=5": "Lookahead around Adam"}
curves = dqn.curves("eval/score_after_0", by=["lookahead_k"])
curves["group"] = curves["group"].map(NAMES)
show(plots.plot_curves(curves, label="mean return"), "lookahead_dqn")

# %%
areas = dqn.scores("eval/score_after_0", by=["lookahead_k"], value="area")
areas["group"] = areas["group"].map(NAMES)
show(plots.plot_comparison(areas, label="mean height of the curve", baseline="Adam"), "lookahead_area")
