"""Temporal differences of action values: targets, errors and losses. They know no environment and no optimiser.

Every function works on the transitions of one task, `[batch]`, and on those of several tasks, `[tasks, batch]`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from research.types import Forward

LossKind = Literal["huber", "mse"]


class TransitionBatch(NamedTuple):
    """A minibatch of transitions of one or several environment steps each.

    Attributes:
        observation: Observation on which the action was taken.
        action: Index of the action.
        reward: Discounted reward of the n steps, Σ_k γᵏ r.
        bootstrap: γⁿ, the factor of the value after the n steps; 0 if the task terminated within them. Truncation is
            not termination.
        next_observation: Observation after the n steps.
        weight: Importance weight of the transition in the loss.
    """

    observation: Float[Tensor, "*tasks batch obs"]
    action: Int[Tensor, "*tasks batch"]
    reward: Float[Tensor, "*tasks batch"]
    bootstrap: Float[Tensor, "*tasks batch"]
    next_observation: Float[Tensor, "*tasks batch obs"]
    weight: Float[Tensor, "*tasks batch"]


def td_target(
    batch: TransitionBatch,
    target_values: Float[Tensor, "*tasks batch actions"],
    online_values: Float[Tensor, "*tasks batch actions"] | None = None,
) -> Float[Tensor, "*tasks batch"]:
    """The target y = r + γⁿ max_a Q̄(s', a), or with `online_values` y = r + γⁿ Q̄(s', argmax_a Q(s', a)).

    Mnih et al. 2015 (Nature 518); Double: van Hasselt, Guez & Silver 2016, arXiv:1509.06461, eq. 4.

    Args:
        batch: The transitions.
        target_values: Q̄(s', ·) of the target network.
        online_values: Q(s', ·) of the online network, for Double Q-learning.
    """
    best = target_values.amax(-1) if online_values is None else values_at(target_values, online_values.argmax(-1))
    return torch.addcmul(batch.reward, batch.bootstrap, best)


def values_at(
    values: Float[Tensor, "*tasks batch actions"], action: Int[Tensor, "*tasks batch"]
) -> Float[Tensor, "*tasks batch"]:
    """The value Q(s, a) of each action, from the values Q(s, ·) of all actions."""
    return values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def td_loss(
    error: Float[Tensor, "*tasks batch"], weight: Float[Tensor, "*tasks batch"], kind: LossKind
) -> Float[Tensor, "*tasks"]:
    """The loss mean w ℓ(δ) of each task, with ℓ(δ) = δ²/2 (`"mse"`), or |δ| − 1/2 where |δ| > 1 (`"huber"`)."""
    if kind == "mse":
        return (weight * error.square()).mean(-1) / 2
    size = error.abs()
    return (weight * torch.where(size < 1, size.square() / 2, size - 0.5)).mean(-1)


def td_cotangent(
    error: Float[Tensor, "*tasks batch"], weight: Float[Tensor, "*tasks batch"], kind: LossKind
) -> Float[Tensor, "*tasks batch"]:
    """The derivative of `td_loss` with respect to δ: w δ / batch size, with δ clipped to [−1, 1] for `"huber"`."""
    derivative = error if kind == "mse" else error.clamp(-1, 1)
    return derivative * weight / error.shape[-1]


def semi_gradient_loss(network: Forward, batch: TransitionBatch, kind: LossKind = "huber") -> Float[Tensor, "*tasks"]:
    """The loss mean w ℓ(Q(s, a) − ⊥(r + γⁿ max_a Q(s', a))), with the network as its own target network.

    ⊥ holds the target fixed: derivatives of every order see a constant.
    """
    with torch.no_grad():
        target = td_target(batch, network(batch.next_observation))
    return td_loss(values_at(network(batch.observation), batch.action) - target, batch.weight, kind)
