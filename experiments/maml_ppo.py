"""MAML-PPO: meta-learn a policy that a few policy-gradient steps fit to a new task, by clipped epochs outside.

    python experiments/maml_ppo.py with promp seed=3 num_inner_steps=2
    python experiments/maml_ppo.py with navigation_2d estimator=dice adaptive_kl=True
    python experiments/maml_ppo.py evaluate with checkpoint=runs/3/checkpoints/latest num_adapt_steps=5
    python experiments/maml_ppo.py render with run=3 num_adapt_steps=1
    python experiments/maml_ppo.py resume with run=3

Named configs: promp, e_maml, dice, meta_sgd (the algorithm); navigation_2d, cheetah_vel, cheetah_dir (the task);
fast (seconds). They combine, later ones over earlier ones: `with promp cheetah_vel`.
"""

from __future__ import annotations

from typing import Any

from experiments.policy_experiment import make_policy_experiment

COLUMNS = {
    "before": "return_pre",
    "after": "return_post",
    "KL": "kl",
    "clipped": "clip_fraction",
    "steps/s": "time/env_steps_per_second",
}

NAMED_CONFIGS: dict[str, dict[str, Any]] = {
    "promp": {  # the settings of its authors, github.com/jonasrothfuss/ProMP
        "estimator": "lvc",
        "inner_lr": 0.1,
        "meta_lr": 1e-3,
        "num_epochs": 5,
        "num_minibatches": 1,
        "clip_eps": 0.3,
        "kl_coef": 5e-4,
        "adaptive_kl": False,
        "meta_batch_size": 40,
    },
    "e_maml": {"estimator": "e_maml"},
    "dice": {"estimator": "dice"},
    "meta_sgd": {"learn_inner_lr": "per_parameter", "eval_inner_lr": None},
}

experiment = make_policy_experiment(
    "maml_ppo",
    script=__file__,
    description=__doc__,
    columns=COLUMNS,
    named_configs=NAMED_CONFIGS,
)

if __name__ == "__main__":
    experiment.run_commandline()
