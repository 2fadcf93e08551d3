"""The trust-region step of a meta-learner on the action distributions of its policy (Schulman et al. 2015).

    f(θ) = mean of −π_θ(a|s) / π_old(a|s) · A,   D(θ) = mean of KL(π_old ‖ π_θ)        on episodes that π_old sampled
    θ ← the step of `research.optim.trust_region` on f with D ≤ max_kl

θ are the meta-learned parameters, π_θ is the policy that follows from them: after adaptation by gradient steps
(MAML-TRPO), or through the state of a recurrent network (RL²). At the current θ both D and ∇D are 0, so the Hessian of
D is exactly the mean of JᵀMJ: J is the derivative of the distributions' parameters in θ, and M their Fisher
information. No derivative of J is needed. The episodes are treated in parts, each on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from research.distributed import ALONE, Ranks
from research.losses import PolicyBatch, mean_entropy, mean_kl, surrogate
from research.optim.flat import flatten, unflatten
from research.optim.linear_map import LinearMap
from research.optim.trust_region import Problem, TrustRegionConfig, trust_region_step
from research.parallel import parallel_map
from research.types import Metrics, Params


class Part(Protocol):
    """A part of the episodes. What it returns is its contribution to means over all, times their divisor `count`."""

    def loss_and_gradient(self) -> tuple[Tensor, Tensor]:
        """Returns f at the current parameters, and its gradient as a flat vector."""

    def fisher_product(self, tangent: Params) -> Tensor:
        """Returns JᵀMJ · tangent at the current parameters as a flat vector."""

    def loss_and_kl(self, params: Params) -> tuple[Tensor, Tensor]:
        """Returns f and D at other parameters."""

    def entropy(self) -> Tensor:
        """Returns the entropy of the current distributions in nats."""


class LinearizedPart(NamedTuple):
    """A part of the episodes whose action distributions are any differentiable function of the parameters.

    Attributes:
        batch: The episodes.
        weights: The weight of each step in the mean KL divergence, of the shape of `batch.valid`.
        distributions: Parameters → distributions, linearised at the current parameters.
        respond: Parameters → distributions, at other parameters.
        add_up: `add_up(function, *trees)` is the contribution of this part to the mean of `function` over all episodes,
            times `TrustRegionObjective.count`.
    """

    batch: PolicyBatch
    weights: Tensor
    distributions: LinearMap
    respond: Callable[[Params], Any]
    add_up: Callable[..., Tensor]

    def loss_and_gradient(self) -> tuple[Tensor, Tensor]:
        """Returns f at the current parameters, and its gradient as a flat vector."""
        distributions = pytree.tree_map(lambda leaf: leaf.detach().requires_grad_(), self.distributions.value)
        with torch.enable_grad():
            loss = self.add_up(surrogate, distributions, self.batch)
            cotangent = type(distributions)(*torch.autograd.grad(loss, list(distributions)))
        return loss.detach(), flatten(self.distributions.vjp(cotangent).values())

    def fisher_product(self, tangent: Params) -> Tensor:
        """Returns JᵀMJ · tangent at the current parameters as a flat vector."""
        direction = self.distributions.value.fisher(self.distributions.jvp(tangent))
        weights = self.weights.unsqueeze(-1)
        cotangent = pytree.tree_map(lambda leaf: leaf * weights.to(leaf.dtype), direction)
        return flatten(self.distributions.vjp(cotangent).values())

    def loss_and_kl(self, params: Params) -> tuple[Tensor, Tensor]:
        """Returns f and D at other parameters."""
        new = self.respond(params)
        kl = self.add_up(mean_kl, self.distributions.value, new, self.batch.valid)
        return self.add_up(surrogate, new, self.batch), kl

    def entropy(self) -> Tensor:
        """Returns the entropy of the current distributions in nats."""
        return self.add_up(mean_entropy, self.distributions.value, self.batch.valid)


class TrustRegionObjective:
    """f and D around the current parameters, as functions of a step in their flat vector.

    Args:
        params: The current parameters.
        parts: The episodes. A rank has those of its share of the tasks; sums go over all ranks, in the order of tasks.
        count: Divisor of the sums over all parts: the number of tasks if each part adds up means of tasks.
        ranks: The processes among which the tasks are shared.
        num_threads: Threads over the parts.
    """

    def __init__(
        self, params: Params, parts: Sequence[Part], count: int = 1, ranks: Ranks = ALONE, num_threads: int = 1
    ):
        self.params, self.parts, self.count, self.ranks, self.num_threads = params, parts, count, ranks, num_threads

    def problem(self) -> Problem:
        """Returns the minimisation that `trust_region_step` solves."""
        loss, gradient = self._mean(lambda part: part.loss_and_gradient())
        return Problem(float(loss), gradient, self.fisher_product, self.evaluate)

    def fisher_product(self, vector: Tensor) -> Tensor:
        """Returns the mean of JᵀMJ · vector, the Hessian of D times a vector, `[parameters]`."""
        tangent = unflatten(vector, self.params)
        (product,) = self._mean(lambda part: (part.fisher_product(tangent),))
        return product

    @torch.no_grad()
    def evaluate(self, step: Tensor) -> tuple[float, float]:
        """Returns f and D after a step."""
        params = self.moved(step)
        both = torch.stack(self._mean(lambda part: part.loss_and_kl(params)))
        loss, kl = both.tolist()  # at once: on a GPU, the host waits for each copy
        return loss, kl

    def moved(self, step: Tensor) -> Params:
        """Returns the parameters after a step."""
        return {name: self.params[name] + change for name, change in unflatten(step, self.params).items()}

    def entropy(self) -> float:
        """Returns the mean entropy of the current distributions in nats."""
        parts = [(part.entropy(),) for part in self.parts]
        return float(self.ranks.sum(parts)[0] / self.count)

    def _mean(self, function: Callable[[Part], tuple[Tensor, ...]]) -> list[Tensor]:
        sums = self.ranks.sum(parallel_map(function, self.parts, self.num_threads))
        return [total / self.count for total in sums]


def trust_region_update(objective: TrustRegionObjective, config: TrustRegionConfig) -> tuple[Params, Metrics]:
    """Returns the parameters after a trust-region step, which are the current ones if none was found, and metrics."""
    problem = objective.problem()
    result = trust_region_step(problem, config)
    metrics = {
        "kl": result.kl,
        "loss_before": problem.loss,
        "loss_after": result.loss,
        "expected_improvement": result.expected_improvement,
        "gradient_norm": float(problem.gradient.norm()),
        "step_norm": float(result.step.norm()),
        "step_accepted": float(result.accepted),
        "line_search_backtracks": float(result.backtracks),
    }
    if result.cg_residual is not None:
        metrics["cg_residual"] = result.cg_residual
    return objective.moved(result.step) if result.accepted else objective.params, metrics
