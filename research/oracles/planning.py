"""Optimal action values of tabular MDPs with finite horizon, in NumPy and for many MDPs at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from research.validation import at_least

Floats = NDArray[np.float64]
Backup = Callable[[Floats], Floats]
"""State values `[mdps, states]` of the next step → action values `[mdps, states, actions]`."""


def optimal_action_values(transition: Floats, reward: Floats, horizon: int) -> Floats:
    """Returns Q_t(s, a) = r(s, a) + Σ_{s'} P(s'|s, a) V_{t+1}(s'), with V_t(s) = max_a Q_t(s, a) and V_horizon = 0.

    Args:
        transition: `[mdps, states, actions, states]`, P(s'|s, a).
        reward: `[mdps, states, actions]`, the mean reward.
        horizon: The number of steps of an episode, at least 1.

    Returns:
        `[mdps, time, states, actions]`.
    """
    mdps, states, actions, _ = transition.shape
    flat = np.ascontiguousarray(transition).reshape(mdps, states * actions, states)

    def backup(value: Floats) -> Floats:
        return reward + np.matmul(flat, value[:, :, None]).reshape(mdps, states, actions)

    return plan(backup, reward, horizon)


def plan(backup: Backup, last: Floats, horizon: int) -> Floats:
    """Returns action values by backward recursion from those of the last step, `last [mdps, states, actions]`."""
    at_least(dict(horizon=horizon), 1, "horizon")
    values = np.empty((len(last), horizon, *last.shape[1:]))
    values[:, -1] = last
    for t in reversed(range(horizon - 1)):
        values[:, t] = backup(values[:, t + 1].max(-1))
    return values
