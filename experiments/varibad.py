"""VariBAD and task inference: RL² whose memory learns to infer the task by a loss of its own.

    python experiments/varibad.py with gridnavi seed=3
    python experiments/varibad.py with gridnavi inference=task
    python experiments/varibad.py evaluate with run=3 num_eval_tasks=42 num_adapt_steps=5
    python experiments/varibad.py resume with run=3

Named configs: gridnavi, point_semicircle, cheetah_vel, bandit_k5_n10; fast (seconds).
"""

from __future__ import annotations

from typing import Any

from experiments.report import report_trials
from research.algorithms.memory.varibad import VariBAD
from research.tracking.experiment import make_experiment
from research.tracking.session import add_commands

COLUMNS = {
    "first": "return_pre",
    "last": "return_post",
    "trial": "return_trial",
    "elbo": "elbo",
    "entropy": "entropy",
    "steps/s": "time/env_steps_per_second",
}

NAMED_CONFIGS: dict[str, dict[str, Any]] = {
    "gridnavi": {
        "task": "gridnavi",
        "episodes_per_trial": 4,
        "meta_batch_size": 504,  # each of the 21 goals equally often
        "final_meta_batch_size": 1008,
        "num_iterations": 800,
        "policy": {"head": "state", "belief_size": 24},  # the cells that are ruled out need room
        "transition_coef": 0.0,  # all tasks have the same transitions
        "decoder": {"hidden_sizes": [64], "reward": "bernoulli", "reward_per_state": True},
        "kl_coef": 0.05,
        "inference_lr": 3e-3,
        "num_inference_epochs": 2,
        "meta_lr": 3e-3,
        "num_minibatches": 8,
        "gae_lambda": 0.95,
        "entropy_coef": 0.03,
        "num_eval_tasks": 42,  # each goal twice
        "eval_actions": "mode",
        "eval_interval": 25,
    },
    "point_semicircle": {
        "task": "point_semicircle",
        "episodes_per_trial": 2,
        "meta_batch_size": 400,
        "num_iterations": 400,
        "policy": {"head": "state", "belief_size": 16},
        "transition_coef": 0.0,
        "decoder": {"reward": "bernoulli"},
        "kl_coef": 0.05,
        "inference_lr": 2e-3,
        "num_inference_epochs": 2,
        "meta_lr": 2e-3,
        "num_minibatches": 8,
        "gae_lambda": 0.95,
        "num_eval_tasks": 200,
        "eval_interval": 25,
    },
    "cheetah_vel": {
        "task": "cheetah_vel",
        "horizon": 100,
        "episodes_per_trial": 2,
        "meta_batch_size": 40,
        "trials_per_task": 10,
        "num_iterations": 400,
        "policy": {"hidden_size": 128, "head": "state", "belief_size": 5},
        "transition_coef": 0.0,  # velocities are told by rewards alone
        "decoder": {"reward_std": 0.3},
        "num_inference_minibatches": 10,
        "discount": 0.99,
        "gae_lambda": 0.95,
        "meta_lr": 1e-3,
        "entropy_coef": 0.0,
        "num_minibatches": 10,
        "num_eval_tasks": 40,
        "eval_trials": 20,
        "eval_interval": 25,
    },
    "bandit_k5_n10": {
        "task": "bandit",
        "episodes_per_trial": 10,
        "meta_batch_size": 2000,
        "num_iterations": 180,
        "meta_lr": 5e-3,
        "policy": {"head": "state", "belief_size": 10},
        "decoder": {"hidden_sizes": [32], "reward": "bernoulli"},
        "num_elbo_times": 4,
        "inference_lr": 5e-3,
        "num_eval_tasks": 10_000,
    },
    "fast": {
        "task": "bandit",
        "num_iterations": 3,
        "episodes_per_trial": 6,
        "meta_batch_size": 20,
        "policy": {"hidden_size": 8, "head": "state", "head_hidden_sizes": [8], "belief_size": 2},
        "decoder": {"hidden_sizes": [8], "reward": "bernoulli"},
        "num_elbo_times": 4,
        "num_eval_tasks": 50,
        "eval_interval": 2,
    },
}

experiment = make_experiment(
    "varibad", VariBAD.Config, script=__file__, description=__doc__, named_configs=NAMED_CONFIGS
)
add_commands(experiment, VariBAD, columns=COLUMNS, report=report_trials)

if __name__ == "__main__":
    experiment.run_commandline()
