"""MAML-TRPO: meta-learn initial policy parameters from which a few policy-gradient steps solve a new task.

    repeat
        sample tasks T_1..T_B
        for each task: θ_i ← θ
            for k = 1..K: D_ik ← episodes of π_θi;  θ_i ← θ_i − α ∇L(θ_i; D_ik)      L = −mean(log π · A)
            D_i ← episodes of π_θi
        f(θ) = 1/B Σ_i surrogate(θ_i(θ); D_i),   D(θ) = 1/B Σ_i mean KL(π_θi,old ‖ π_θi(θ))
        θ ← the trust-region step on f with D ≤ max_kl, differentiating through θ_i(θ)

Finn, Abbeel & Levine 2017, arXiv:1703.03400, algorithm 3, with TRPO (Schulman et al. 2015, arXiv:1502.05477) outside.

At the current θ, D = 0 and ∇D = 0, so that the Hessian of D through the adaptation is exactly 1/B Σ JᵀF J, with
J = ∂θ_i/∂θ and F the Fisher information of the adapted policy on its own episodes: there are no third derivatives.

Differs from the paper: nothing in the objective. Products with the Fisher matrix use the identity above, with one
linearisation for each task, where the authors use finite differences. The value baseline bootstraps from the last
observation of truncated episodes. Inner learning rates can be meta-learned (Meta-SGD).
"""

from __future__ import annotations

import copy
import functools
import time
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from research.algorithms.gradient.agent import Agent, AgentConfig, PolicySamples, inner_loss, respond
from research.algorithms.gradient.compiled import compiled_part
from research.algorithms.gradient.evaluation import AgentAlgorithm
from research.algorithms.outer import learned, replaced
from research.algorithms.trust_region import LinearizedPart, Part, TrustRegionObjective, trust_region_update
from research.losses import PolicyBatch, mean_weights
from research.optim.linear_map import LinearMap, linearize
from research.optim.trust_region import TrustRegionConfig
from research.per_task import per_task
from research.types import MetaParams, Params, StepResult


@dataclass(frozen=True)
class MAMLTRPOConfig(AgentConfig, TrustRegionConfig):
    """Settings of MAML-TRPO: those of the agent, and those of the trust region on its adapted policies."""

    def __post_init__(self) -> None:
        AgentConfig.__post_init__(self)
        TrustRegionConfig.__post_init__(self)


class MAMLTRPOState(NamedTuple):
    """The state of a training run: finished iterations and the meta-parameters."""

    iteration: int
    meta: MetaParams


class MAMLTRPO(AgentAlgorithm[MAMLTRPOConfig]):
    """MAML-TRPO, see the module."""

    Config: ClassVar[type] = MAMLTRPOConfig

    def init(self) -> MAMLTRPOState:
        """Returns the state before the first iteration."""
        return MAMLTRPOState(0, self.agent.init())

    def step(self, state: MAMLTRPOState) -> StepResult:
        """Returns the state after one trust-region step through the adaptation, and metrics."""
        sampled = self.agent.sample(state.meta, state.iteration)
        start = time.perf_counter()
        objective = make_objective(self.agent, state.meta, sampled)
        params, metrics = trust_region_update(objective, self.config)
        metrics |= sampled.metrics | {"entropy_post": objective.entropy()}
        metrics["time/update_seconds"] = time.perf_counter() - start
        return StepResult(MAMLTRPOState(state.iteration + 1, replaced(state.meta, params)), metrics)


def make_objective(agent: Agent, meta: MetaParams, sampled: PolicySamples) -> TrustRegionObjective:
    """Returns the objective on the episodes after adaptation, as a function of the meta-learned tensors."""
    parts = agent.map_chunks(functools.partial(_linearize, agent, meta), [*sampled.batches, sampled.query])
    return TrustRegionObjective(learned(meta, agent.config), parts, agent.share.total, agent.ranks, agent.num_threads)


def _linearize(agent: Agent, meta: MetaParams, policy: nn.Module, batches: list[PolicyBatch]) -> Part:
    """Returns θ → θ_i → action distributions on the query episodes for a chunk of tasks."""
    policy = copy.deepcopy(policy)  # the part goes from thread to thread
    *inner, query = batches
    adaptation = agent.inner_loop.linearize(policy, meta, inner_loss, inner)
    adapt = functools.partial(agent.inner_loop.adapt, policy, loss=inner_loss, batches=inner)
    compiled = compiled_part(agent.config, policy, meta, adaptation, adapt, query)
    if compiled is not None:
        return compiled
    constants = {name: torch.zeros_like(value) for name, value in meta.update.items()}
    responses = linearize(lambda adapted: respond(policy, adapted, query.observation), adaptation.adapted)

    def jvp(tangent: Params) -> Any:
        return responses.jvp(adaptation.jvp(replaced(MetaParams(meta.model, constants), tangent)))

    def vjp(cotangent: Any) -> Params:
        return learned(adaptation.vjp(responses.vjp(cotangent)), agent.config)

    def at(params: Params) -> Any:
        return respond(policy, adapt(*replaced(meta, params)), query.observation)

    weights = mean_weights(query.valid, query.advantage).view(query.valid.shape)
    return LinearizedPart(query, weights, LinearMap(responses.value, jvp, vjp), at, _sum_over_tasks)


def _sum_over_tasks(function: Any, *trees: Any) -> Tensor:
    return per_task(function, *trees, vmapped=True).sum()
