"""Enumerates all episodes of a tiny MDP, and computes exact expectations over all batches of episodes.

An inner step on N sampled episodes makes the adapted parameters random. The objective of meta-learning is then

    F_N(θ) = E_D[J(θ'(θ, D))],   θ'(θ, D) = θ + α · mean_{τ∈D} Σ_t ∇log π_θ(a_t|s_t) A_t(τ),   D ~ p_θ, N episodes

(Stadie et al. 2018, arXiv:1803.01118). It converges to J(θ + α ∇J(θ)) as N grows, and differs from it for every finite
N. ∇F_N includes the dependence of p_θ(D) on θ, which an exact inner step does not have. Here the expectation is a sum
over all batches, so F_N and its gradient are exact. The order of episodes in a batch does not matter, so K episodes
give C(N + K − 1, N) batches.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from analysis.studies.tabular import TabularMDPs, expected_return, observe, policy
from research.distributions import Categorical
from research.returns import discounted_returns
from research.validation import at_least

_LIMIT = 1_000_000


class Episodes(NamedTuple):
    """All possible episodes of an MDP.

    Attributes:
        observation: `[episodes, time, states]`, one-hot.
        action: `[episodes, time]`.
        reward: `[episodes, time]`.
        dynamics: `[episodes]`, the probability of an episode's states given its actions.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    dynamics: Tensor

    def log_prob(self, logits: Float[Tensor, "states actions"]) -> Float[Tensor, "episodes time"]:
        """Returns log π(a|s) of every step."""
        distribution: Categorical = policy(logits)(self.observation)
        return distribution.log_prob(self.action)

    def probability(self, logits: Float[Tensor, "states actions"]) -> Float[Tensor, " episodes"]:
        """Returns the probability of every episode; the sum is 1."""
        return self.dynamics * self.log_prob(logits).sum(-1).exp()

    def returns_to_go(self, discount: float = 1.0) -> Float[Tensor, "episodes time"]:
        """Returns Σ_{t'≥t} γ^{t'−t} r_t' of every step."""
        return discounted_returns(self.reward, discount)


def enumerate_episodes(mdp: TabularMDPs) -> Episodes:
    """Returns all episodes of one MDP without leading axes that have positive probability under some policy.

    Raises:
        ValueError: The MDP has leading axes, its rewards are noisy, or there are more than a million sequences.
    """
    states, actions = mdp.reward.shape[-2:]
    count = (states * actions) ** mdp.horizon
    if mdp.axes:
        raise ValueError(f"mdp: its leading axes are {mdp.axes}, need none: take one MDP at a time")
    if mdp.reward_std:
        raise ValueError(f"reward_std={mdp.reward_std}: need 0, noisy rewards cannot be enumerated")
    if count > _LIMIT:
        raise ValueError(
            f"horizon={mdp.horizon}: {states} states and {actions} actions make {count} sequences, need at most "
            f"{_LIMIT}; take a shorter horizon or a smaller MDP"
        )
    step = states * actions
    place = step ** torch.arange(mdp.horizon)
    pair = torch.arange(count).unsqueeze(-1) // place % step
    state, action = pair // actions, pair % actions
    dynamics = mdp.start[state[:, 0]]
    dynamics = dynamics * mdp.transition[state[:, :-1], action[:, :-1], state[:, 1:]].prod(-1)
    kept = dynamics > 0
    state, action = state[kept], action[kept]
    return Episodes(observe(state, states, None, mdp.reward.dtype), action, mdp.reward[state, action], dynamics[kept])


def all_batches(num_kinds: int, num_episodes: int) -> Int[Tensor, "batches episodes"]:
    """Returns all multisets of `num_episodes` indices out of `num_kinds` episodes.

    Raises:
        ValueError: A number is below 1, or there are more than a million batches.
    """
    at_least(dict(num_kinds=num_kinds, num_episodes=num_episodes), 1, "num_kinds", "num_episodes")
    count = math.comb(num_episodes + num_kinds - 1, num_episodes)
    if count > _LIMIT:
        raise ValueError(
            f"num_episodes={num_episodes}: {num_kinds} kinds of episodes make {count} batches, need at most {_LIMIT}"
        )
    return torch.tensor(list(itertools.combinations_with_replacement(range(num_kinds), num_episodes)))


def batch_probability(
    probability: Float[Tensor, " kinds"], batches: Int[Tensor, "batches episodes"]
) -> Float[Tensor, " batches"]:
    """Returns the probability of each batch, N! / Π c_k! · Π p_k^{c_k}, where c_k counts episode k; the sum is 1."""
    counts = _counts(batches, len(probability), probability.dtype)
    log_orders = math.lgamma(batches.shape[-1] + 1) - torch.lgamma(counts + 1).sum(-1)
    return (log_orders + counts @ probability.log()).exp()


def finite_sample_return(
    mdp: TabularMDPs,
    logits: Float[Tensor, "states actions"],
    step_size: float,
    num_episodes: int,
    advantage: Tensor | None = None,
) -> Float[Tensor, ""]:
    """Returns F_N(θ), the expected return after an inner step on N sampled episodes; differentiable in the logits.

    Args:
        mdp: One MDP without leading axes.
        logits: θ.
        step_size: α.
        num_episodes: N.
        advantage: `[episodes, time]` for the episodes of `enumerate_episodes`, constant in θ; by default the returns
            to go. These lack the factor γᵗ, so with a discount below 1 the step does not follow ∇J, as in practice.

    Raises:
        ValueError: As `enumerate_episodes` and `all_batches`.
    """
    episodes = enumerate_episodes(mdp)
    weight = episodes.returns_to_go(mdp.discount) if advantage is None else advantage.detach()  # a constant, see above
    batches = all_batches(len(weight), num_episodes)
    scores = torch.func.jacrev(lambda table: (episodes.log_prob(table) * weight).sum(-1))(logits)
    fraction = _counts(batches, len(weight), logits.dtype) / num_episodes
    adapted = logits + step_size * torch.einsum("bk,ksa->bsa", fraction, scores)
    returns = expected_return(mdp.expand(len(batches)), adapted)
    return (batch_probability(episodes.probability(logits), batches) * returns).sum()


def _counts(batches: Tensor, num_kinds: int, dtype: torch.dtype) -> Tensor:
    """Returns how often each episode occurs in each batch, `[batches, kinds]`."""
    return one_hot(batches, num_kinds).sum(-2).to(dtype)
