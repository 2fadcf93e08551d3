"""First-order MAML: the policy gradient after adaptation, applied to the parameters before it.

    python experiments/fomaml.py with navigation_2d seed=3
    python experiments/fomaml.py evaluate with checkpoint=runs/3/checkpoints/latest num_adapt_steps=5
    python experiments/fomaml.py render with run=3 num_adapt_steps=1
    python experiments/fomaml.py resume with run=3

Named configs: navigation_2d, cheetah_vel, cheetah_dir; fast (seconds).
"""

from __future__ import annotations

from typing import Any

from experiments.render import prepare_drawing
from experiments.report import report
from research.algorithms.fomaml import FOMAML
from research.tracking.experiment import make_experiment
from research.tracking.session import add_commands

COLUMNS = {
    "before": "return_pre",
    "after": "return_post",
    "|∇|": "gradient_norm",
    "steps/s": "time/env_steps_per_second",
}

NAMED_CONFIGS: dict[str, dict[str, Any]] = {
    "navigation_2d": {
        "task": "navigation_2d",
        "inner_lr": 0.5,
        "eval_inner_lr": [0.5, 0.15, 0.1],
        "gae_lambda": 0.9,
        "eval_interval": 25,
        "policy": {"output_scale": 0.01},
    },
    "cheetah_vel": {"task": "cheetah_vel", "horizon": 100, "inner_lr": 0.1, "eval_interval": 25},
    "cheetah_dir": {"task": "cheetah_dir", "horizon": 200, "inner_lr": 0.1, "eval_interval": 25},
    "fast": {
        "num_iterations": 3,
        "meta_batch_size": 4,
        "episodes_per_task": 4,
        "horizon": 20,
        "policy": {"hidden_sizes": [8]},
        "num_eval_tasks": 5,
        "eval_episodes": 4,
        "eval_interval": 2,
    },
}

experiment = make_experiment("fomaml", FOMAML.Config, script=__file__, description=__doc__, named_configs=NAMED_CONFIGS)
add_commands(experiment, FOMAML, columns=COLUMNS, report=report, prepare_drawing=prepare_drawing)

if __name__ == "__main__":
    experiment.run_commandline()
