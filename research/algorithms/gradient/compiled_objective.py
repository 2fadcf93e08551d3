"""Objectives through plain gradient descent on a compiled policy: `research.inner_loops.descent` differentiates them.

`network_for` says when this applies; autograd computes the same otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from research.algorithms.gradient.agent import Agent, AgentConfig
from research.algorithms.outer import learned
from research.criteria import Criterion
from research.distributions import Categorical, DiagGaussian
from research.inner_loops.descent import Descent, Stage
from research.policies.mlp_kernel import forward, gradient, serves
from research.policies.mlp_network import Network, Vectors, network_of
from research.types import MetaParams, Params


def network_for(agent: Agent, meta: MetaParams) -> Network | None:
    """Returns the policy as a compiled network; None if its inner steps are not plain descent, or nothing serves it."""
    config = agent.config
    if config.inner_loop != "func" or not config.is_plain_descent:
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
        descent = Descent(self.config, self.network, meta, self.stages)
        outer = gradient(self.network, descent.params[-1], self.inputs, self.outer)
        return learned(descent.pull(outer.gradient), self.config)

    def distributions(self, meta: MetaParams, shapes: Sequence[Sequence[int]]) -> list[Any]:
        """Returns the action distributions before each inner step on its batch, and after the last.

        Args:
            meta: The meta-parameters.
            shapes: The shapes `[tasks, *steps]` of the batches.
        """
        points = Descent(self.config, self.network, meta, self.stages, keep=False).params
        inputs = [*(stage.inputs for stage in self.stages), self.inputs]
        return [distributions(self.network, *trio) for trio in zip(points, inputs, shapes, strict=True)]
