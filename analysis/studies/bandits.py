"""Classical policies for Bernoulli bandits, thousands of bandits at once.

A policy sees the counts of each arm and never a single reward. The prior of every arm is Beta(1, 1), which fits arms
with mean ~ U[0, 1]: its posterior is Beta(α, β) with α = 1 + successes, β = 1 + failures, and its mean α / (α + β).
Of equal arms the first is taken. The best possible value is in `analysis.studies.bayes_optimal`, the tables of the
Gittins index in `analysis.studies.gittins`.

Duan et al. 2016, arXiv:1611.02779, section 3.1.1, compare RL² with these; each docstring says where their text leaves a
choice and which one meets their figures.
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
    """What is known of bandits, `[bandits, arms]` each.

    Attributes:
        success: Pulls that paid 1.
        failure: Pulls that paid 0.
    """

    success: NDArray[np.int64]
    failure: NDArray[np.int64]

    def posterior(self) -> tuple[Floats, Floats]:
        """α and β of the Beta posteriors."""
        return np.add(self.success, 1, dtype=np.float64), np.add(self.failure, 1, dtype=np.float64)

    def mean(self) -> Floats:
        """α / (α + β)."""
        alpha, beta = self.posterior()
        return alpha / (alpha + beta)


Policy = Callable[[Counts, int, np.random.Generator], Arms]
"""Counts, the pulls made so far, and a source of chance → the arm of each bandit, `[bandits]`."""


class Pulls(NamedTuple):
    """A game of each bandit, `[bandits, pulls]` each.

    Attributes:
        arm: The arm.
        reward: What it paid, 0 or 1.
    """

    arm: Arms
    reward: NDArray[np.bool_]


def play(policy: Policy, mean: Floats, uniform: Floats, rng: np.random.Generator) -> Pulls:
    """Plays every bandit, all in one NumPy operation.

    Args:
        policy: Chooses the arms.
        mean: `[bandits, arms]`, the probability that an arm pays 1.
        uniform: `[bandits, pulls]`, draws from U[0, 1): a pull pays if its draw is below the mean. Given, so that
            policies can be compared on the same luck, and a bandit's game does not depend on the others.
        rng: The policy's own chance.
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
    """Any arm."""
    bandits, arms = counts.success.shape
    return rng.integers(arms, size=(bandits,))


def greedy(counts: Counts, time: int, rng: np.random.Generator) -> Arms:
    """The arm with the greatest posterior mean."""
    return counts.mean().argmax(1)


def epsilon_greedy(epsilon: float) -> Policy:
    """Any arm with probability ε, else the greedy one. ε is the same at every pull, which the paper does not say."""
    in_unit_interval(dict(epsilon=epsilon), "epsilon")

    def policy(counts: Counts, time: int, rng: np.random.Generator) -> Arms:
        explores = rng.random(len(counts.success)) < epsilon
        return np.where(explores, random(counts, time, rng), greedy(counts, time, rng))

    return policy


def ucb1(scale: float) -> Policy:
    """argmax_i μ_i + c √(2 ln t / T_i), t the number of the pull from 1 on (Auer et al. 2002, which has c = 1).

    As in the RL² paper the statistics start with one success and one failure for each arm: μ_i is the posterior mean
    and T_i = α_i + β_i, so that no arm need be tried first. c is chosen by search.
    """
    at_least(dict(scale=scale), 0, "scale")

    def policy(counts: Counts, time: int, rng: np.random.Generator) -> Arms:
        alpha, beta = counts.posterior()
        return (alpha / (alpha + beta) + scale * np.sqrt(2 * np.log(time + 1) / (alpha + beta))).argmax(1)

    return policy


def thompson(counts: Counts, time: int, rng: np.random.Generator) -> Arms:
    """The best arm of a bandit drawn from the posterior (Thompson 1933)."""
    return rng.beta(*counts.posterior()).argmax(1)


def optimistic_thompson(num_samples: int) -> Policy:
    """The best arm of that one of N bandits drawn from the posterior which has the greatest posterior density.

    So the RL² paper describes it: sample N times and take the sample of the highest probability. It names May et al.
    2012, whose rule is another one (`mean_bounded_thompson`) and stays far from the paper's figures.
    """
    positive(dict(num_samples=num_samples), "num_samples")

    def policy(counts: Counts, time: int, rng: np.random.Generator) -> Arms:
        arm = np.zeros(len(counts.success), np.int64)
        greatest = np.full(len(arm), -np.inf)
        for _ in range(num_samples):
            # Beta draws may round to 0 or 1, where a factor of the density that is 1 would turn into nan.
            mean = np.clip(rng.beta(*counts.posterior()), 1e-15, 1 - 1e-15)
            log_density = (counts.success * np.log(mean) + counts.failure * np.log1p(-mean)).sum(1)
            arm = np.where(log_density > greatest, mean.argmax(1), arm)
            greatest = np.maximum(log_density, greatest)
        return arm

    return policy


def mean_bounded_thompson(counts: Counts, time: int, rng: np.random.Generator) -> Arms:
    """Thompson sampling where no sampled mean falls below the posterior mean (May et al. 2012, section 2.3)."""
    return np.maximum(rng.beta(*counts.posterior()), counts.mean()).argmax(1)


def by_index(table: Floats) -> Policy:
    """The arm with the greatest index, `table[successes, failures]` (Gittins 1979)."""
    return lambda counts, time, rng: table[counts.success, counts.failure].argmax(1)


def by_remaining_index(tables: list[Floats]) -> Policy:
    """The same with a table for each number of pulls that remain; `tables[r − 1]` has r. All pulls are len(tables)."""
    return lambda counts, time, rng: by_index(tables[len(tables) - time - 1])(counts, time, rng)
