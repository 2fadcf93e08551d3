"""VariBAD and task inference: RL² whose memory learns to infer the task by a loss of its own.

    python experiments/varibad.py with gridnavi seed=3
    python experiments/varibad.py with gridnavi inference=task
    python experiments/varibad.py evaluate with run=3 num_eval_tasks=42 num_adapt_steps=5
    python experiments/varibad.py resume with run=3

Named configs: gridnavi, point_semicircle, cheetah_vel, bandit_k5_n10; fast (seconds). Their settings below
`inference.varibad` are for the decoders of VariBAD, which task inference does not have.
"""

from __future__ import annotations

from typing import Any

from experiments.report import report_trials
from experiments.trials import BANDIT_K5_N10, CHEETAH_VEL, COLUMNS, GRIDNAVI
from research.tracking.commands import add_commands
from research.tracking.experiment import make_experiment
from research.tracking.settings import Choice

NAMED_CONFIGS: dict[str, dict[str, Any]] = {
    "gridnavi": GRIDNAVI
    | {
        "meta_batch_size": 504,  # each of the 21 goals equally often
        "num_iterations": 600,
        "policy": {"belief_size": 24},  # there are 21 goals
        "decoder": {"hidden_sizes": [64]},
        "inference": {
            "varibad": {
                "transition_coef": 0.0,  # all tasks have the same transitions
                "decoder": {"reward": "bernoulli", "reward_per_state": True},
            }
        },
        "kl_coef": 0.05,
        "inference_lr": 3e-3,
        "num_inference_epochs": 2,
        "meta_lr": 3e-3,
        "num_minibatches": 8,
        "gae_lambda": 0.97,
        "entropy_coef": 0.1,
        "entropy_until": 0.95,
    },
    "point_semicircle": {
        "task": "point_semicircle",
        "episodes_per_trial": 2,
        "meta_batch_size": 400,
        "num_iterations": 400,
        "policy": {"belief_size": 16},
        "inference": {"varibad": {"transition_coef": 0.0, "decoder": {"reward": "bernoulli"}}},
        "kl_coef": 0.05,
        "inference_lr": 2e-3,
        "num_inference_epochs": 2,
        "meta_lr": 2e-3,
        "num_minibatches": 8,
        "gae_lambda": 0.95,
        "num_eval_tasks": 200,
        "eval_interval": 25,
    },
    "cheetah_vel": CHEETAH_VEL
    | {
        "num_inference_minibatches": 10,
        # Velocities are told by rewards alone.
        "inference": {"varibad": {"transition_coef": 0.0, "decoder": {"reward_std": 0.3}}},
    },
    "bandit_k5_n10": BANDIT_K5_N10
    | {
        "policy": {"belief_size": 10},
        "decoder": {"hidden_sizes": [32]},
        "inference_lr": 5e-3,
        "inference": {"varibad": {"decoder": {"reward": "bernoulli"}, "num_elbo_times": 4}},
    },
    "fast": {
        "task": "bandit",
        "num_iterations": 3,
        "episodes_per_trial": 6,
        "meta_batch_size": 20,
        "policy": {"hidden_size": 8, "head_hidden_sizes": [8], "belief_size": 2},
        "decoder": {"hidden_sizes": [8]},
        "inference": {"varibad": {"decoder": {"reward": "bernoulli"}, "num_elbo_times": 4}},
        "num_eval_tasks": 50,
        "eval_interval": 2,
    },
}

CONFIGS = Choice("inference", {"varibad": "varibad", "task": "varibad"})

experiment = make_experiment("varibad", CONFIGS, script=__file__, description=__doc__, named_configs=NAMED_CONFIGS)
add_commands(experiment, "varibad", columns=COLUMNS | {"elbo": "elbo"}, report=report_trials)

if __name__ == "__main__":
    experiment.run_commandline()
