"""Sinusoid regression: learn a sine wave from a few points, after meta-learning on thousands of others.

    python experiments/maml_sinusoid.py with meta_sgd shots10 seed=3
    python experiments/maml_sinusoid.py evaluate with checkpoint=runs/3/checkpoints/latest num_adapt_steps=5
    python experiments/maml_sinusoid.py resume with run=3

Named configs: maml, fomaml, meta_sgd, anil, reptile, pretrained (one network for all waves), maml_paper (the MAML
authors' settings); shots5, shots10, shots20; fast (seconds).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.stats import task_mean
from research.algorithms import ALGORITHMS, Algorithm
from research.evaluation import AdaptationCurve
from research.tracking.commands import add_commands
from research.tracking.experiment import make_experiment
from research.tracking.settings import Choice

if TYPE_CHECKING:
    from research.algorithms.regression.maml import MAMLRegressionConfig
    from research.algorithms.regression.reptile import ReptileRegressionConfig


def report(curve: AdaptationCurve, directory: Path | None) -> list[Path]:
    """Prints and draws the errors up to the first that is not finite. Returns the paths of the pictures."""
    num_tasks = curve.score.shape[1]
    finite = np.isfinite(curve.score).all(1).cumprod().astype(bool)
    curve = curve._replace(score=curve.score[finite])
    print(f"\nAdaptation to {num_tasks} {curve.evaluated.tasks(num_tasks)}")
    print(f"{curve.unit:>14}  {curve.label}  95 % interval")
    for step, score in enumerate(curve.score):
        found = task_mean(score, np.arange(num_tasks))
        ends = f"[{found.low:.4g}, {found.high:.4g}]" if found.has_interval else f"({found.interval})"
        print(f"{step:>14}  {score.mean():>{len(curve.label)}.4g}  {ends}")
    if not finite.all():
        print(f"{len(curve.score):>14}  diverged: some errors are not finite from here on")
    print()
    if directory is None or not finite.any():
        return []
    from analysis.plots import plot_adaptation_curve  # matplotlib, which only drawing should wait for

    picture = directory / "adaptation_curve.png"
    plot_adaptation_curve(curve, picture)
    return [picture]


def choose(config: MAMLRegressionConfig | ReptileRegressionConfig) -> Algorithm:
    """Returns the algorithm that the settings name."""
    return ALGORITHMS[config.algorithm](config)


NAMED_CONFIGS: dict[str, dict[str, Any]] = {
    "maml": {"algorithm": "maml_regression"},
    "maml_paper": {  # github.com/cbfinn/maml, with the inner_lr of the paper's text
        "num_inner_steps": 1,
        "query_points": 5,
        "meta_lr": 1e-3,
        "anneal_from": 1.0,
        "num_iterations": 700,
    },
    "fomaml": {"first_order": True},
    # Rates that are learned for one step diverge when they are used for more.
    "meta_sgd": {"learn_inner_lr": "per_parameter", "num_inner_steps": 1, "meta_lr": 1e-3, "num_adapt_steps": 1},
    "anil": {"adapt_only": ["head.*"]},
    "reptile": {"algorithm": "reptile_regression"},
    "pretrained": {"num_inner_steps": 0},
    "shots5": {"shots": 5, "query_points": 10},
    "shots10": {"shots": 10, "query_points": 10},
    "shots20": {"shots": 20, "query_points": 20},
    "fast": {
        "num_iterations": 3,
        "updates_per_iteration": 2,
        "meta_batch_size": 4,
        "hidden_sizes": [8],
        "num_eval_tasks": 5,
        "num_adapt_steps": 1,
    },
}

experiment = make_experiment(
    "maml_sinusoid",
    Choice("algorithm", {name: name for name in ("maml_regression", "reptile_regression")}),
    script=__file__,
    description=__doc__,
    named_configs=NAMED_CONFIGS,
)
add_commands(experiment, choose, columns={"error after": "loss_post", "|∇|": "gradient_norm"}, report=report)

if __name__ == "__main__":
    experiment.run_commandline()
