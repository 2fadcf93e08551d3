"""The derivative of plain gradient descent of a compiled perceptron on a loss in closed form, as products with vectors.

The equations are those of `func`, whose `linearize` asks `descent_of` first, with flat vectors of parameters and
compiled gradients and Hessian products (`research.policies.mlp_kernel`). Nothing is recorded by autograd.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from research.criteria import Rows
from research.inner_loops.base import InnerLoopConfig, Linearized, adapted_names, add_rate_cotangent, rate
from research.inner_loops.batched import batched_loss
from research.policies.mlp_kernel import Gradient, gradient, hessian_product
from research.policies.mlp_network import Network, Vectors
from research.types import Loss, MetaParams, Params


@dataclass(frozen=True)
class Descent:
    """The steps of an inner loop.

    Attributes:
        config: Settings of the inner loop.
        network: The model.
        meta: Initial parameters and parameters of the update rule, without a graph.
        rows: Inputs and criterion of each step.
    """

    config: InnerLoopConfig
    network: Network
    meta: MetaParams
    rows: list[Rows]

    def linearize(self) -> Linearized:
        """Returns the adapted parameters and the products with their derivative."""
        theta, steps = self.network.flat(self.meta.model), []
        for k, rows in enumerate(self.rows):
            found = gradient(self.network, theta, *rows, keep=not self.config.first_order)
            steps.append(_Step(theta, rows, found))
            theta = self._moved(theta, k, found.gradient)
        return Linearized(self._named(theta), functools.partial(self._jvp, steps), functools.partial(self._vjp, steps))

    def _jvp(self, steps: list[_Step], tangent: MetaParams) -> Params:
        vector = self.network.flat(tangent.model).expand(len(self.rows[0].inputs), -1)
        for k, step in enumerate(steps):
            change = self._rates(self.meta.update, k) * self._product(step, vector)
            if tangent.update:
                change = change + self._rates(tangent.update, k) * step.found.gradient
            vector = vector - change
        return self._named(vector)

    def _vjp(self, steps: list[_Step], cotangent: Params) -> MetaParams:
        vector = self.network.flat(cotangent, batch_axes=1)
        update = {name: torch.zeros_like(value) for name, value in self.meta.update.items()}
        for k, step in reversed(list(enumerate(steps))):
            for_rates = self.network.named(-step.found.gradient * vector)
            for name in self._adapted:
                add_rate_cotangent(update, name, k, for_rates[name])
            vector = vector - self._product(step, self._rates(self.meta.update, k) * vector)
        return MetaParams(self._named(vector.sum(0)), update)

    def _product(self, step: _Step, vector: Vectors) -> Vectors:
        """Returns ∇²L · vector of each task; zero for a first-order inner loop."""
        if self.config.first_order:
            return torch.zeros_like(vector)
        return hessian_product(self.network, step.theta, *step.rows, vector, step.found.kept)

    def _moved(self, theta: Vectors, step: int, direction: Vectors) -> Vectors:
        moved = theta - self._rates(self.meta.update, step) * direction
        return moved if self._is_adapted is None else torch.where(self._is_adapted, moved, theta)

    def _rates(self, update: Params, step: int) -> Tensor:
        """Returns the rate of every element at a step, 0 for those that are not adapted; a scalar if all are equal."""
        if "lr" in update and self._is_adapted is None:
            return rate(update, "lr", step)
        like, adapted = self.meta.model, set(self._adapted)
        rates = {name: rate(update, name, step).expand_as(value) for name, value in like.items() if name in adapted}
        return self.network.flat({name: rates.get(name, torch.zeros_like(value)) for name, value in like.items()})

    @functools.cached_property
    def _adapted(self) -> tuple[str, ...]:
        return adapted_names(self.config, self.meta.model)

    @functools.cached_property
    def _is_adapted(self) -> Tensor | None:
        """Which elements of a vector are adapted; None: all."""
        if not self.config.adapt_only:
            return None
        each = torch.tensor([name in self._adapted for name in self.network.names])
        return each.repeat_interleave(torch.tensor(self.network.lengths))

    def _named(self, vectors: Vectors) -> Params:
        named = self.network.named(vectors)
        return {name: named[name] for name in self.meta.model}  # in the order of the caller


class _Step(NamedTuple):
    theta: Vectors
    rows: Rows
    found: Gradient


def descent_of(
    config: InnerLoopConfig, model: nn.Module, meta: MetaParams, loss: Loss, batches: Sequence[Any]
) -> Descent | None:
    """Returns the inner loop in closed form, or None if the settings, the model, the loss or the tensors have none."""
    plain = config.inner_optimizer == "sgd" and not config.lookahead_k
    losses = batched_loss(model, loss, meta.model, batches) if plain and batches else None
    if losses is None or losses.rows is None:
        return None
    constants = MetaParams(*({name: value.detach() for name, value in params.items()} for params in meta))
    return Descent(config, losses.network, constants, [losses.rows(batch) for batch in batches])
