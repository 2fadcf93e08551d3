"""Inner loops of many tasks with flat parameters `[tasks, parameters]`, for the losses of batched.py.

    θ_{k+1} = θ_k − α ∘ ∇L_k(θ_k),   u_k = u_{k+1} − ∇²L_k(θ_k) (α ∘ u_{k+1}),   u_K = ∇L(θ_K; query) / tasks

The meta-gradient is the sum of u_0 over tasks (Finn et al. 2017, arXiv:1703.03400, eq. 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from research.inner_loops.base import InnerLoopConfig, adapted_names, rate
from research.inner_loops.batched import BatchedLoss
from research.optim.differentiable import UpdateRule
from research.optim.flat import flatten
from research.per_task import num_tasks
from research.policies import mlp_kernel
from research.policies.mlp_network import Network
from research.types import MetaParams, Params


def adapt(
    config: InnerLoopConfig,
    losses: BatchedLoss,
    rule: UpdateRule,
    params: Params,
    update: Params,
    batches: Sequence[Any],
) -> Params:
    """Returns the parameters of each task after one inner step on each batch, see `InnerLoop.adapt`.

    Args:
        config: The settings.
        losses: The inner loss.
        rule: The update rule, which acts on the elements of one tensor.
        params: The initial parameters.
        update: The parameters of the update rule.
        batches: One batch per inner step.
    """
    network = losses.network
    tracked = torch.is_grad_enabled() and any(v.requires_grad for v in (*params.values(), *update.values()))
    frozen = _frozen(config, network, params)
    with torch.set_grad_enabled(tracked):
        vector = flatten(params[name] for name in network.names)
        theta, state = vector.expand(num_tasks(batches), -1), None
        for step, batch in enumerate(batches):
            gradient = losses.gradient(theta, batch, create_graph=tracked and not config.first_order)
            if frozen is not None:
                gradient = gradient.masked_fill(frozen, 0.0)
            rates = {"all": _rates(network, update, step)}
            after, state = rule({"all": theta}, {"all": gradient}, state, rates)
            # AdamW decays the weights that have no gradient, too.
            theta = after["all"] if frozen is None else torch.where(frozen, theta, after["all"])
        found = network.named(theta)
        return {name: found[name] for name in params}


def meta_gradient(
    config: InnerLoopConfig, losses: BatchedLoss, meta: MetaParams, batches: Sequence[Any], query: Any
) -> tuple[Tensor, Params] | None:
    """Returns the loss on `query` after adaptation and its gradient in the initial parameters, without a graph.

    Both are means over tasks. It is None unless the loss is compiled and the update rule is plain gradient descent
    with constant rates. Arguments as for `adapt`.
    """
    if losses.rows is None or config.inner_optimizer != "sgd" or config.lookahead_k or config.learned_keys:
        return None
    network, frozen = losses.network, _frozen(config, losses.network, meta.model)
    theta, steps = network.flat(meta.model), []
    for step, batch in enumerate(batches):
        rows, rates = losses.rows(batch), _rates(network, meta.update, step).detach()
        if frozen is not None:
            rates = torch.where(frozen, 0.0, rates)
        found = mlp_kernel.gradient(network, theta, *rows, keep=not config.first_order)
        steps.append((theta, rows, rates, found.kept))
        theta = theta - rates * found.gradient
    value, vectors, _ = mlp_kernel.gradient(network, theta, *losses.rows(query))
    vectors = vectors / len(value)
    for theta, rows, rates, kept in reversed(steps):
        if not config.first_order:
            vectors = vectors - mlp_kernel.hessian_product(network, theta, *rows, rates * vectors, kept)
    return value.mean(), network.named(vectors.sum(0))


def _frozen(config: InnerLoopConfig, network: Network, params: Params) -> Tensor | None:
    """Returns which elements of a vector are not adapted, or None if all are."""
    names = adapted_names(config, params)
    if len(names) == len(params):
        return None
    fixed = [torch.full_like(params[name], name not in names, dtype=torch.bool).flatten() for name in network.names]
    return torch.cat(fixed)


def _rates(network: Network, update: Params, step: int) -> Tensor:
    """Returns the learning rate of each element at an inner step, or one for all; 0 of parameters without one."""
    if "lr" in update:
        return rate(update, "", step)
    like = next(value for name, value in update.items() if name.startswith("lr."))
    shapes = zip(network.names, network.shapes, strict=True)
    return flatten(update[f"lr.{n}"] if f"lr.{n}" in update else like.new_zeros(shape) for n, shape in shapes)
