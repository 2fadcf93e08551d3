"""Settings that the experiments of agents with a memory share, as differences from the defaults, and their columns."""

from __future__ import annotations

from typing import Any

COLUMNS = {
    "first": "return_pre",
    "last": "return_post",
    "trial": "return_trial",
    "entropy": "entropy",
    "steps/s": "time/env_steps_per_second",
}
"""Metrics on screen while an agent trains, by their heads."""

BANDIT: dict[str, Any] = {"task": "bandit", "num_eval_tasks": 10_000}
BANDIT_K5_N10 = BANDIT | {"episodes_per_trial": 10, "meta_batch_size": 2000, "num_iterations": 180, "meta_lr": 5e-3}
GRIDNAVI: dict[str, Any] = {
    "task": "gridnavi",
    "episodes_per_trial": 4,
    "num_eval_tasks": 42,  # each goal twice
    "eval_actions": "mode",
}
CHEETAH_VEL: dict[str, Any] = {
    "task": "cheetah_vel",
    "horizon": 100,
    "episodes_per_trial": 2,
    "meta_batch_size": 40,
    "trials_per_task": 10,
    "num_iterations": 400,
    "policy": {"hidden_size": 128},
    "discount": 0.99,
    "gae_lambda": 0.95,
    "meta_lr": 1e-3,
    "entropy_coef": 0.0,
    "num_minibatches": 10,
    "num_eval_tasks": 40,
    "eval_trials": 20,
    "eval_interval": 25,
}
