"""First-order MAML: the policy gradient after adaptation, applied to the parameters before it.

    python experiments/fomaml.py with navigation_2d seed=3
    python experiments/fomaml.py evaluate with checkpoint=runs/3/checkpoints/latest num_adapt_steps=5
    python experiments/fomaml.py render with run=3 num_adapt_steps=1
    python experiments/fomaml.py resume with run=3

Named configs: navigation_2d, cheetah_vel, cheetah_dir; fast (seconds).
"""

from __future__ import annotations

from experiments.policy_experiment import make_policy_experiment

COLUMNS = {
    "before": "return_pre",
    "after": "return_post",
    "|∇|": "gradient_norm",
    "steps/s": "time/env_steps_per_second",
}

experiment = make_policy_experiment(
    "fomaml",
    script=__file__,
    description=__doc__,
    columns=COLUMNS,
)

if __name__ == "__main__":
    experiment.run_commandline()
