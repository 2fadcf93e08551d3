"""Returns, advantages and means over valid steps: functions of tensors whose last axis is time."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(
    values: Float[Tensor, "*axes"], valid: Bool[Tensor, "*axes"], batch_axes: int = 0
) -> Float[Tensor, "*batch"]:
    """Returns Σ valid · values / Σ valid over all axes but the first `batch_axes`; 0 if no entry is valid.

    Example:
        >>> float(masked_mean(torch.tensor([1.0, 3.0, 99.0]), torch.tensor([True, True, False])))
        2.0
        >>> masked_mean(torch.tensor([[1.0, 3.0], [2.0, 4.0]]), torch.tensor([[True, True], [True, False]]), 1)
        tensor([2., 2.])
    """
    axes = tuple(range(batch_axes, values.ndim))
    weights = valid.to(values.dtype)
    return (values * weights).sum(axes) / weights.sum(axes).clamp_min(1.0)


def discounted_returns(reward: Float[Tensor, "*batch time"], discount: float) -> Float[Tensor, "*batch time"]:
    """Returns G_t = r_t + γ G_{t+1}, with G = 0 after the last step. Rewards after the end of an episode must be 0.

    Example:
        >>> discounted_returns(torch.tensor([1.0, 0.0, 4.0]), discount=0.5)
        tensor([2., 2., 4.])
    """
    returns = torch.empty_like(reward)
    running = torch.zeros_like(reward[..., 0])
    for t in reversed(range(reward.shape[-1])):
        running = reward[..., t] + discount * running
        returns[..., t] = running
    return returns


def gae(
    reward: Float[Tensor, "*batch time"],
    value: Float[Tensor, "*batch time"],
    last_value: Float[Tensor, "*batch"],
    terminated: Bool[Tensor, "*batch time"],
    valid: Bool[Tensor, "*batch time"],
    discount: float,
    gae_lambda: float,
) -> Float[Tensor, "*batch time"]:
    """Returns generalised advantage estimates, 0 where `valid` is false.

    δ_t = r_t + γ (1 − terminated_t) V_{t+1} − V_t,  A_t = δ_t + γλ A_{t+1}
    (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

    Args:
        reward: Reward of each step.
        value: V of the observation before each step.
        last_value: V of the observation after the last valid step; not read where that step terminated.
        terminated: Whether the task ended with this step.
        valid: Whether the step belongs to the episode; valid steps come first.
        discount: γ in [0, 1].
        gae_lambda: λ in [0, 1]; 1 gives discounted returns minus the value.

    Example:
        >>> reward, value, valid = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 1.0]), torch.tensor([True, True])
        >>> gae(reward, value, torch.tensor(2.0), ~valid, valid, discount=0.5, gae_lambda=1.0)
        tensor([1., 0.])
    """
    advantage = torch.zeros_like(reward)
    running = torch.zeros_like(last_value)
    next_value = last_value
    for t in reversed(range(reward.shape[-1])):
        bootstrap = torch.where(terminated[..., t], torch.zeros_like(next_value), next_value)
        delta = reward[..., t] + discount * bootstrap - value[..., t]
        estimate = delta + discount * gae_lambda * running
        # Backwards in time, the recursion starts at the last valid step.
        running = torch.where(valid[..., t], estimate, running)
        next_value = torch.where(valid[..., t], value[..., t], next_value)
        advantage[..., t] = torch.where(valid[..., t], estimate, torch.zeros_like(estimate))
    return advantage


def normalize(
    values: Float[Tensor, "*batch time"], valid: Bool[Tensor, "*batch time"], eps: float = 1e-8
) -> Float[Tensor, "*batch time"]:
    """Returns (values − mean) / (std + eps) over the valid entries of all axes but the first; 0 elsewhere.

    Example:
        >>> normalize(torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[True, True, False]]))
        tensor([[-1.,  1.,  0.]])
    """
    axes = tuple(range(1, values.ndim))
    weights = valid.to(values.dtype)
    count = weights.sum(axes, keepdim=True).clamp_min(1.0)
    centred = (values - (values * weights).sum(axes, keepdim=True) / count) * weights
    std = ((centred * centred).sum(axes, keepdim=True) / count).sqrt()
    return centred / (std + eps)
