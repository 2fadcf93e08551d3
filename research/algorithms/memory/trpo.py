"""The trust-region step of RL² on whole trials: the problem that `research.optim.trust_region` solves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils import _pytree as pytree

from research.algorithms.memory.recurrent import RecurrentAgent, Steps, minibatches
from research.losses import PolicyBatch, mean_kl, surrogate
from research.optim import linear_map
from research.optim.trust_region import Problem, trust_region_step
from research.parallel import parallel_map
from research.returns import masked_mean
from research.sampling.trials import bind
from research.types import Metrics, Params


def trust_region_update(agent: RecurrentAgent, params: Params, steps: Steps) -> tuple[Params, Metrics]:
    """The parameters after a step on the policy's, and how it went. Those of the value stay."""
    config = agent.config
    objective = Objective(agent, params, steps)
    problem = objective.problem()
    result = trust_region_step(
        problem,
        max_kl=config.max_kl,
        cg_iterations=config.cg_iterations,
        cg_damping=config.cg_damping,
        line_search_steps=config.line_search_steps,
        line_search_shrink=config.line_search_shrink,
    )
    metrics = {
        "kl": result.kl,
        "loss_before": problem.loss,
        "loss_after": result.loss,
        "expected_improvement": result.expected_improvement,
        "gradient_norm": float(problem.gradient.norm()),
        "cg_residual": result.cg_residual,
        "step_accepted": float(result.accepted),
        "line_search_backtracks": float(result.backtracks),
        "entropy": objective.entropy(),
    }
    return objective.moved(result.step) if result.accepted else params, metrics


class _Shard(NamedTuple):
    """Some trials, their share of all valid steps, and θ → action distributions there."""

    steps: Steps
    share: float
    outputs: linear_map.LinearMap


class Objective:
    """−mean ρ A and the mean KL around the current iterate, in the flat vector of the policy's parameters."""

    def __init__(self, agent: RecurrentAgent, params: Params, steps: Steps):
        self.agent, self.params = agent, params
        self.names = tuple(name for name in params if not name.startswith("value_"))
        self.total = int(steps.valid.sum())
        self.shards: list[_Shard] = self._map(self._linearize, minibatches(steps, 1)[0])

    def problem(self) -> Problem:
        """The trust-region problem."""
        values = self._map(self._loss_and_gradient, self.shards)
        loss, gradient = (sum(parts) for parts in zip(*values, strict=True))
        return Problem(float(loss), gradient, self.fisher_product, self.evaluate)

    def fisher_product(self, vector: Tensor) -> Tensor:
        """Jᵀ M J · vector, J = ∂distributions/∂θ and M their information: exactly the Hessian of the mean KL."""
        return sum(self._map(functools.partial(self._fisher_product, self._unflatten(vector)), self.shards))

    @torch.no_grad()
    def evaluate(self, step: Tensor) -> tuple[float, float]:
        """The loss and the KL after a step."""
        values = self._map(functools.partial(self._evaluate, self.moved(step)), self.shards)
        loss, kl = (float(sum(parts)) for parts in zip(*values, strict=True))
        return loss, kl

    def moved(self, step: Tensor) -> Params:
        """The parameters after a step."""
        return self.params | {name: self.params[name] + change for name, change in self._unflatten(step).items()}

    def entropy(self) -> float:
        """Mean entropy in nats, before the step."""
        parts = [s.share * masked_mean(s.outputs.value.entropy(), s.steps.valid) for s in self.shards]
        return float(sum(parts))

    def _linearize(self, steps: Steps) -> _Shard:
        policy = bind(self.agent.policy, self.params)

        def respond(own: Params) -> Any:
            return functional_call(_FromStart(policy), {f"policy.{name}": value for name, value in own.items()}, steps)

        outputs = linear_map.linearize(respond, {name: self.params[name] for name in self.names})
        return _Shard(steps, int(steps.valid.sum()) / self.total, outputs)

    def _loss_and_gradient(self, shard: _Shard) -> tuple[Tensor, Tensor]:
        distribution = pytree.tree_map(lambda leaf: leaf.detach().requires_grad_(), shard.outputs.value)
        with torch.enable_grad():
            loss = shard.share * surrogate(distribution, _batch(shard.steps))
            cotangent = type(distribution)(*torch.autograd.grad(loss, list(distribution)))
        return loss.detach(), self._flatten(shard.outputs.vjp(cotangent))

    def _fisher_product(self, tangent: Params, shard: _Shard) -> Tensor:
        weights = (shard.steps.valid / self.total).unsqueeze(-1)
        direction = shard.outputs.value.fisher(shard.outputs.jvp(tangent))
        cotangent = pytree.tree_map(lambda leaf: leaf * weights.to(leaf.dtype), direction)
        return self._flatten(shard.outputs.vjp(cotangent))

    def _evaluate(self, params: Params, shard: _Shard) -> tuple[Tensor, Tensor]:
        new = _FromStart(bind(self.agent.policy, params))(*shard.steps)
        loss = surrogate(new, _batch(shard.steps))
        return shard.share * loss, shard.share * mean_kl(shard.outputs.value, new, shard.steps.valid)

    def _flatten(self, params: Params) -> Tensor:
        return torch.cat([params[name].flatten() for name in self.names])

    def _unflatten(self, vector: Tensor) -> Params:
        leaves = [self.params[name] for name in self.names]
        pieces = vector.split([leaf.numel() for leaf in leaves])
        return {name: piece.view_as(leaf) for name, leaf, piece in zip(self.names, leaves, pieces, strict=True)}

    def _map(self, function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        return parallel_map(function, items, self.agent.num_threads)


class _FromStart(torch.nn.Module):
    """A policy as the distributions of whole trials, a learned start included."""

    def __init__(self, policy: torch.nn.Module):
        super().__init__()
        self.policy = policy

    def forward(self, inputs: Any, *_others: Tensor) -> Any:
        return self.policy(inputs, self.policy.initial_state(len(inputs.features))).distribution  # type: ignore[operator]


def _batch(steps: Steps) -> PolicyBatch:
    return PolicyBatch(steps.inputs.features, steps.action, steps.advantage, steps.log_prob, steps.valid)
