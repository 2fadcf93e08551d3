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
# Lookahead updates fast weights for $k$ steps, then moves the slow weights by the fraction α towards them. Does it make
# gradient play converge to the equilibrium of a game, and does it improve a DQN?

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
# Rock, paper, scissors with simultaneous gradient steps of both players. With α = 1 the slow weights equal the fast
# ones, which is the plain method: the players circle the equilibrium and diverge from it. Everything else is equal,
# with five steps in a cycle and the same initial strategies.

# %%
curves = games.adaptation_curves(by=["lookahead_alpha"])
show(
    plots.plot_adaptation(curves, label="distance to the equilibrium", log=True),
    "lookahead_game",
)

# %% [markdown]
# The initial strategies of a seed are the same for both, so the comparison is paired by seed:

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
# CartPole with the settings of RL Baselines3 Zoo, and the same with Lookahead around Adam ($k$ = 5, α = ½). Since the
# learning curves fluctuate, the area under the curve is a better summary than the last value.

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
