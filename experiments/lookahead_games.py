"""Lookahead in games: inside Lookahead, simultaneous gradient steps converge to equilibria that they otherwise circle.

    python experiments/lookahead_games.py with rock_paper_scissors
    python experiments/lookahead_games.py with matching_pennies k10 learned seed=3
    python experiments/lookahead_games.py evaluate with run=3 num_adapt_steps=1000

Named configs: rock_paper_scissors, matching_pennies, bilinear (games); k10, nested (the optimiser; otherwise k = 5 and
one Lookahead); learned (α and the rate are meta-learned; otherwise one iteration plays with constants); fast (seconds).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from research.evaluation import AdaptationCurve, spread
from research.tracking.experiment import make_experiment

if TYPE_CHECKING:
    from research.algorithms.games import Plays
from research.tracking.commands import add_commands

_ROWS = 9
_WIDTHS = (6, 9, 9, 14, 11, 9)


def report(curve: AdaptationCurve, directory: Path | None) -> list[Path]:
    """Prints the distances to the equilibrium with and without Lookahead, and draws the strategies.

    Args:
        curve: The evaluation of `LookaheadGames`.
        directory: Directory to write the picture to; None draws nothing.

    Returns:
        The paths of the pictures.
    """
    plays: Plays = curve.details
    distance, plain = plays.distance, plays.plain_distance
    names = ("cycles", "distance", "farthest", "exploitability", "plain steps", "nearest")
    header = "  ".join(f"{name:>{width}}" for name, width in zip(names, _WIDTHS, strict=True))
    print(f"\n{len(distance)} plays from starts of the {curve.evaluated.split} split, by {curve.label}\n{header}")
    for cycle in spread(distance.shape[1], _ROWS):
        ours, exploitability, theirs = distance[:, cycle], plays.exploitability[:, cycle], plain[:, cycle]
        row = (cycle, ours.mean(), ours.max(), exploitability.mean(), theirs.mean(), theirs.min())
        print("  ".join(f"{value:>{width}.3g}" for value, width in zip(row, _WIDTHS, strict=True)))
    print()
    if directory is None or not np.isfinite(distance).all():
        return []
    from analysis.plots.plays import plot_plays  # imports matplotlib, which is slow

    picture = directory / "plays.png"
    paths, plain_paths = (plays.path_1, plays.path_2), (plays.plain_1, plays.plain_2)
    plot_plays(paths, plain_paths, distance, plain, picture, unit="cycles", label=curve.label)
    return [picture]


FIXED: dict[str, Any] = {"meta_lr": 0.0, "num_iterations": 1, "num_adapt_steps": 80}

NAMED_CONFIGS: dict[str, dict[str, Any]] = {
    "rock_paper_scissors": FIXED | {"task": "rock_paper_scissors", "player_lr": 1.0},
    "matching_pennies": FIXED | {"task": "matching_pennies", "player_lr": 0.3},
    "bilinear": FIXED | {"task": "bilinear", "player_lr": 0.3, "task_args": {"singular_values": [1.0, 0.5]}},
    "k10": {"lookahead_k": 10},
    "nested": {"outer_k": 25},
    "learned": {"meta_lr": 0.02, "num_iterations": 150, "eval_interval": 50},
    "fast": {"num_iterations": 2, "num_eval_tasks": 3, "num_adapt_steps": 4, "meta_batch_size": 2, "num_cycles": 2},
}

experiment = make_experiment(
    "lookahead_games", "lookahead_games", script=__file__, description=__doc__, named_configs=NAMED_CONFIGS
)
add_commands(
    experiment,
    "lookahead_games",
    columns={"before": "distance_pre", "after": "distance_post", "α": "lookahead_alpha", "rate": "player_lr"},
    report=report,
)

if __name__ == "__main__":
    experiment.run_commandline()
