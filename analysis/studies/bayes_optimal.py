"""The expected total reward of the Bayes-optimal policy on Bernoulli bandits with Beta(1, 1) priors.

The belief state is the multiset of (successes, failures) of the arms, since their order does not matter. Backward
induction from the last pull, with p_i the posterior mean of arm i, gives the value with r pulls left:

    V_r(state) = max_i p_i (1 + V_{r−1}(state after a success of i)) + (1 − p_i) V_{r−1}(state after a failure of i)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from research.validation import at_least

_LIMIT = 1_000_000


def bayes_optimal_return(num_arms: int, pulls: int) -> float:
    """Returns the exact expected total reward of the Bayes-optimal policy.

    Arms beyond the number of pulls do not change it, since they cannot be pulled.

    Raises:
        ValueError: A number is below 1, or there are more than a million states after the last pull. The limit allows
            100 pulls of 2 arms, 40 of 3 and 20 of 5.

    Example:
        >>> bayes_optimal_return(num_arms=2, pulls=1)
        0.5
    """
    at_least(dict(num_arms=num_arms, pulls=pulls), 1, "num_arms", "pulls")
    count = num_states(num_arms, pulls)
    if count > _LIMIT:
        raise ValueError(f"pulls={pulls}: {num_arms} arms have {count} belief states, need at most {_LIMIT}; "
                         "take fewer pulls or arms")  # fmt: skip
    base = pulls + 1
    states = np.zeros((1, min(num_arms, pulls)), np.int64)
    levels = []
    for _ in range(pulls):
        following, success, failure = _successors(states, base)
        wins, losses = np.divmod(states, base)
        levels.append(((wins + 1) / (wins + losses + 2), success, failure))
        states = following
    value = np.zeros(len(states))
    for mean, success, failure in reversed(levels):
        value = (mean * (1 + value[success]) + (1 - mean) * value[failure]).max(1)
    return float(value[0])


def num_states(num_arms: int, pulls: int) -> int:
    """Returns the number of belief states after `pulls` pulls: multisets of arms, p + 1 kinds of which have p pulls."""
    # ways[arms][pulls] counts multisets. Arms with p = 1, 2, … pulls are added in turn; the others are unpulled.
    ways = [[1] + [0] * pulls] + [[0] * (pulls + 1) for _ in range(num_arms)]
    for p in range(1, pulls + 1):
        ways = [
            [
                sum(math.comb(p + m, m) * ways[k - m][n - m * p] for m in range(min(k, n // p) + 1))
                for n in range(pulls + 1)
            ]
            for k in range(num_arms + 1)
        ]
    return sum(row[pulls] for row in ways)


def _successors(states: NDArray[np.int64], base: int) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.intp]]:
    """Returns the states one pull later, and the indices of the states after a success and a failure of each arm.

    An arm is encoded as successes · base + failures, and a state as its sorted arms. The states are
    `[successors, arms]`, the indices `[states, arms]`.
    """
    count, arms = states.shape
    step = np.eye(arms, dtype=np.int64)
    children = np.concatenate([(states[:, None] + step * base), (states[:, None] + step)], 1)
    children = np.sort(children.reshape(-1, arms), 1)
    # Rows viewed as opaque bytes sort many times faster than rows of numbers.
    _, first, place = np.unique(
        children.view(np.dtype((np.void, children.itemsize * arms)))[:, 0], return_index=True, return_inverse=True
    )
    success, failure = place.reshape(count, 2, arms).transpose(1, 0, 2)
    return children[first], success, failure
