"""Gittins indices of Bernoulli arms with a Beta(1, 1) prior, computed by calibration.

The index of an arm is the constant reward λ at which pulling the arm, with the option to switch to λ at any time, is
worth as much as taking λ at once. For a grid of λ, the value of pulling minus that of switching,

    W_λ(s, f) = p − λ + γ (p W⁺_λ(s + 1, f) + (1 − p) W⁺_λ(s, f + 1)),   p = (s + 1) / (s + f + 2),   W⁺ = max(W, 0)

decreases in λ. The index is its zero, by linear interpolation with an error below 1e-4. (Gittins, Glazebrook & Weber
2011, chapter 8.)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from research.validation import in_open_unit_interval, positive

Floats = NDArray[np.float64]

_LEVELS = 200
_REST = 1e-3
"""Discount of the last step of the look-ahead, which bounds the relative error of the truncation."""


def discounted_indices(pulls: int, discount: float) -> Floats:
    """Returns the indices in an infinite game with discount γ, `[pulls, pulls]`, by successes and failures.

    Entries with success + failure ≥ pulls are 0. The look-ahead ends ln(1e-3) / ln γ pulls after the last state, with
    the value of an arm of known mean.
    """
    positive(dict(pulls=pulls), "pulls")
    in_open_unit_interval(dict(discount=discount), "discount")
    level = np.linspace(0.0, 1.0, _LEVELS + 1)[:, None]
    depth = pulls + math.ceil(math.log(_REST) / math.log(discount))
    table = np.zeros((pulls, pulls))
    going_on = (_mean(depth) - level) / (1 - discount)
    for total in reversed(range(depth)):
        mean, rest = _mean(total), np.maximum(going_on, 0.0)
        going_on = mean - level + discount * (mean * rest[:, 1:] + (1 - mean) * rest[:, :-1])
        if total < pulls:
            success = np.arange(total + 1)
            table[success, total - success] = _crossing(going_on)
    return table


def finite_horizon_indices(pulls: int) -> list[Floats]:
    """Returns the undiscounted indices when 1, 2, …, `pulls` pulls remain, the current one included.

    Entry r − 1 has shape `[pulls − r + 1, pulls − r + 1]`, by successes and failures of the earlier pulls. Time and
    memory grow with the cube of `pulls`; 100 pulls take a second.
    """
    positive(dict(pulls=pulls), "pulls")
    level = np.linspace(0.0, 1.0, _LEVELS + 1)[:, None, None]
    success, failure = np.ogrid[:pulls, :pulls]
    mean = (success + 1) / (success + failure + 2)
    rest = np.zeros((_LEVELS + 1, pulls + 1, pulls + 1))
    tables = []
    for remaining in range(1, pulls + 1):
        size = pulls - remaining + 1
        p = mean[:size, :size]
        going_on = p - level + p * rest[:, 1 : size + 1, :size] + (1 - p) * rest[:, :size, 1 : size + 1]
        tables.append(_crossing(going_on))
        rest = np.maximum(going_on, 0.0)
    return tables


def _mean(total: int) -> Floats:
    """Returns the posterior means after 0, 1, …, `total` successes in `total` pulls."""
    return np.arange(1, total + 2) / (total + 2)


def _crossing(value: Floats) -> Floats:
    """Returns the level, in [0, 1], at which `value [levels, ...]` crosses 0 from above."""
    above = np.count_nonzero(value >= 0, axis=0) - 1
    upper, lower = (np.take_along_axis(value, above[None] + step, 0)[0] for step in (0, 1))
    return (above + upper / (upper - lower)) / (len(value) - 1)
