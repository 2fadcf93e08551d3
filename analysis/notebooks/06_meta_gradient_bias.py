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
# # The cost of a biased meta-gradient
#
# The gradient of the expected return *after* adaptation has a term for the dependence of the sampled inner episodes on
# the policy. Plain automatic differentiation omits it. `maml` omits it too, `e_maml` adds an estimate, `dice` is
# unbiased, and `lvc` has a small bias and less variance. First the bias, compared with the exact gradient, then its
# effect on learning.

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
# The meta-gradient of a random MDP with five states is known exactly. All estimators get the same inner batches and the
# exact outer gradient, so the error comes from the inner batch.

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
# The bias of `maml` does not decrease with more episodes. That of `dice` vanishes with a few dozen.
#
# ## The effect on learning

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
# An interval of a difference that contains 0 does not prove that the bias has no effect: these runs are too few to show
# one.
