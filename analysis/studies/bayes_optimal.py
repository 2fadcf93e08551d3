"""The greatest expected reward that any policy can collect from Bernoulli bandits with Beta(1, 1) priors.

The state of the belief is the multiset of (successes, failures) of the arms, since their order does not matter. With r
pulls left

    V_r(state) = max_i p_i (1 + V_{r−1}(state, a success of i)) + (1 − p_i) V_{r−1}(state, a failure of i)

is summed backward from the last pull, where p_i is the posterior mean of arm i.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from research.validation import at_least

_LIMIT = 1_000_000


def bayes_optimal_return(num_arms: int, pulls: int) -> float:
    """The expected total reward of the Bayes-optimal policy; exact.

    More arms than pulls are as good as as many: the rest stay untried.

    Raises:
        ValueError: A number is below 1, or the last pull leads to more than a million states, which allows 100 pulls
            of 2 arms, 40 of 3 and 20 of 5.
    """
    at_least(dict(num_arms=num_arms, pulls=pulls), 1, "num_arms", "pulls")
    count = num_states(num_arms, pulls)
    if count > _LIMIT:
        raise ValueError(f"pulls={pulls}: {num_arms} arms have {count} states after so many, need at most {_LIMIT}; "
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
    """The states after so many pulls: multisets of arms, p + 1 kinds of which have p pulls each."""
    # ways[arms][pulls], with the arms of p = 1, 2, … pulls added one p after the other; the rest are untried.
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
    """The states `[following, arms]` one pull later, and where a success and a failure of each arm lead.

    An arm is written as successes · base + failures, a state as its sorted arms. Places are `[states, arms]`.
    """
    count, arms = states.shape
    step = np.eye(arms, dtype=np.int64)
    children = np.concatenate([(states[:, None] + step * base), (states[:, None] + step)], 1)
    children = np.sort(children.reshape(-1, arms), 1)
    # Rows as opaque bytes: many times faster to sort than rows of numbers.
    _, first, place = np.unique(
        children.view(np.dtype((np.void, children.itemsize * arms)))[:, 0], return_index=True, return_inverse=True
    )
    success, failure = place.reshape(count, 2, arms).transpose(1, 0, 2)
    return children[first], success, failure
