"""Temporal differences of action values: targets, errors and losses. They know no environment and no optimiser.

Written for one task, and as well for a batch of tasks with a leading `[tasks]` axis on every tensor.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from research.types import Forward

LossKind = Literal["huber", "mse"]


class TransitionBatch(NamedTuple):
    """A minibatch of transitions, one step or several each.

    Attributes:
        observation: `[batch, obs]`.
        action: `[batch]` int64.
        reward: `[batch]`, over n steps Σ_k γᵏ r.
        bootstrap: `[batch]`, γⁿ; 0 where the task ended within. Truncation is no such end.
        next_observation: `[batch, obs]`, after the n steps.
        weight: `[batch]`, of the transition in the loss.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    bootstrap: Tensor
    next_observation: Tensor
    weight: Tensor


def td_target(batch: TransitionBatch, target_values: Tensor, online_values: Tensor | None = None) -> Tensor:
    """y = r + γⁿ max_a Q̄(s', a), or with `online_values` r + γⁿ Q̄(s', argmax_a Q(s', a)): `[batch]`.

    Mnih et al. 2015; Double: van Hasselt, Guez & Silver 2016, arXiv:1509.06461, eq. 4.

    Args:
        batch: The transitions.
        target_values: Q̄(s', ·) of the target network, `[batch, actions]`.
        online_values: Q(s', ·), for Double Q-learning.
    """
    best = target_values.amax(-1) if online_values is None else values_at(target_values, online_values.argmax(-1))
    return torch.addcmul(batch.reward, batch.bootstrap, best)


def values_at(values: Tensor, action: Tensor) -> Tensor:
    """Q(s, a) of `values [batch, actions]` at `action [batch]`: `[batch]`."""
    return values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def td_loss(error: Tensor, weight: Tensor, kind: LossKind) -> Tensor:
    """mean w ℓ(δ) over the batch: scalar, or `[tasks]`. ℓ(δ) = δ²/2; Huber's goes on as |δ| − 1/2 beyond 1."""
    if kind == "mse":
        return (weight * error.square()).mean(-1) / 2
    size = error.abs()
    return (weight * torch.where(size < 1, size.square() / 2, size - 0.5)).mean(-1)


def td_cotangent(error: Tensor, weight: Tensor, kind: LossKind) -> Tensor:
    """∂ `td_loss` / ∂δ: w δ / n, with δ clipped to [−1, 1] by Huber's loss. `[batch]`."""
    slope = error if kind == "mse" else error.clamp(-1, 1)
    return slope * weight / error.shape[-1]


def semi_gradient_loss(network: Forward, batch: TransitionBatch, kind: LossKind = "huber") -> Tensor:
    """mean w ℓ(Q(s, a) − ⊥(r + γⁿ max_a Q(s', a))), the network itself being the target: scalar.

    ⊥ holds the target fixed: a gradient of any order sees it as a constant.
    """
    with torch.no_grad():
        target = td_target(batch, network(batch.next_observation))
    return td_loss(values_at(network(batch.observation), batch.action) - target, batch.weight, kind)
