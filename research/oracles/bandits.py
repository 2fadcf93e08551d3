"""Classical policies for Bernoulli bandits, played on thousands of bandits at once.

A policy sees how often each arm succeeded and failed. The prior of every arm is Beta(1, 1), the distribution of arms
with mean ~ U[0, 1]: the posterior is Beta(α, β) with α = 1 + successes, β = 1 + failures, and mean α / (α + β). Ties
go to the first arm.

Duan et al. 2016, arXiv:1611.02779, section 3.1.1, compare RL² with these policies. Where their description is
ambiguous, the docstring says so, and which reading reproduces their figures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.validation import at_least, in_unit_interval, positive

Floats = NDArray[np.float64]
Arms = NDArray[np.int64]


class Counts(NamedTuple):
    """The observed outcomes of each arm, `[bandits, arms]`.

    Attributes:
        success: The number of pulls with reward 1.
        failure: The number of pulls with reward 0.
    """

    success: NDArray[np.int64]
    failure: NDArray[np.int64]

    def posterior(self) -> tuple[Floats, Floats]:
        """Returns α and β of the Beta posteriors, `[bandits, arms]` each."""
        return np.add(self.success, 1, dtype=np.float64), np.add(self.failure, 1, dtype=np.float64)

    def mean(self) -> Floats:
        """Returns the posterior means α / (α + β), `[bandits, arms]`."""
        alpha, beta = self.posterior()
        return alpha / (alpha + beta)


Policy = Callable[[Counts, int, np.random.Generator], Arms]
"""(counts, number of earlier pulls, random generator) → the arm to pull in each bandit, `[bandits]`."""


class Pulls(NamedTuple):
    """One game on each bandit.

    Attributes:
        arm: `[bandits, pulls]`, the arms pulled.
        reward: `[bandits, pulls]`, their rewards, 0 or 1.
    """

    arm: Arms
    reward: NDArray[np.bool_]


def play(policy: Policy, mean: Floats, uniform: Floats, rng: np.random.Generator) -> Pulls:
    """Plays a policy on all bandits in parallel.

    Args:
        policy: The policy to play.
        mean: `[bandits, arms]`, the probability that an arm gives reward 1.
        uniform: `[bandits, pulls]`, draws from U[0, 1): a pull has reward 1 if its draw is below the mean. These are
            arguments so that policies can be compared with common random numbers, and so that the game on one bandit
            does not depend on the others.
        rng: The generator of the policy's own random choices.
    """
    bandits, pulls = uniform.shape
    rows = np.arange(bandits)
    counts = Counts(np.zeros(mean.shape, np.int64), np.zeros(mean.shape, np.int64))
    made = Pulls(np.empty((bandits, pulls), np.int64), np.empty((bandits, pulls), np.bool_))
    for t in range(pulls):
        arm = policy(counts, t, rng)
        reward = uniform[:, t] < mean[rows, arm]
        counts.success[rows, arm] += reward
        counts.failure[rows, arm] += ~reward
        made.arm[:, t], made.reward[:, t] = arm, reward
    return made


def random(counts: Counts, time: int, rng: np.random.Generator) -> Arms:
    """Pulls an arm uniformly at random."""
    bandits, arms = counts.success.shape
    return rng.integers(arms, size=(bandits,))


def greedy(counts: Counts, time: int, rng: np.random.Generator) -> Arms:
    """Pulls the arm with the greatest posterior mean."""
    return counts.mean().argmax(1)


def epsilon_greedy(epsilon: float) -> Policy:
    """Pulls a uniformly random arm with probability ε, otherwise the greedy one.

    ε is constant. The RL² paper does not say whether it decays.
    """
    in_unit_interval(dict(epsilon=epsilon), "epsilon")

    def policy(counts: Counts, time: int, rng: np.random.Generator) -> Arms:
        explores = rng.random(len(counts.success)) < epsilon
        return np.where(explores, random(counts, time, rng), greedy(counts, time, rng))

    return policy


def ucb1(scale: float) -> Policy:
    """Pulls argmax_i μ_i + c √(2 ln t / T_i), where t counts pulls from 1 (Auer et al. 2002, with c = 1).

    As in the RL² paper, the statistics start with one success and one failure for each arm: μ_i is the posterior mean
    and T_i = α_i + β_i, so the formula needs no initial pull of each arm. c is chosen by search.
    """
    at_least(dict(scale=scale), 0, "scale")

    def policy(counts: Counts, time: int, rng: np.random.Generator) -> Arms:
        alpha, beta = counts.posterior()
        return (alpha / (alpha + beta) + scale * np.sqrt(2 * np.log(time + 1) / (alpha + beta))).argmax(1)

    return policy


def thompson(counts: Counts, time: int, rng: np.random.Generator) -> Arms:
    """Pulls the best arm of a bandit sampled from the posterior (Thompson 1933)."""
    return rng.beta(*counts.posterior()).argmax(1)


def optimistic_thompson(num_samples: int) -> Policy:
    """Samples N bandits from the posterior, and pulls the best arm of the one with the greatest posterior density.

    This is the description in the RL² paper. The paper cites May et al. 2012, whose rule differs
    (`mean_bounded_thompson`) and does not reproduce the paper's figures.
    """
    positive(dict(num_samples=num_samples), "num_samples")

    def policy(counts: Counts, time: int, rng: np.random.Generator) -> Arms:
        arm = np.zeros(len(counts.success), np.int64)
        greatest = np.full(len(arm), -np.inf)
        for _ in range(num_samples):
            # A Beta sample may round to 0 or 1, where 0 · log 0 in the density would give NaN.
            mean = np.clip(rng.beta(*counts.posterior()), 1e-15, 1 - 1e-15)
            log_density = (counts.success * np.log(mean) + counts.failure * np.log1p(-mean)).sum(1)
            arm = np.where(log_density > greatest, mean.argmax(1), arm)
            greatest = np.maximum(log_density, greatest)
        return arm

    return policy


def mean_bounded_thompson(counts: Counts, time: int, rng: np.random.Generator) -> Arms:
    """Thompson sampling with sampled means clipped from below at the posterior mean (May et al. 2012, section 2.3)."""
    return np.maximum(rng.beta(*counts.posterior()), counts.mean()).argmax(1)


def by_index(table: Floats) -> Policy:
    """Pulls the arm with the greatest index, given as `table[successes, failures]` (Gittins 1979)."""
    return lambda counts, time, rng: table[counts.success, counts.failure].argmax(1)


def by_remaining_index(tables: list[Floats]) -> Policy:
    """`by_index` in a game of len(tables) pulls: `tables[r − 1]` has the indices when r pulls remain."""
    return lambda counts, time, rng: by_index(tables[len(tables) - time - 1])(counts, time, rng)
