"""How often an agent acts at random while it learns: by the clock, or by a bandit over a few rates.

A rate cannot be learned by a gradient here: transitions reach the loss through the replay buffer, and no path leads
from the loss back to what the agent would have seen with another ε. So the bandit tries. An episode of every row has an
arm, ε_j; when it ends with the return R, with the memory m

    n ← m n,  S ← m S,  Q ← m Q;   then n_j += 1,  S_j += R,  Q_j += R²

and the next episode has the arm with the largest S_j / n_j + b σ √(log(1 + Σ n) / n_j), σ the deviation of all returns;
arms never tried come first. Discounted UCB (Garivier & Moulines 2011, arXiv:0805.3415, section 2.1) with the scale of
the returns in place of a known bound.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.algorithms.schedules import interpolate
from research.algorithms.value.config import ExplorationConfig


class Bandit(NamedTuple):
    """The evidence on each arm, `[arms]`, and the arm of each row, `[rows]`."""

    pulls: NDArray[np.float64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    arm: NDArray[np.int64]

    @classmethod
    def start(cls, num_arms: int, num_rows: int) -> Bandit:
        """Nothing known; the rows try the arms in turn."""
        return cls(np.zeros(num_arms), np.zeros(num_arms), np.zeros(num_arms), np.arange(num_rows) % num_arms)

    def after(self, row: int, episode_return: float, config: ExplorationConfig) -> Bandit:
        """The bandit after an episode of a row, which has its next arm."""
        arm = int(self.arm[row])
        added = np.eye(len(self.pulls))[arm]
        weights = (1.0, episode_return, episode_return**2)
        evidence = zip((self.pulls, self.total, self.squares), weights, strict=True)
        pulls, total, squares = (config.memory * old + weight * added for old, weight in evidence)
        arms = self.arm.copy()
        arms[row] = _choose(pulls, total, squares, config.bonus)
        return Bandit(pulls, total, squares, arms)


def _choose(pulls: NDArray[np.float64], total: NDArray[np.float64], squares: NDArray[np.float64], bonus: float) -> int:
    if not pulls.all():
        return int(pulls.argmin())
    mean = total.sum() / pulls.sum()
    deviation = np.sqrt(max(squares.sum() / pulls.sum() - mean**2, 0.0))
    return int((total / pulls + bonus * deviation * np.sqrt(np.log1p(pulls.sum()) / pulls)).argmax())


def epsilon_at(config: ExplorationConfig, finished: Any) -> Any:
    """ε of the schedule after a share of the training, or after each of many."""
    share = np.minimum(np.asarray(finished) / config.fraction, 1.0)
    if config.schedule == "exponential":
        return config.start * (config.end / config.start) ** share
    return interpolate(config.start, config.end, share)
