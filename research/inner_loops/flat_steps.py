"""Inner loops of many tasks with flat parameters `[tasks, parameters]`, for batched.py's losses; differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from research.inner_loops.base import InnerLoopConfig
from research.inner_loops.batched import BatchedLoss
from research.inner_loops.descent import element_rates, frozen_elements
from research.optim.differentiable import UpdateRule
from research.optim.flat import flatten
from research.per_task import num_tasks
from research.types import Params


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
    frozen = frozen_elements(config, network, params)
    with torch.set_grad_enabled(tracked):
        vector = flatten(params[name] for name in network.names)
        theta, state = vector.expand(num_tasks(batches), -1), None
        for step, batch in enumerate(batches):
            gradient = losses.gradient(theta, batch, create_graph=tracked and not config.first_order)
            if frozen is not None:
                gradient = gradient.masked_fill(frozen, 0.0)
            rates = {"all": element_rates(network, update, step)}
            after, state = rule({"all": theta}, {"all": gradient}, state, rates)
            # AdamW decays the weights that have no gradient, too.
            theta = after["all"] if frozen is None else torch.where(frozen, theta, after["all"])
        found = network.named(theta)
        return {name: found[name] for name in params}
