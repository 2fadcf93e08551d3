"""First-order MAML for policies: the gradient after adaptation, applied to the parameters before it.

    repeat
        sample tasks T_1..T_B
        for each task: θ_i ← θ
            for k = 1..K: D_ik ← episodes of π_θi;  θ_i ← θ_i − α ∇L(θ_i; D_ik)      L = −mean(log π · A)
            D_i ← episodes of π_θi
        θ ← Adam(θ, 1/B Σ_i ∇L(θ_i; D_i)),  or θ − meta_lr · that                    each ∇ taken at θ_i, not through it

Finn, Abbeel & Levine 2017, arXiv:1703.03400, section 5.2; Nichol, Achiam & Schulman 2018, arXiv:1803.02999, section 2.
It is MAML with the identity for ∂θ_i/∂θ, so that no second derivative is computed, and no estimator of one is needed.

Differs from the papers: nothing. `maml_trpo` and `maml_ppo` with `first_order=True` are first-order MAML with a trust
region or clipped epochs as the outer loop. They can also learn the inner rates, which have no gradient here.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from research.algorithms.gradient.agent import AgentConfig, respond
from research.algorithms.gradient.compiled_objective import distributions
from research.algorithms.gradient.evaluation import AgentAlgorithm
from research.algorithms.outer import clip_norm, refuse_learned_update
from research.inner_loops.supported import vmappable
from research.losses import PolicyBatch, log_prob_rows, mean_entropy, reinforce
from research.optim.differentiable import UPDATE_RULES, AdamState, SGDState, adam_start
from research.optim.flat import distance
from research.per_task import per_task
from research.policies.mlp_kernel import gradient, serves
from research.policies.mlp_network import network_of
from research.types import MetaParams, Params, StepResult
from research.validation import at_least, positive


@dataclass(frozen=True)
class FOMAMLConfig(AgentConfig):
    """Settings of first-order MAML, in addition to those of the agent.

    Attributes:
        meta_optimizer: Optimiser of the meta-parameters: `"adam"` or `"sgd"`.
        meta_lr: Its step size.
        max_grad_norm: Longer meta-gradients are scaled down to this norm; 0 for no limit.
    """

    first_order: bool = True
    meta_optimizer: Literal["adam", "sgd"] = "adam"
    meta_lr: float = 1e-2
    max_grad_norm: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "meta_lr")
        at_least(self, 0, "max_grad_norm")
        refuse_learned_update(self, "FOMAML")
        if not self.first_order:
            raise ValueError("first_order=False: FOMAML is first order, need True; maml_ppo and maml_trpo are not")


class FOMAMLState(NamedTuple):
    """The state of a training run: finished iterations, the meta-parameters, and the state of the meta-optimiser."""

    iteration: int
    meta: MetaParams
    optimizer: AdamState | SGDState


class FOMAML(AgentAlgorithm[FOMAMLConfig]):
    """First-order MAML, see the module."""

    Config: ClassVar[type] = FOMAMLConfig

    def init(self) -> FOMAMLState:
        """Returns the state before the first iteration."""
        meta = self.agent.init()
        return FOMAMLState(0, meta, adam_start(meta.model) if self.config.meta_optimizer == "adam" else SGDState({}))

    def step(self, state: FOMAMLState) -> StepResult:
        """Returns the state after one step along the mean of the gradients at the adapted parameters, and metrics."""
        config, before = self.config, state.meta.model
        sampled = self.agent.sample(state.meta, state.iteration)
        start = time.perf_counter()
        adapted = self.agent.adapt(state.meta, sampled.batches, self.agent.share.size)
        gradient, entropy = self._gradient(adapted, sampled.query)
        gradient, length = clip_norm(gradient, config.max_grad_norm)
        model, optimizer = UPDATE_RULES[config.meta_optimizer](before, gradient, state.optimizer, config.meta_lr)
        metrics = sampled.metrics | {
            "gradient_norm": length,
            "step_norm": distance(model, before),
            "entropy_post": entropy,
            "time/update_seconds": time.perf_counter() - start,
        }
        return StepResult(FOMAMLState(state.iteration + 1, state.meta._replace(model=model), optimizer), metrics)

    def _gradient(self, adapted: Params, query: PolicyBatch) -> tuple[Params, float]:
        """Returns the means over tasks of ∇L(θ_i; D_i) and of the entropy of π_θi on D_i."""
        total, entropy = self.agent.ranks.sum(self.agent.map_chunks(_gradient_of_chunk, [query], adapted))
        tasks = self.agent.share.total
        return {name: value / tasks for name, value in total.items()}, entropy / tasks


def _gradient_of_chunk(policy: nn.Module, batches: list[PolicyBatch], adapted: Params) -> tuple[Params, float]:
    """Returns the sums over the tasks of a chunk."""
    (query,) = batches
    network = network_of(policy)
    if network is None or not serves(network, adapted):
        return _recorded_gradient_of_chunk(policy, query, adapted)
    inputs, criterion = log_prob_rows(query)
    theta = network.flat(adapted, batch_axes=1)
    total = gradient(network, theta, inputs, criterion).gradient.sum(0)
    entropy = per_task(
        mean_entropy, distributions(network, theta, inputs, query.valid.shape), query.valid, vmapped=True
    )
    return network.named(total), float(entropy.sum())


def _recorded_gradient_of_chunk(policy: nn.Module, query: PolicyBatch, adapted: Params) -> tuple[Params, float]:
    """Returns the same by autograd."""
    leaves = {name: value.detach().requires_grad_() for name, value in adapted.items()}  # ∇ at θ_i, not through it

    def loss(params: Params, batch: PolicyBatch) -> Tensor:
        return reinforce(functools.partial(functional_call, policy, params), batch)

    with torch.enable_grad():
        total = per_task(loss, leaves, query, vmapped=vmappable(policy)).sum()
    gradient = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        responses = respond(policy, adapted, query.observation)
        entropy = per_task(mean_entropy, responses, query.valid, vmapped=True)
    return {name: value.sum(0) for name, value in zip(leaves, gradient, strict=True)}, float(entropy.sum())
