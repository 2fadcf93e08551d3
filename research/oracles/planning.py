"""Optimal plans for tabular MDPs of finite horizon, in NumPy and for many MDPs at once.

`research.oracles.tabular` knows the same values in torch, with gradients. This is for callers that know no torch, or
that plan thousands of times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.validation import at_least

Floats = NDArray[np.float64]
Backup = Callable[[Floats], Floats]
"""Values `[mdps, states]` of the step that follows → action values `[mdps, states, actions]`."""


class Plan(NamedTuple):
    """What to do, and what it is worth.

    Attributes:
        action: `[mdps, time, states]`, the best action; the first of equal ones.
        value: `[mdps, states]`, the expected sum of rewards from the first step on.
    """

    action: NDArray[np.int64]
    value: Floats


def plan(transition: Floats, reward: Floats, horizon: int) -> Plan:
    """The optimal plan of each MDP: V_t(s) = max_a r(s, a) + Σ_{s'} P(s'|s, a) V_{t+1}(s'), V_horizon = 0.

    Args:
        transition: `[mdps, states, actions, states]`, P(s'|s, a).
        reward: `[mdps, states, actions]`, the mean reward.
        horizon: Steps of an episode, at least 1.
    """
    return plan_with(expected_backup(transition, reward), reward, horizon)


def expected_backup(transition: Floats, reward: Floats) -> Backup:
    """r + P V, for MDPs as `plan` takes them."""
    mdps, states, actions, _ = transition.shape
    flat = np.ascontiguousarray(transition).reshape(mdps, states * actions, states)
    return lambda value: reward + np.matmul(flat, value[:, :, None]).reshape(mdps, states, actions)


def plan_with(backup: Backup, last: Floats, horizon: int) -> Plan:
    """The plan that a backup leads to, from the last step's action values `[mdps, states, actions]` on."""
    at_least(dict(horizon=horizon), 1, "horizon")
    action = np.empty((len(last), horizon, last.shape[1]), np.int64)
    action_value, value = last, last.max(-1)
    for t in reversed(range(horizon)):
        if t < horizon - 1:
            action_value = backup(value)
            value = action_value.max(-1)
        action[:, t] = action_value.argmax(-1)
    return Plan(action, value)


def pick(values: NDArray[Any], index: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """`values[i, ..., index[i, ...]]`, the entry of the last axis that each index names."""
    return np.take_along_axis(values, index[..., None], -1)[..., 0]
