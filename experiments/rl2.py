"""RL²: meta-learn a recurrent policy whose state learns the task within a trial of several episodes.

    python experiments/rl2.py with bandit_k5_n10 seed=3
    python experiments/rl2.py with cheetah_vel episodes_per_trial=3
    python experiments/rl2.py evaluate with run=3 num_eval_tasks=10000
    python experiments/rl2.py resume with run=3

Named configs: bandit_k5_n10, bandit_k10_n10, bandit_k50_n10, bandit_k5_n100, bandit_k10_n100, bandit_k50_n500,
tabular_n10, tabular_n25 (the tables of Duan et al. 2016, arXiv:1611.02779: k arms, n episodes; rewards are not
discounted there); gridnavi (Zintgraf et al. 2020, arXiv:1910.08348); cheetah_vel; cheetah_dir (200 steps),
and with it hyper (a hypernetwork as the head, with the parameters of the linear head); fast (seconds).
"""

from __future__ import annotations

from typing import Any

from experiments.report import report_trials
from experiments.trials import BANDIT, BANDIT_K5_N10, CHEETAH_VEL, COLUMNS, GRIDNAVI
from research.tracking.commands import add_commands
from research.tracking.experiment import make_experiment

LONG_BANDIT = BANDIT | {
    "episodes_per_trial": 100,
    "policy": {"outer_input": True},
    "meta_batch_size": 400,
    "final_meta_batch_size": 1400,
    "num_iterations": 600,
    "num_minibatches": 8,
    "meta_lr": 3e-3,
    "gae_lambda": 0.9,
    "entropy_coef": 0.06,  # none, and exploration ends too early; until the end, and it never ends
    "entropy_until": 0.5,
}
TABULAR: dict[str, Any] = {
    "task": "tabular_mdp",
    "policy": {"hidden_size": 128, "outer_input": True, "per_state_heads": True},
    "num_epochs": 1,  # sampling is cheap: new trials teach more than a second look at old ones
    "num_minibatches": 12,
    "meta_lr": 4e-3,
    "gae_lambda": 0.6,
    "entropy_coef": 0.05,
    "entropy_until": 0.5,
    "num_eval_tasks": 10_000,
}

NAMED_CONFIGS: dict[str, dict[str, Any]] = {
    "bandit_k5_n10": BANDIT_K5_N10,
    "bandit_k10_n10": BANDIT_K5_N10 | {"task_args": {"num_arms": 10}},
    "bandit_k50_n10": BANDIT_K5_N10 | {"task_args": {"num_arms": 50}, "num_iterations": 720},
    "bandit_k5_n100": LONG_BANDIT,
    "bandit_k10_n100": LONG_BANDIT | {"task_args": {"num_arms": 10}},
    "bandit_k50_n500": LONG_BANDIT
    | {
        "task_args": {"num_arms": 50},
        "episodes_per_trial": 500,
        "meta_batch_size": 200,
        "final_meta_batch_size": 700,
        "gae_lambda": 0.95,
    },
    "tabular_n10": TABULAR | {"episodes_per_trial": 10, "meta_batch_size": 1000, "num_iterations": 720},
    "tabular_n25": TABULAR
    | {
        "episodes_per_trial": 25,
        "meta_batch_size": 500,
        "num_iterations": 800,
        "num_minibatches": 25,
        "gae_lambda": 0.8,
        "entropy_coef": 0.08,
    },
    "gridnavi": GRIDNAVI
    | {
        "policy": {"outer_input": True, "per_state_heads": True},
        "meta_batch_size": 630,  # 30 times each of the 21 goals
        "num_iterations": 600,
        "num_epochs": 1,
        "num_minibatches": 6,
        "meta_lr": 4e-3,
        "gae_lambda": 0.97,  # first episodes that earn the same differ in what they leave for the second
        "entropy_coef": 0.15,
        "entropy_until": 0.95,
    },
    "cheetah_vel": CHEETAH_VEL,
    "cheetah_dir": {
        "task": "cheetah_dir",
        "horizon": 200,
        "episodes_per_trial": 1,
        "meta_batch_size": 64,
        "num_iterations": 240,
        "policy": {"hidden_size": 166},  # 97,000 parameters
        "discount": 0.97,
        "gae_lambda": 0.9,
        "entropy_coef": 0.0,
        "num_epochs": 4,
        "num_minibatches": 8,
        "meta_lr": 1e-3,
        "max_grad_norm": 1.0,
        "num_eval_tasks": 40,
        "eval_interval": 0,
    },
    "hyper": {"policy": {"hidden_size": 128, "head": "hyper", "hyper_size": 16}},
    "fast": {
        "num_iterations": 3,
        "episodes_per_trial": 4,
        "meta_batch_size": 20,
        "policy": {"hidden_size": 8},
        "num_eval_tasks": 50,
        "eval_interval": 2,
    },
}


experiment = make_experiment("rl2", "rl2", script=__file__, description=__doc__, named_configs=NAMED_CONFIGS)
add_commands(experiment, "rl2", columns=COLUMNS, report=report_trials)

if __name__ == "__main__":
    experiment.run_commandline()
