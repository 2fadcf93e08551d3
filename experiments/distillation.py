"""Algorithm Distillation: a transformer imitates the learning histories of a source algorithm, and then learns itself.

    python experiments/distillation.py with dark_room seed=3
    python experiments/distillation.py with bandit_k5_n100 source.kind=thompson
    python experiments/distillation.py with dark_room histories=histories.npz
    python experiments/distillation.py evaluate with run=3 eval_actions=mode
    python experiments/distillation.py resume with run=3

Named configs: dark_room, bandit_k5_n100; fast (seconds). `experiments/histories.py` writes files of histories.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.report import report_trials
from research.evaluation import AdaptationCurve
from research.tracking.commands import add_commands
from research.tracking.experiment import make_experiment

COLUMNS = {"loss": "imitation_loss", "accuracy": "imitation_accuracy", "|∇|": "gradient_norm"}

NAMED_CONFIGS: dict[str, dict[str, Any]] = {
    "dark_room": {
        "task": "dark_room",
        # 10 of 49 goals are held out; of these, one-hot cells would show nothing that training has seen.
        "task_args": {"size": 7, "test_fraction": 0.2, "observation": "coordinates"},
        "horizon": 15,
        "episodes_per_trial": 20,
        "source": {"num_episodes": 60, "initial_value": 1.0, "epsilon": 0.1, "learning_rate": 1.0},
        "num_histories": 975,  # each of the 39 training goals 25 times
        "keep_every": 3,
        "meta_batch_size": 16,
        "updates_per_iteration": 20,
        "num_iterations": 60,
        "policy": {"memory": "transformer", "num_layers": 2, "positions": "learned", "head": "state"},
        "meta_lr": 2e-3,
        "num_eval_tasks": 10,
        "eval_trials": 20,
        "eval_interval": 20,
    },
    "bandit_k5_n100": {
        "task": "bandit",
        "episodes_per_trial": 100,
        "source": {"kind": "ucb1", "num_episodes": 100},
        "num_histories": 20_000,
        "meta_batch_size": 64,
        "updates_per_iteration": 20,
        "num_iterations": 100,
        "policy": {"memory": "transformer", "positions": "learned"},
        "meta_lr": 2e-3,
        "num_eval_tasks": 2000,
        "eval_interval": 20,
    },
    "fast": {
        "task": "dark_room",
        "task_args": {"size": 3},
        "horizon": 4,
        "num_iterations": 3,
        "episodes_per_trial": 3,
        "source": {"num_episodes": 6},
        "num_histories": 18,
        "keep_every": 2,
        "meta_batch_size": 8,
        "updates_per_iteration": 2,
        "policy": {"memory": "transformer", "hidden_size": 8, "num_attention_heads": 2},
        "num_eval_tasks": 18,
        "eval_interval": 2,
    },
}


def report(curve: AdaptationCurve, directory: Path | None) -> list[Path]:
    """Prints and draws the adaptation curve, and another picture of it next to the returns of the source."""
    pictures = report_trials(curve, directory)
    if directory is None or "source" not in curve.extras:
        return pictures
    from analysis.plots import plot_reference  # imports matplotlib, which is slow

    names = {"source": "source, the same episodes", "source_kept": "source, mean of the episodes between those kept"}
    references = {text: curve.extras[name] for name, text in names.items() if name in curve.extras}
    plot_reference(curve, references, directory / "source.png")
    return [*pictures, directory / "source.png"]


experiment = make_experiment(
    "distillation", "distillation", script=__file__, description=__doc__, named_configs=NAMED_CONFIGS
)
add_commands(experiment, "distillation", columns=COLUMNS, report=report)

if __name__ == "__main__":
    experiment.run_commandline()
