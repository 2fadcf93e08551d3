"""The trust-region objective of an adapted perceptron on its query episodes, compiled: `Part` for MAML-TRPO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from research.algorithms.outer import learned, replaced
from research.criteria import Criterion, Kind
from research.distributions import Categorical, DiagGaussian
from research.inner_loops import InnerLoopConfig
from research.inner_loops.base import Linearized
from research.losses import PolicyBatch, mean_entropy, mean_weights, ratio_rows
from research.optim.flat import flatten
from research.per_task import per_task
from research.policies.mlp_kernel import Kept, fisher_product, forward, gradient, serves, value
from research.policies.mlp_network import Network, Vectors, network_of
from research.types import MetaParams, Params


class CompiledPart(NamedTuple):
    """Objective of some tasks: θ → θ_i by the inner loop, θ_i → action distributions by a compiled perceptron.

    Attributes:
        config: Says which tensors are meta-learned.
        network: The policy.
        meta: θ, and the parameters of the inner update rule.
        adaptation: θ → θ_i, linearised.
        adapt: θ → θ_i, at other parameters.
        theta: θ_i, `[tasks, parameters]`.
        inputs: Observations of the query episodes.
        loss: The surrogate loss on them.
        divergence: The KL divergence from the current distributions, whose output it holds.
        valid: Whether each step is valid.
        kept: The blocks of the forward pass at θ_i.
    """

    config: InnerLoopConfig
    network: Network
    meta: MetaParams
    adaptation: Linearized
    adapt: Callable[..., Params]
    theta: Vectors
    inputs: Tensor
    loss: Criterion
    divergence: Criterion
    valid: Tensor
    kept: Kept | None

    def loss_and_gradient(self) -> tuple[Tensor, Tensor]:
        """Returns f at the current parameters, and its gradient as a flat vector."""
        found = gradient(self.network, self.theta, self.inputs, self.loss)
        return found.value.sum(), self._pulled(found.gradient)

    def fisher_product(self, tangent: Params) -> Tensor:
        """Returns JᵀMJ · tangent at the current parameters as a flat vector."""
        constants = {name: torch.zeros_like(rates) for name, rates in self.meta.update.items()}
        moved = self.adaptation.jvp(replaced(MetaParams(self.meta.model, constants), tangent))
        vectors, weight = self.network.flat(moved, batch_axes=1), self.divergence.weight
        return self._pulled(fisher_product(self.network, self.theta, self.inputs, weight, vectors, self.kept))

    def loss_and_kl(self, params: Params) -> tuple[Tensor, Tensor]:
        """Returns f and D at other parameters."""
        theta = self.network.flat(self.adapt(*replaced(self.meta, params)), batch_axes=1)
        outputs, _ = forward(self.network, theta, self.inputs)
        loss, kl = (value(self.network, theta, outputs, each) for each in (self.loss, self.divergence))
        return loss.sum(), kl.sum()

    def entropy(self) -> Tensor:
        """Returns the entropy of the current distributions in nats."""
        mean, log_std = self.divergence.old, self.divergence.old_log_std
        assert mean is not None
        shape = mean.shape
        now: Any = Categorical(mean) if log_std is None else DiagGaussian(mean, log_std.unsqueeze(1).expand(shape))
        return per_task(mean_entropy, now, self.valid, vmapped=True).sum()

    def _pulled(self, cotangents: Vectors) -> Tensor:
        return flatten(learned(self.adaptation.vjp(self.network.named(cotangents)), self.config).values())


def compiled_part(
    config: InnerLoopConfig,
    policy: nn.Module,
    meta: MetaParams,
    adaptation: Linearized,
    adapt: Callable[..., Params],
    query: PolicyBatch,
) -> CompiledPart | None:
    """Returns the objective of some tasks, or None if the policy is no perceptron that the compiled functions take.

    Args:
        config: The settings.
        policy: The policy.
        meta: The current parameters.
        adaptation: The inner loop, linearised there.
        adapt: `adapt(params, update)` is the inner loop at other parameters.
        query: The episodes after adaptation.
    """
    network = network_of(policy)
    if network is None or not serves(network, adaptation.adapted):
        return None
    theta = network.flat(adaptation.adapted, batch_axes=1)
    inputs, loss = ratio_rows(query)
    outputs, kept = forward(network, theta, inputs, keep=True)
    log_std = adaptation.adapted[network.log_std].clamp_min(network.min_log_std) if network.log_std else None
    weights, valid = mean_weights(query.valid, query.advantage), query.valid.flatten(1)
    divergence = Criterion(Kind.KL, weights, old=outputs, old_log_std=log_std)
    return CompiledPart(
        config, network, meta, adaptation, adapt, theta, inputs.contiguous(), loss, divergence, valid, kept
    )
