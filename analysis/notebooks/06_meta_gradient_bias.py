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
# # What a biased meta-gradient costs
#
# The gradient of what a policy is worth *after* adaptation has a term for how the policy samples the episodes that it
# adapts on. Plain automatic differentiation leaves it out. `maml` lives with that, `e_maml` adds a term of its own,
# `dice` is unbiased, `lvc` trades a little bias for less noise. First the bias itself, against the exact gradient;
# then what it does to learning.

# %%
from analysis import plots
from analysis.notebooks import open_runs, show
from analysis.studies.estimators import biases, limits, measure, random_problem, relative

COMMANDS = """
for seed in 0 1 2 3 4; do
    for estimator in maml e_maml dice lvc; do
        python experiments/maml_ppo.py -c bias with navigation_2d estimator=$estimator num_iterations=100 seed=$seed
    done
done
"""
runs = open_runs("tag=bias,experiment=maml_ppo,command=train", COMMANDS)

# %% [markdown]
# ## The bias, exactly
#
# On a random MDP of five states the meta-gradient is known. Every estimator gets the same inner batches and the exact
# outer gradient, so that what is left is the error of the inner batch.

# %%
SIZES, BATCHES = (1, 4, 16, 64), 300
problem = random_problem(seed=0, num_states=5, num_actions=3, horizon=5, step_size=2.0, noise=1.0)
found = biases(measure(problem, "exact", SIZES, BATCHES), SIZES)
always = {name: relative(limit, problem.truth()) for name, limit in limits(problem).items() if name in ("maml", "lvc")}
errors = f"bars: 1.96 standard errors to either side, {BATCHES} batches"
show(
    plots.plot_bias(found, limits=always, interval=errors, width=4.2),
    "bias_exact",
)

# %% [markdown]
# More episodes do not help `maml`: its bias stays. That of `dice` is gone with a few dozen.
#
# ## What it does to learning

# %%
after = runs.curves("eval/score_after_1", x="env_steps", by=["estimator"])
after["group"] = after["group"].str.removeprefix("estimator=")
show(
    plots.plot_curves(after, label="mean return after one step", x_label="environment steps", width=4.2),
    "bias_learning",
)

# %%
scores = runs.scores("result.score_after_1", by=["estimator"])
scores["group"] = scores["group"].str.removeprefix("estimator=")
show(plots.plot_comparison(scores, label="mean return after one step", baseline="maml"), "bias_comparison")

# %% [markdown]
# An interval of a difference that holds 0 is no proof that bias does not matter: it says that these runs cannot tell.
