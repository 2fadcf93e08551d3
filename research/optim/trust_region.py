"""One step of a trust-region method: conjugate gradient, then a backtracking line search. Knows no RL.

    minimise f(x + s)  subject to  D(x + s) ≤ δ,   D(x) = 0 with gradient 0 and Hessian F there
    s* = −F⁻¹g · √(2δ / gᵀF⁻¹g), shortened until f decreases and D ≤ δ

Schulman et al. 2015, arXiv:1502.05477, appendix C.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from research.validation import at_least, in_open_unit_interval, positive

Vector = Float[Tensor, " n"]


@dataclass(frozen=True)
class TrustRegionConfig:
    """Settings of a trust-region step.

    Attributes:
        max_kl: δ, the size of the trust region: mean KL divergence in nats.
        cg_iterations: Conjugate-gradient iterations, each with one Fisher-vector product.
        cg_damping: Added to the diagonal of the Fisher matrix.
        line_search_steps: Step lengths that the line search tries, the full step first.
        line_search_shrink: Factor from each step length to the next, between 0 and 1.
    """

    max_kl: float = 0.01
    cg_iterations: int = 10
    cg_damping: float = 1e-5
    line_search_steps: int = 15
    line_search_shrink: float = 0.8

    def __post_init__(self) -> None:
        positive(self, "max_kl")
        at_least(self, 1, "cg_iterations", "line_search_steps")
        at_least(self, 0, "cg_damping")
        in_open_unit_interval(self, "line_search_shrink")


class Problem(NamedTuple):
    """A constrained minimisation, around the current point x.

    Attributes:
        loss: f(x).
        gradient: g = ∇f(x), `[n]`.
        fisher_product: v → F v, with F the Hessian of the divergence D at x.
        evaluate: Step s → (f, D) at x + s.
    """

    loss: float
    gradient: Vector
    fisher_product: Callable[[Vector], Vector]
    evaluate: Callable[[Vector], tuple[float, float]]


class TrustRegionResult(NamedTuple):
    """The step that was taken, and its diagnostics.

    Attributes:
        step: s, `[n]`; 0 if the line search failed.
        accepted: Whether the line search found a step.
        loss: f(x + s).
        kl: D(x + s).
        expected_improvement: −gᵀs of the full step, the decrease of f to first order.
        cg_residual: ‖F x − g‖ / ‖g‖ after the last iteration of conjugate gradient; None if the gradient is 0.
        backtracks: Number of times that the step was shortened.
    """

    step: Tensor
    accepted: bool
    loss: float
    kl: float
    expected_improvement: float
    cg_residual: float | None
    backtracks: int


def conjugate_gradient(
    product: Callable[[Vector], Vector], target: Vector, iterations: int, tolerance: float = 1e-10
) -> tuple[Vector, Vector]:
    """Returns x with A x ≈ target for a symmetric positive definite A, and the residual target − A x.

    Args:
        product: v → A v.
        target: Right-hand side.
        iterations: Largest number of products.
        tolerance: The iteration stops when the squared residual is at most this times ‖target‖².

    Source: Hestenes & Stiefel 1952, as in Nocedal & Wright 2006, algorithm 5.2.

    Example:
        >>> scale = torch.tensor([1.0, 2.0])
        >>> x, residual = conjugate_gradient(lambda v: scale * v, torch.tensor([3.0, 4.0]), iterations=2)
        >>> x
        tensor([3., 2.])
    """
    x = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    squared = start = target.dot(target)
    for _ in range(iterations):
        if squared <= tolerance * start:
            break
        image = product(direction)
        length = squared / direction.dot(image)
        x = x + length * direction
        residual = residual - length * image
        previous, squared = squared, residual.dot(residual)
        direction = residual + (squared / previous) * direction
    return x, residual


def trust_region_step(problem: Problem, config: TrustRegionConfig) -> TrustRegionResult:
    """Returns the longest of the tried steps that decreases the loss within the trust region; no step if none does.

    Example:
        >>> def evaluate(step):  # f = 3 s₁ + 4 s₂, D = ½ ‖s‖²
        ...     return float(step.dot(torch.tensor([3.0, 4.0]))), float(step.dot(step) / 2)
        >>> problem = Problem(0.0, torch.tensor([3.0, 4.0]), lambda v: v, evaluate)
        >>> result = trust_region_step(problem, TrustRegionConfig(max_kl=0.5, cg_damping=1e-3))
        >>> result.accepted, [round(float(element), 2) for element in result.step]
        (True, [-0.6, -0.8])
    """

    def damped(vector: Tensor) -> Tensor:
        return problem.fisher_product(vector) + config.cg_damping * vector

    direction, residual = conjugate_gradient(damped, problem.gradient, config.cg_iterations)
    norm = float(problem.gradient.norm())
    cg_residual = None if norm == 0 else float(residual.norm()) / norm
    # xᵀ(F + damping)x; (F + damping)x is g minus the residual, without another product.
    curvature = float(direction.dot(problem.gradient - residual))
    none = TrustRegionResult(torch.zeros_like(direction), False, problem.loss, 0.0, 0.0, cg_residual, 0)
    if not curvature > 0:  # the gradient is 0, or a number is NaN
        return none
    full = -direction * (2.0 * config.max_kl / curvature) ** 0.5
    expected = -float(problem.gradient.dot(full))
    for backtracks in range(config.line_search_steps):
        step = full * config.line_search_shrink**backtracks
        loss, kl = problem.evaluate(step)
        if loss < problem.loss and kl <= config.max_kl:  # NaN fails both
            return TrustRegionResult(step, True, loss, kl, expected, cg_residual, backtracks)
    return none._replace(expected_improvement=expected, backtracks=config.line_search_steps)
