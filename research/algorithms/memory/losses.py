"""The gradient of RL²'s loss on some trials, back through time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from research.algorithms.memory.recurrent import Steps, between
from research.losses import clipped_loss, clipped_share, mean_entropy, value_error
from research.parallel import chunks
from research.policies.gru import GRUPolicy, Output
from research.returns import masked_mean
from research.sampling.trials import bind
from research.types import Params


class Coefficients(NamedTuple):
    """What the loss is made of.

    Attributes:
        with_policy: Whether there is more in it than the value's loss.
        clip_eps: ε of PPO.
        entropy: Weight of the entropy bonus.
        value: Weight of the value's loss.
    """

    with_policy: bool
    clip_eps: float
    entropy: float
    value: float


def loss_of(output: Output, steps: Steps, coefficients: Coefficients) -> tuple[Tensor, Tensor]:
    """The loss, a mean over valid steps, and what it is made of: `[policy, value, entropy, kl, clipped]`.

    −mean min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) − c_H mean H + c_v ½ mean (v − target)²; KL is estimated from the actions
    taken, as mean ρ − 1 − log ρ (Schulman 2020, "Approximating KL divergence").
    """
    value = value_error(output.value, steps.target, steps.valid)
    if not coefficients.with_policy:
        nothing = torch.zeros_like(value)
        return coefficients.value * value, torch.stack([nothing, value.detach(), nothing, nothing, nothing])
    log_ratio = output.distribution.log_prob(steps.action) - steps.log_prob
    ratio = log_ratio.exp()
    policy = clipped_loss(ratio, steps.advantage, steps.valid, coefficients.clip_eps)
    entropy = mean_entropy(output.distribution, steps.valid)
    with torch.no_grad():
        kl = masked_mean(ratio - 1 - log_ratio, steps.valid)
        clipped = clipped_share(ratio, steps.valid, coefficients.clip_eps)
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
    """The part of some trials in the gradient of a minibatch's loss, and in what `loss_of` measures.

    Args:
        policy: The network; a copy is used.
        params: Its parameters.
        names: Those to differentiate by.
        steps: Trials, `[rows, time, ...]`, from their start.
        coefficients: Of the loss.
        total: Valid steps of the minibatch.
        chunk_length: Steps that the gradient goes back through at most; 0 for all. A chunk starts from the state that
            the chunk before has led to under the same parameters.
    """
    time = steps.valid.shape[1]
    gradient = {name: torch.zeros_like(params[name]) for name in names}
    measured = params[names[0]].new_zeros(5)
    with torch.enable_grad():
        own = bind(policy, params, requires_grad=True)
        leaves = dict(own.named_parameters())
        state = own.initial_state(len(steps.valid))
        for piece in chunks(time, chunk_length or time):
            part = between(steps, piece)
            output = own(part.inputs, state)
            share = int(part.valid.sum()) / total
            loss, values = loss_of(output, part, coefficients)
            parts = torch.autograd.grad(
                share * loss, [leaves[name] for name in names], allow_unused=True, materialize_grads=True
            )
            for name, value in zip(names, parts, strict=True):
                gradient[name] += value
            measured += share * values
            state = output.state.detach()  # where the gradient ends
    return gradient, measured
