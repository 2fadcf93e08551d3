"""Objectives through plain gradient descent on a compiled policy: the adaptation and its derivatives in closed form.

    θ_{k+1} = θ_k − α_k ∘ g_k,   g_k = ∇L_k(θ_k)
    u_k = u_{k+1} − ∇²L_k(θ_k) (α_k ∘ u_{k+1}) + ∇h_k(θ_k)              from u_K = ∇f(θ_K) of the loss after adaptation

h_k are the terms of the objective in the policy before inner step k. u_0, added over the tasks, is the gradient of
Σ_i (f + Σ_k h_k) in θ, and −g_k ∘ u_{k+1} that in α_k. Every loss is a criterion (research/criteria.py): the passes
through the network are those of `research.policies.mlp_kernel`, and one pass forward at θ_k serves L_k and its Hessian
product. `network_for` says when this applies; autograd computes the same otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from research.algorithms.gradient.agent import Agent, AgentConfig
from research.algorithms.outer import learned
from research.criteria import Criterion
from research.distributions import Categorical, DiagGaussian
from research.inner_loops.base import adapted_names, add_rate_cotangent, rate
from research.policies.mlp_kernel import Kept, forward, gradient, hessian_product, serves
from research.policies.mlp_network import Network, Vectors, network_of
from research.types import MetaParams, Params


class Stage(NamedTuple):
    """The batch of an inner step, for the tasks of a chunk.

    Attributes:
        inputs: The observations, `[tasks, rows, obs]`.
        inner: The inner loss L_k.
        terms: The terms h_k of the objective.
    """

    inputs: Float[Tensor, "tasks rows obs"]
    inner: Criterion
    terms: Sequence[Criterion] = ()


class _Step(NamedTuple):
    """An inner step at one point: its parameters, gradient and rate, and what its Hessian product reads."""

    theta: Vectors
    gradient: Float[Tensor, "tasks parameters"]
    rate: Float[Tensor, "*parameters"]
    kept: Kept | None


def network_for(agent: Agent, meta: MetaParams) -> Network | None:
    """Returns the policy as a compiled network; None if its inner steps are not plain descent, or nothing serves it."""
    config = agent.config
    if config.inner_loop != "func" or config.inner_optimizer != "sgd" or config.lookahead_k:
        return None
    network = network_of(agent.policy)
    return network if network is not None and serves(network, meta.model) else None


def distributions(
    network: Network, params: Vectors, inputs: Float[Tensor, "tasks rows obs"], shape: Sequence[int]
) -> Categorical | DiagGaussian:
    """Returns the action distributions at the inputs, whose rows get the given shape `[tasks, *steps]`."""
    outputs, _ = forward(network, params, inputs)
    outputs = outputs.view(*shape, outputs.shape[-1])
    if network.is_categorical:
        return Categorical(outputs)
    assert network.log_std is not None
    log_std = network.named(params)[network.log_std].clamp_min(network.min_log_std)
    return DiagGaussian(outputs, log_std.reshape(-1, *[1] * (len(shape) - 1), log_std.shape[-1]).expand_as(outputs))


class Objective(NamedTuple):
    """The objective Σ_i (f + Σ_k h_k) of the tasks of a chunk, as criteria of a compiled policy.

    Attributes:
        config: The settings of the agent.
        network: The policy.
        stages: The inner steps, with h_k.
        inputs: The observations after adaptation.
        outer: f on them.
    """

    config: AgentConfig
    network: Network
    stages: Sequence[Stage]
    inputs: Float[Tensor, "tasks rows obs"]
    outer: Criterion

    def plus(self, terms: Sequence[Criterion]) -> Objective:
        """Returns the objective with one more term for each inner step."""
        pairs = zip(self.stages, terms, strict=True)
        return self._replace(stages=[stage._replace(terms=[*stage.terms, term]) for stage, term in pairs])

    def gradient(self, meta: MetaParams) -> Params:
        """Returns the gradient in the meta-learned tensors, named as by `learned`."""
        descent = StagedDescent(self.config, self.network, meta, self.stages, keep=True)
        outer = gradient(self.network, descent.params[-1], self.inputs, self.outer)
        return learned(descent.pull(outer.gradient), self.config)

    def distributions(self, meta: MetaParams, shapes: Sequence[Sequence[int]]) -> list[Any]:
        """Returns the action distributions before each inner step on its batch, and after the last.

        Args:
            meta: The meta-parameters.
            shapes: The shapes `[tasks, *steps]` of the batches.
        """
        points = StagedDescent(self.config, self.network, meta, self.stages).params
        inputs = [*(stage.inputs for stage in self.stages), self.inputs]
        return [distributions(self.network, *trio) for trio in zip(points, inputs, shapes, strict=True)]


class StagedDescent:
    """Inner steps of gradient descent at one point, for the tasks of a chunk.

    Args:
        config: The settings of the agent.
        network: Its policy.
        meta: The meta-parameters.
        stages: The batches of the inner steps.
        keep: Whether `pull` follows.

    Attributes:
        params: The parameters before each step, and those after the last one, `[tasks, parameters]`; the first ones
            are shared by all tasks.
    """

    def __init__(
        self, config: AgentConfig, network: Network, meta: MetaParams, stages: Sequence[Stage], keep: bool = False
    ):
        self.config, self.network, self.meta, self.stages = config, network, meta, stages
        self.names = adapted_names(config, meta.model)
        self.params: list[Vectors] = [network.flat(meta.model)]
        self._steps: list[_Step] = []
        keep = keep and not config.first_order
        for k, stage in enumerate(stages):
            found = gradient(network, self.params[-1], stage.inputs, stage.inner, keep)
            step = _Step(self.params[-1], found.gradient, self._rate(k), found.kept)
            self.params.append(step.theta - step.rate * step.gradient)
            self._steps.append(step)

    def pull(self, cotangent: Float[Tensor, "tasks parameters"]) -> MetaParams:
        """Returns the gradient in the meta-parameters, added over the tasks, from that in the adapted parameters."""
        update = {n: torch.zeros_like(value) for n, value in self.meta.update.items() if self.config.learns(n)}
        for k, (step, stage) in reversed(list(enumerate(zip(self._steps, self.stages, strict=True)))):
            if update:
                self._pull_rates(update, k, step, cotangent)
            terms = list(stage.terms)
            if not self.config.first_order:
                further = terms.pop() if terms else None
                along = -step.rate * cotangent
                cotangent = cotangent + hessian_product(
                    self.network, step.theta, stage.inputs, stage.inner, along, step.kept, further
                )
            for term in terms:
                cotangent = cotangent + gradient(self.network, step.theta, stage.inputs, term).gradient
        return MetaParams(self.network.named(cotangent.sum(0)), update)

    def _rate(self, k: int) -> Float[Tensor, "*parameters"]:
        """Returns the learning rate of every parameter at a step, 0 where it is not adapted; or one rate for all."""
        if "lr" in self.meta.update and not self.config.adapt_only:
            return rate(self.meta.update, "", k).detach()
        like = self.meta.model
        rates = {name: torch.zeros_like(value) for name, value in like.items()}
        rates |= {name: rate(self.meta.update, name, k).detach().expand_as(like[name]) for name in self.names}
        return self.network.flat(rates)

    def _pull_rates(self, update: Params, k: int, step: _Step, cotangent: Tensor) -> None:
        named = self.network.named(-step.gradient * cotangent)
        for name in self.names:
            add_rate_cotangent(update, name, k, named[name])
