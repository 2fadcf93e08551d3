"""Experiments with policies that adapt: the named configs of their tasks, their reports and their pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.render import prepare_drawing
from experiments.report import report
from research.tracking.commands import add_commands
from research.tracking.experiment import Experiment, make_experiment

NAVIGATION_2D: dict[str, Any] = {
    "task": "navigation_2d",
    "inner_lr": 0.5,
    "eval_inner_lr": [0.5, 0.15, 0.1],
    "gae_lambda": 0.9,  # the inner gradient is less noisy than with 1
    "eval_interval": 25,
    "policy": {"output_scale": 0.01},
}
CHEETAH_VEL: dict[str, Any] = {"task": "cheetah_vel", "horizon": 100, "inner_lr": 0.1, "eval_interval": 25}
# Settings for robots after cbfinn/maml_rl, maml_examples/cluster_maml_trpo_cheetah.py and _ant.py. The rates of later
# steps are those of test_maml_cheetah_direc.py there, which loads iteration 100 of a run with an outer step of 0.02;
# the paper trains for at most 500 iterations with 0.01.
LOCOMOTION_PAPER: dict[str, Any] = {
    "task_args": {"clip_actions": True},
    "horizon": 200,
    "meta_batch_size": 40,
    "inner_lr": 0.1,
    "eval_inner_lr": [0.1, 0.05, 0.05],
    "num_iterations": 800,
    "eval_interval": 25,
    "policy": {"hidden_sizes": [100, 100], "activation": "relu"},
}
CHEETAH_DIR = LOCOMOTION_PAPER | {
    "task": "cheetah_dir",
    "task_args": {"observation": "com", "clip_actions": True},
}
FAST: dict[str, Any] = {
    "num_iterations": 3,
    "meta_batch_size": 4,
    "episodes_per_task": 4,
    "horizon": 20,
    "policy": {"hidden_sizes": [8]},
    "num_eval_tasks": 5,
    "eval_episodes": 4,
    "eval_interval": 2,
}

TASKS = {"navigation_2d": NAVIGATION_2D, "cheetah_vel": CHEETAH_VEL, "cheetah_dir": CHEETAH_DIR, "fast": FAST}


def make_policy_experiment(
    name: str,
    algorithm: Any = None,
    *,
    script: str,
    description: str | None,
    columns: Mapping[str, str],
    named_configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> Experiment:
    """Returns an experiment with the commands `train`, `resume`, `evaluate` and `render`.

    Args:
        name: Name of the experiment, and of the algorithm in checkpoints.
        algorithm: The class, on an agent that adapts a policy; None for that of `name` in
            `research.algorithms.ALGORITHMS`, which is imported when it is needed.
        script: `__file__` of the script.
        description: Its `__doc__`.
        columns: Metrics that the progress bar shows, as `{label: metric name}`.
        named_configs: Named configs besides those of the tasks; one with the name of a task replaces that one.
    """
    configs = TASKS | dict(named_configs or {})
    config_class = name if algorithm is None else algorithm.Config
    made = make_experiment(name, config_class, script=script, description=description, named_configs=configs)
    add_commands(made, algorithm or name, columns=columns, report=report, prepare_drawing=prepare_drawing)
    return made
