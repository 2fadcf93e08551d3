"""Conjugate gradient and the trust-region step against explicit matrices."""

import dataclasses
import math

import pytest
import torch

from research.algorithms.gradient.maml_trpo import MAMLTRPOConfig
from research.algorithms.memory.config import RL2Config
from research.optim.trust_region import Problem, TrustRegionConfig, conjugate_gradient, trust_region_step

SETTINGS = TrustRegionConfig(
    max_kl=0.01, cg_iterations=20, cg_damping=0.0, line_search_steps=10, line_search_shrink=0.5
)


def spd(size, seed=0):
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)


def quadratic(matrix, fisher, start):
    """f(s) = ½ (x+s)ᵀ A (x+s) and D(s) = ½ sᵀ F s: both are what a trust-region method takes them for."""

    def loss(step):
        point = start + step
        return float(0.5 * point @ matrix @ point)

    return Problem(
        loss(torch.zeros_like(start)),
        matrix @ start,
        lambda vector: fisher @ vector,
        lambda step: (loss(step), (1 - 1e-9) * float(0.5 * step @ fisher @ step)),  # no rounding beyond the edge
    )


def test_conjugate_gradient_solves_in_as_many_iterations_as_dimensions():
    matrix, target = spd(8), torch.arange(1.0, 9.0, dtype=torch.float64)
    solution, residual = conjugate_gradient(lambda v: matrix @ v, target, iterations=8, tolerance=0.0)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, target), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(residual, target - matrix @ solution, rtol=0, atol=1e-8)


def test_conjugate_gradient_stops_early_and_its_residual_is_true():
    matrix, target = spd(8), torch.ones(8, dtype=torch.float64)
    products = []

    def product(vector):
        products.append(vector)
        return matrix @ vector

    solution, residual = conjugate_gradient(product, target, iterations=3)
    assert len(products) == 3
    torch.testing.assert_close(residual, target - matrix @ solution)
    conjugate_gradient(product, torch.zeros(8, dtype=torch.float64), iterations=3)
    assert len(products) == 3, "a zero target needs no product"


def test_full_step_is_the_natural_gradient_at_the_edge_of_the_region():
    fisher, start = spd(5, 1), torch.ones(5, dtype=torch.float64)
    problem = quadratic(torch.eye(5, dtype=torch.float64), fisher, start)
    result = trust_region_step(problem, SETTINGS)
    direction = torch.linalg.solve(fisher, problem.gradient)
    expected = -direction * math.sqrt(2 * 0.01 / float(direction @ fisher @ direction))
    assert result.accepted and result.backtracks == 0
    torch.testing.assert_close(result.step, expected, rtol=1e-6, atol=1e-9)
    assert result.kl == pytest.approx(0.01, rel=1e-6)
    assert result.expected_improvement == pytest.approx(float(-problem.gradient @ expected), rel=1e-6)


def test_damping_is_added_to_the_diagonal():
    fisher, start = spd(5, 1), torch.ones(5, dtype=torch.float64)
    problem = quadratic(torch.eye(5, dtype=torch.float64), fisher, start)
    result = trust_region_step(problem, dataclasses.replace(SETTINGS, cg_damping=3.0))
    direction = torch.linalg.solve(fisher + 3.0 * torch.eye(5, dtype=torch.float64), problem.gradient)
    assert torch.cosine_similarity(-direction, result.step, dim=0) == pytest.approx(1.0, abs=1e-9)


def test_line_search_backtracks_until_both_conditions_hold():
    problem = quadratic(torch.eye(3, dtype=torch.float64), spd(3), torch.ones(3, dtype=torch.float64))
    tried = []

    def evaluate(step):
        loss, kl = problem.evaluate(step)
        tried.append(step)
        return loss, kl * (5.0 if len(tried) < 3 else 1.0)  # the divergence grows faster than its Hessian says

    result = trust_region_step(problem._replace(evaluate=evaluate), SETTINGS)
    assert result.accepted and result.backtracks == 2
    torch.testing.assert_close(result.step, tried[0] * 0.25)


@pytest.mark.parametrize("bad", [(math.inf, 0.0), (-1.0, 1.0), (math.nan, 0.0), (-1.0, math.nan)])
def test_no_step_when_the_line_search_fails(bad):
    problem = quadratic(torch.eye(3, dtype=torch.float64), spd(3), torch.ones(3, dtype=torch.float64))
    result = trust_region_step(problem._replace(evaluate=lambda step: bad), SETTINGS)
    assert not result.accepted
    assert torch.equal(result.step, torch.zeros(3, dtype=torch.float64))
    assert result.loss == problem.loss and result.kl == 0.0 and result.backtracks == 10


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_no_step_without_a_usable_gradient(value):
    problem = quadratic(torch.eye(3, dtype=torch.float64), spd(3), torch.ones(3, dtype=torch.float64))
    problem = problem._replace(gradient=torch.full((3,), value, dtype=torch.float64))
    result = trust_region_step(problem, SETTINGS)
    assert not result.accepted and torch.equal(result.step, torch.zeros(3, dtype=torch.float64))
    assert result.cg_residual is None if value == 0 else math.isnan(result.cg_residual)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(max_kl=0.0), "max_kl=0.0: need a value above 0"),
        (dict(cg_iterations=0), "cg_iterations=0: need at least 1"),
        (dict(cg_damping=-1.0), "cg_damping=-1.0: need at least 0"),
        (dict(line_search_steps=0), "line_search_steps=0: need at least 1"),
        (dict(line_search_shrink=1.0), "line_search_shrink=1.0: need a value between 0 and 1"),
    ],
)
@pytest.mark.parametrize("kind", [TrustRegionConfig, MAMLTRPOConfig, RL2Config])
def test_impossible_settings_are_refused_by_every_algorithm_that_has_them(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**change)
