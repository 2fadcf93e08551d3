"""MAML-TRPO: meta-learn initial policy parameters from which a few policy-gradient steps solve a new task.

    repeat
        sample tasks T_1..T_B
        for each task: θ_i ← θ
            for k = 1..K: D_ik ← episodes of π_θi;  θ_i ← θ_i − α ∇L(θ_i; D_ik)      L = −mean(log π · A)
            D_i ← episodes of π_θi
        f(θ) = 1/B Σ_i surrogate(θ_i(θ); D_i),   D(θ) = 1/B Σ_i mean KL(π_θi,old ‖ π_θi(θ))
        θ ← the trust-region step on f with D ≤ max_kl, differentiating through θ_i(θ)

Finn, Abbeel & Levine 2017, arXiv:1703.03400, algorithm 3, with TRPO (Schulman et al. 2015, arXiv:1502.05477) outside.

At the current iterate D = 0 and ∇D = 0, so its Hessian through the adaptation is exactly 1/B Σ JᵀF J, with J = ∂θ_i/∂θ
and F the Fisher information of the adapted policy on its own episodes: no third derivatives appear.

Differs from the paper: nothing in the objective. Products with the Fisher matrix use the identity above with one
linearisation for each task in place of finite differences. The value baseline bootstraps the last observation of
truncated episodes. Inner learning rates can be learned along (Meta-SGD); the inner loop can be first order (FOMAML).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from research.algorithms.gradient.agent import Agent, AgentConfig, Sampled, inner_loss, respond
from research.distributed import ALONE, Ranks
from research.evaluation import AdaptationCurve
from research.inner_loops import Linearized
from research.losses import PolicyBatch, mean_kl, surrogate
from research.optim import linear_map
from research.optim.trust_region import Problem, TrustRegionResult, trust_region_step
from research.parallel import parallel_map
from research.per_task import per_task
from research.returns import masked_mean
from research.types import MetaParams, Metrics, StepResult
from research.validation import at_least, in_open_unit_interval, positive


@dataclass(frozen=True)
class MAMLTRPOConfig(AgentConfig):
    """Settings of MAML-TRPO, beside those of the agent.

    Attributes:
        max_kl: Size of the trust region: mean KL divergence of the adapted policies, in nats.
        cg_iterations: Conjugate-gradient iterations.
        cg_damping: Added to the diagonal of the Fisher matrix.
        line_search_steps: Step lengths that the line search tries.
        line_search_shrink: Each is this much of the one before.
    """

    max_kl: float = 0.01
    cg_iterations: int = 10
    cg_damping: float = 1e-5
    line_search_steps: int = 15
    line_search_shrink: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "max_kl")
        at_least(self, 1, "cg_iterations", "line_search_steps")
        at_least(self, 0, "cg_damping")
        in_open_unit_interval(self, "line_search_shrink")


class State(NamedTuple):
    """Everything that training carries from one iteration to the next."""

    iteration: int
    meta: MetaParams


class MAMLTRPO:
    """The algorithm. See the module."""

    Config: ClassVar[type] = MAMLTRPOConfig

    def __init__(self, config: MAMLTRPOConfig, ranks: Ranks = ALONE):
        self.config = config
        self.agent = Agent(config, ranks)

    def init(self) -> State:
        """The state before the first iteration."""
        return State(0, self.agent.init())

    def step(self, state: State) -> StepResult:
        """One meta-iteration: sample, then a trust-region step through the adaptation."""
        sampled = self.agent.sample(state.meta, state.iteration)
        start = time.perf_counter()
        objective = Objective(self.agent, state.meta, sampled)
        config = self.config
        problem = objective.problem()
        result = trust_region_step(
            problem,
            max_kl=config.max_kl,
            cg_iterations=config.cg_iterations,
            cg_damping=config.cg_damping,
            line_search_steps=config.line_search_steps,
            line_search_shrink=config.line_search_shrink,
        )
        meta = objective.moved(result.step) if result.accepted else state.meta
        metrics = sampled.metrics | _metrics(problem, result) | {"entropy_post": objective.entropy()}
        metrics["time/update_seconds"] = time.perf_counter() - start
        return StepResult(State(state.iteration + 1, meta), metrics)

    def evaluate(self, state: State, num_tasks: int, num_adapt_steps: int) -> AdaptationCurve:
        """Returns on held-out tasks after 0, 1, ... gradient steps."""
        return self.agent.evaluate(state.meta, num_tasks, num_adapt_steps)


class _Chunk(NamedTuple):
    """Some tasks at the current iterate: θ → θ_i → action distributions on the query episodes."""

    batches: list[PolicyBatch]
    query: PolicyBatch
    inner: Linearized
    outer: linear_map.LinearMap


class Objective:
    """f and D around the current iterate, in the flat vector of what is meta-learned.

    Tasks are independent given θ: each chunk of them is treated on a thread of its own, and sums go in task order. A
    rank has the chunks of its share of the tasks, and sums go over all ranks.
    """

    def __init__(self, agent: Agent, meta: MetaParams, sampled: Sampled):
        self.agent = agent
        self.meta = meta
        self.num_tasks = agent.share.total
        self.learned = tuple(name for name in meta.update if agent.inner_loop.config.learns(name))
        self.chunks: list[_Chunk] = self._map(self._linearize, agent.cut([*sampled.batches, sampled.query]))

    def problem(self) -> Problem:
        """The trust-region problem."""
        values = self._map(self._loss_and_gradient, self.chunks)
        loss, gradient = self._mean(values)
        return Problem(float(loss), gradient, self.fisher_product, self.evaluate)

    def fisher_product(self, vector: Tensor) -> Tensor:
        """1/B Σ Jᵀ (∂π/∂θ_i)ᵀ M (∂π/∂θ_i) J · vector, M the information of the distribution in its parameters."""
        tangent = self._unflatten(vector)
        products = self._map(functools.partial(self._fisher_product, tangent), self.chunks)
        (product,) = self._mean([(product,) for product in products])
        return product

    def evaluate(self, step: Tensor) -> tuple[float, float]:
        """f and D after a step."""
        values = self._map(functools.partial(self._evaluate, self.moved(step)), self.chunks)
        loss, kl = self._mean(values)
        return float(loss), float(kl)

    def moved(self, step: Tensor) -> MetaParams:
        """The meta-parameters after a step."""
        change = self._unflatten(step)
        return pytree.tree_map(torch.add, self.meta, change)

    def entropy(self) -> float:
        """Mean entropy of the adapted policies on the query episodes, in nats."""
        entropies = [
            (_sum_over_tasks(lambda d, valid: masked_mean(d.entropy(), valid), chunk.outer.value, chunk.query.valid),)
            for chunk in self.chunks
        ]
        return float(*self._mean(entropies))

    def _linearize(self, batches: list[PolicyBatch]) -> _Chunk:
        policy, (*inner, query) = self.agent.replica(), batches
        adaptation = self.agent.inner_loop.linearize(policy, self.meta, inner_loss, inner)
        responses = linear_map.linearize(lambda at: respond(policy, at, query.observation), adaptation.adapted)
        return _Chunk(inner, query, adaptation, responses)

    def _loss_and_gradient(self, chunk: _Chunk) -> tuple[Tensor, Tensor]:
        distribution = pytree.tree_map(lambda leaf: leaf.detach().requires_grad_(), chunk.outer.value)
        with torch.enable_grad():
            loss = _sum_over_tasks(surrogate, distribution, chunk.query)
            cotangent = type(distribution)(*torch.autograd.grad(loss, list(distribution)))
        return loss.detach(), self._flatten(chunk.inner.vjp(chunk.outer.vjp(cotangent)))

    def _fisher_product(self, tangent: MetaParams, chunk: _Chunk) -> Tensor:
        direction = chunk.outer.jvp(chunk.inner.jvp(tangent))
        cotangent = per_task(_weighted_fisher, chunk.outer.value, direction, chunk.query.valid, vmapped=True)
        return self._flatten(chunk.inner.vjp(chunk.outer.vjp(cotangent)))

    @torch.no_grad()
    def _evaluate(self, meta: MetaParams, chunk: _Chunk) -> tuple[Tensor, Tensor]:
        policy, query = self.agent.replica(), chunk.query
        adapted = self.agent.inner_loop.adapt(policy, meta.model, meta.update, inner_loss, chunk.batches)
        new = respond(policy, adapted, query.observation)
        loss = _sum_over_tasks(surrogate, new, query)
        return loss, _sum_over_tasks(mean_kl, chunk.outer.value, new, query.valid)

    def _flatten(self, meta: MetaParams) -> Tensor:
        leaves = [*meta.model.values(), *(meta.update[name] for name in self.learned)]
        return torch.cat([leaf.flatten() for leaf in leaves])

    def _unflatten(self, vector: Tensor) -> MetaParams:
        """A tangent of the meta-parameters, zero for the constants of the update rule."""
        leaves = [*self.meta.model.values(), *(self.meta.update[name] for name in self.learned)]
        pieces = vector.split([leaf.numel() for leaf in leaves])
        tangents = [piece.view_as(leaf) for piece, leaf in zip(pieces, leaves, strict=True)]
        split = len(self.meta.model)
        constants = {name: torch.zeros_like(value) for name, value in self.meta.update.items()}
        return MetaParams(
            dict(zip(self.meta.model, tangents[:split], strict=True)),
            constants | dict(zip(self.learned, tangents[split:], strict=True)),
        )

    def _mean(self, sums: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
        """The means over all tasks of quantities that were summed over those of each chunk."""
        return [total / self.num_tasks for total in self.agent.ranks.sum(sums)]

    def _map(self, function: Callable[[Any], Any], chunks: list[Any]) -> list[Any]:
        return parallel_map(function, chunks, self.agent.num_threads)


def _sum_over_tasks(function: Callable[..., Tensor], *trees: Any) -> Tensor:
    return per_task(function, *trees, vmapped=True).sum()


def _weighted_fisher(distribution: Any, direction: Any, valid: Tensor) -> Any:
    """M · direction of the mean over valid steps, for one task."""
    weights = (valid / valid.sum().clamp_min(1)).unsqueeze(-1)
    return pytree.tree_map(lambda leaf: leaf * weights.to(leaf.dtype), distribution.fisher(direction))


def _metrics(problem: Problem, result: TrustRegionResult) -> Metrics:
    return {
        "kl": result.kl,
        "loss_before": problem.loss,
        "loss_after": result.loss,
        "expected_improvement": result.expected_improvement,
        "gradient_norm": float(problem.gradient.norm()),
        "cg_residual": result.cg_residual,
        "step_norm": float(result.step.norm()),
        "step_accepted": float(result.accepted),
        "line_search_backtracks": float(result.backtracks),
    }
