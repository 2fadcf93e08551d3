"""RL²'s loss on some trials, and its gradient by backpropagation through time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from research.algorithms.memory.config import RL2Config
from research.algorithms.memory.ppo_loss import Coefficients, Samples, ppo_loss
from research.algorithms.memory.recurrent import Steps, in_interval
from research.losses import clipped_loss, ratio_clip_fraction, value_error
from research.parallel import chunks
from research.policies.memory import MemoryPolicy, Output
from research.returns import masked_mean
from research.types import Params


def rl2_loss(output: Output, steps: Steps, config: RL2Config, entropy_coef: float) -> tuple[Tensor, Tensor]:
    """Returns the loss, a mean over valid steps, and its terms `[policy, value, entropy, kl, clip fraction]`.

    −mean min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) − c_H mean H + c_v ½ mean (v − target)²; with `update="trpo"` the last term
    alone. The KL divergence, which is no part of the loss, is estimated from the actions as mean ρ − 1 − log ρ
    (Schulman 2020, "Approximating KL divergence").
    """
    if config.update == "ppo":
        coefficients = Coefficients(config.clip_eps, entropy_coef, config.value_coef)
        compiled = ppo_loss(output.distribution, output.value, Samples(*steps[1:]), coefficients)
        if compiled is not None:
            return compiled
    value = value_error(output.value, steps.target, steps.valid)
    if config.update == "trpo":
        zero = torch.zeros_like(value)
        return config.value_coef * value, torch.stack([zero, value.detach(), zero, zero, zero])
    log_prob, entropies = output.distribution.log_prob_and_entropy(steps.action)
    log_ratio = log_prob - steps.log_prob
    ratio = log_ratio.exp()
    policy = clipped_loss(ratio, steps.advantage, steps.valid, config.clip_eps)
    entropy = masked_mean(entropies, steps.valid)
    with torch.no_grad():
        kl = masked_mean(ratio - 1 - log_ratio, steps.valid)
        clipped = ratio_clip_fraction(ratio, steps.valid, config.clip_eps)
    loss = policy - entropy_coef * entropy + config.value_coef * value
    return loss, torch.stack([policy, value, entropy, kl, clipped]).detach()


def rl2_gradient(
    policy: MemoryPolicy,
    learned: tuple[str, ...],
    steps: Steps,
    config: RL2Config,
    entropy_coef: float,
    total: int,
) -> tuple[Params, Tensor]:
    """Returns the contribution of some trials to the gradient of a minibatch's loss, and to the terms of that loss.

    A gradient is propagated back through `config.chunk_length` steps; each chunk of so many steps starts from the last
    state of the chunk before it under the same parameters, as a constant.

    Args:
        policy: The network, whose parameters require a gradient (`bind`). It is only read: threads may share it.
        learned: Names of the parameters to differentiate by.
        steps: Whole trials, `[rows, time, ...]`.
        config: Settings of the loss.
        entropy_coef: c_H, the weight of the entropy bonus.
        total: Number of valid steps of the minibatch.
    """
    time = steps.valid.shape[1]
    leaves = dict(policy.named_parameters())
    gradient: Params = {}
    terms = leaves[learned[0]].new_zeros(5)
    with torch.enable_grad():
        state = policy.initial_state(len(steps.valid))
        for interval in chunks(time, config.chunk_length or time):
            part = in_interval(steps, interval)
            output = policy(part.inputs, state)
            weight = int(part.valid.sum()) / total
            loss, values = rl2_loss(output, part, config, entropy_coef)
            parts = torch.autograd.grad(
                weight * loss, [leaves[name] for name in learned], allow_unused=True, materialize_grads=True
            )
            for name, value in zip(learned, parts, strict=True):
                gradient[name] = gradient[name] + value if name in gradient else value
            terms += weight * values
            state = pytree.tree_map(torch.Tensor.detach, output.state)  # truncated backpropagation: the gradient ends
    return gradient, terms
