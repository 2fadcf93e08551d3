"""RL²'s loss on some trials, and its gradient by backpropagation through time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from research.algorithms.memory.recurrent import Steps, in_interval
from research.losses import clipped_loss, mean_entropy, ratio_clip_fraction, value_error
from research.parallel import chunks
from research.policies.gru import GRUPolicy, Output
from research.returns import masked_mean
from research.sampling.trials import bind
from research.types import Params


class Coefficients(NamedTuple):
    """Coefficients of the loss.

    Attributes:
        with_policy: Whether the loss has the terms of the policy, or that of the value alone.
        clip_eps: ε of PPO.
        entropy: c_H, the weight of the entropy bonus.
        value: c_v, the weight of the value's loss.
    """

    with_policy: bool
    clip_eps: float
    entropy: float
    value: float


def loss_of(output: Output, steps: Steps, coefficients: Coefficients) -> tuple[Tensor, Tensor]:
    """Returns the loss, a mean over valid steps, and its terms `[policy, value, entropy, kl, clip fraction]`.

    −mean min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) − c_H mean H + c_v ½ mean (v − target)². The KL divergence, which is no part
    of it, is estimated from the actions as mean ρ − 1 − log ρ (Schulman 2020, "Approximating KL divergence").
    """
    value = value_error(output.value, steps.target, steps.valid)
    if not coefficients.with_policy:
        zero = torch.zeros_like(value)
        return coefficients.value * value, torch.stack([zero, value.detach(), zero, zero, zero])
    log_ratio = output.distribution.log_prob(steps.action) - steps.log_prob
    ratio = log_ratio.exp()
    policy = clipped_loss(ratio, steps.advantage, steps.valid, coefficients.clip_eps)
    entropy = mean_entropy(output.distribution, steps.valid)
    with torch.no_grad():
        kl = masked_mean(ratio - 1 - log_ratio, steps.valid)
        clipped = ratio_clip_fraction(ratio, steps.valid, coefficients.clip_eps)
    loss = policy - coefficients.entropy * entropy + coefficients.value * value
    return loss, torch.stack([policy, value, entropy, kl, clipped]).detach()


def gradient_of(
    policy: GRUPolicy,
    params: Params,
    names: tuple[str, ...],
    steps: Steps,
    coefficients: Coefficients,
    total: int,
    chunk_length: int,
) -> tuple[Params, Tensor]:
    """Returns the contribution of some trials to the gradient of a minibatch's loss, and to the terms of that loss.

    Args:
        policy: The network; a copy is used.
        params: Its parameters.
        names: Names of the parameters to differentiate by.
        steps: Whole trials, `[rows, time, ...]`.
        coefficients: Coefficients of the loss.
        total: Number of valid steps of the minibatch.
        chunk_length: Largest number of steps that the gradient is propagated back through; 0 for all. A chunk starts
            from the last state of the chunk before it under the same parameters, as a constant.
    """
    time = steps.valid.shape[1]
    gradient = {name: torch.zeros_like(params[name]) for name in names}
    terms = params[names[0]].new_zeros(5)
    with torch.enable_grad():
        own = bind(policy, params, requires_grad=True)
        leaves = dict(own.named_parameters())
        state = own.initial_state(len(steps.valid))
        for interval in chunks(time, chunk_length or time):
            part = in_interval(steps, interval)
            output = own(part.inputs, state)
            weight = int(part.valid.sum()) / total
            loss, values = loss_of(output, part, coefficients)
            parts = torch.autograd.grad(
                weight * loss, [leaves[name] for name in names], allow_unused=True, materialize_grads=True
            )
            for name, value in zip(names, parts, strict=True):
                gradient[name] += value
            terms += weight * values
            state = output.state.detach()  # truncated backpropagation: the gradient ends here
    return gradient, terms
