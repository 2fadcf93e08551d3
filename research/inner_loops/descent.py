"""Plain gradient descent of a compiled perceptron on losses in closed form, and products with its derivative.

    θ_{k+1} = θ_k − α_k ∘ g_k,   g_k = ∇L_k(θ_k),   H_k = ∇²L_k(θ_k) (symmetric)
    J v:   v_{k+1} = v_k − α_k ∘ H_k v_k − α̇_k ∘ g_k
    Jᵀ u:  u_k = u_{k+1} − H_k (α_k ∘ u_{k+1}) + ∇h_k(θ_k),   α's part: −g_k ∘ u_{k+1}

h_k are the terms of an objective in the parameters before inner step k, where it has any: u_0, added over the tasks,
is then the gradient of Σ_i (f(θ_K) + Σ_k h_k(θ_k)) if u_K = ∇f(θ_K) (Finn et al. 2017, arXiv:1703.03400, eq. 1; Li et
al. 2017, arXiv:1707.09835, eq. 3 for α ∘ g).

Parameters are flat vectors, and every loss is a criterion (research/criteria.py): the passes through the network are
those of `research.policies.mlp_kernel`, and one pass forward at θ_k serves L_k and its Hessian products. Nothing is
recorded by autograd, which computes the same for all other models, losses and update rules (func.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from research.criteria import Criterion
from research.inner_loops.base import InnerLoopConfig, Linearized, adapted_names, add_rate_cotangent, rate
from research.optim.flat import flatten
from research.policies.mlp_kernel import Kept, gradient, hessian_product
from research.policies.mlp_network import Network, Vectors
from research.types import MetaParams, Params


class Stage(NamedTuple):
    """The batch of an inner step.

    Attributes:
        inputs: The inputs of the network, `[tasks, rows, in]`.
        inner: The inner loss L_k.
        terms: The terms h_k of the objective.
    """

    inputs: Float[Tensor, "tasks rows features"]
    inner: Criterion
    terms: Sequence[Criterion] = ()


class _Step(NamedTuple):
    """An inner step at one point: its parameters, gradient and rates, and what its Hessian product reads."""

    theta: Vectors
    gradient: Float[Tensor, "tasks parameters"]
    rates: Float[Tensor, "*parameters"]
    kept: Kept | None


class Descent:
    """The inner steps from one point, of some tasks.

    Args:
        config: Settings of the inner loop.
        network: The model.
        meta: Initial parameters and parameters of the update rule.
        stages: The batches of the inner steps.
        keep: Whether products with the derivative follow.

    Attributes:
        params: The parameters before each step, and those after the last one, `[tasks, parameters]`; the first ones
            are shared by all tasks.
    """

    def __init__(
        self, config: InnerLoopConfig, network: Network, meta: MetaParams, stages: Sequence[Stage], keep: bool = True
    ):
        self.config, self.network, self.meta, self.stages = config, network, meta, stages
        self._names = adapted_names(config, meta.model)
        self._frozen = frozen_elements(config, network, meta.model)
        self.params: list[Vectors] = [network.flat(meta.model)]
        self._steps: list[_Step] = []
        for k, stage in enumerate(stages):
            found = gradient(network, self.params[-1], stage.inputs, stage.inner, keep and not config.first_order)
            if self._frozen is not None:
                found.gradient.masked_fill_(self._frozen, 0.0)
            step = _Step(self.params[-1], found.gradient, self._rates(meta.update, k), found.kept)
            self.params.append(step.theta - step.rates * step.gradient)
            self._steps.append(step)

    def linearized(self) -> Linearized:
        """Returns the adapted parameters by name, and the products with their derivative."""

        def vjp(cotangent: Params) -> MetaParams:
            return self.pull(self.network.flat(cotangent, batch_axes=1), with_constants=True)

        return Linearized(self._named(self.params[-1]), self.push, vjp)

    def push(self, tangent: MetaParams) -> Params:
        """Returns J v of each task, `[tasks, ...]`, for a tangent of the meta-parameters."""
        vector = self.network.flat(tangent.model).expand(len(self.stages[0].inputs), -1)
        for k, step in enumerate(self._steps):
            product = torch.zeros_like(vector) if self.config.first_order else self._product(k, vector)
            change = step.rates * product
            if tangent.update:
                change = change + self._rates(tangent.update, k) * step.gradient
            vector = vector - change
        return self._named(vector)

    def pull(self, cotangent: Float[Tensor, "tasks parameters"], with_constants: bool = False) -> MetaParams:
        """Returns Jᵀ u and the gradient of the terms in the meta-parameters, added over the tasks.

        Args:
            cotangent: u, the gradient in the adapted parameters.
            with_constants: Whether to compute the part of rates that are not learned, too, which is 0 otherwise.
        """
        update = {name: torch.zeros_like(value) for name, value in self.meta.update.items()}
        for k, (step, stage) in reversed(list(enumerate(zip(self._steps, self.stages, strict=True)))):
            if with_constants or any(map(self.config.learns, update)):
                named = self.network.named(-step.gradient * cotangent)
                for name in self._names:
                    add_rate_cotangent(update, name, k, named[name])
            terms = list(stage.terms)
            if not self.config.first_order:
                further = terms.pop() if terms else None
                cotangent = cotangent + self._product(k, -step.rates * cotangent, further)
            for term in terms:
                cotangent = cotangent + gradient(self.network, step.theta, stage.inputs, term).gradient
        return MetaParams(self._named(cotangent.sum(0)), update)

    def _product(self, k: int, vector: Vectors, further: Criterion | None = None) -> Float[Tensor, "tasks parameters"]:
        """Returns H_k · vector of each task, plus the gradient of a further criterion."""
        step, stage = self._steps[k], self.stages[k]
        return hessian_product(self.network, step.theta, stage.inputs, stage.inner, vector, step.kept, further)

    def _rates(self, update: Params, k: int) -> Float[Tensor, "*parameters"]:
        """Returns `element_rates` without a graph, 0 for elements that are not adapted."""
        rates = element_rates(self.network, update, k).detach()
        return rates if self._frozen is None else rates.masked_fill(self._frozen, 0.0)

    def _named(self, vectors: Vectors) -> Params:
        named = self.network.named(vectors)
        return {name: named[name] for name in self.meta.model}  # in the order of the caller


def frozen_elements(config: InnerLoopConfig, network: Network, params: Params) -> Bool[Tensor, " parameters"] | None:
    """Returns which elements of a vector are not adapted, or None if all are."""
    names = adapted_names(config, params)
    if len(names) == len(params):
        return None
    fixed = [torch.full_like(params[name], name not in names, dtype=torch.bool).flatten() for name in network.names]
    return torch.cat(fixed)


def element_rates(network: Network, update: Params, step: int) -> Float[Tensor, "*parameters"]:
    """Returns the learning rate of each element at an inner step, or one for all; 0 of parameters without one."""
    if "lr" in update:
        return rate(update, "", step)
    like = next(value for name, value in update.items() if name.startswith("lr."))
    shapes = zip(network.names, network.shapes, strict=True)
    return flatten(update[f"lr.{n}"] if f"lr.{n}" in update else like.new_zeros(shape) for n, shape in shapes)
