"""The optimiser on quadratics against the closed forms, and the closed forms against simulation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from quadratics import best_alpha, contraction, heavy_ball_cycle, sgd_variance, variance_ratio
from torch import Tensor, nn

from research.optim import Lookahead

CURVATURE = torch.tensor([0.1, 0.7, 1.0, 3.0, 9.0], dtype=torch.float64)
START = torch.tensor([1.0, -2.0, 0.5, 1.5, -0.3], dtype=torch.float64)
LR = 0.11
CYCLES = 6
SETTINGS = [(1, 0.5), (5, 0.5), (5, 0.8), (3, 1.0), (10, 0.2)]


def errors_after_cycles(k: int, alpha: float, inner_state: Any, **settings: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Errors and momentum buffers after each cycle, by the optimiser."""
    error = nn.Parameter(START.clone())
    optimizer = Lookahead(torch.optim.SGD([error], lr=LR, **settings), k, alpha, inner_state)
    errors, buffers = [], []
    for _ in range(CYCLES):
        for _ in range(k):
            error.grad = CURVATURE * error.detach()
            optimizer.step()
        errors.append(error.detach().clone())
        buffer = optimizer.state.get(error, {}).get("momentum_buffer")
        buffers.append(torch.zeros_like(START) if buffer is None else buffer.clone())
    return errors, buffers


@pytest.mark.parametrize(("k", "alpha"), SETTINGS)
def test_gradient_descent_contracts_as_it_should(k: int, alpha: float) -> None:
    rate = contraction(CURVATURE, LR, k, alpha)
    errors, _ = errors_after_cycles(k, alpha, "maintain")
    for cycle, error in enumerate(errors, 1):
        torch.testing.assert_close(error, rate**cycle * START, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("inner_state", ["maintain", "reset", "pullback"])
@pytest.mark.parametrize(("k", "alpha"), SETTINGS)
def test_momentum_is_the_linear_map(k: int, alpha: float, inner_state: Any) -> None:
    cycle = heavy_ball_cycle(CURVATURE, LR, 0.6, k, alpha, inner_state)
    pair = torch.stack([START, torch.zeros_like(START)], -1)
    for error, buffer in zip(*errors_after_cycles(k, alpha, inner_state, momentum=0.6), strict=True):
        pair = torch.einsum("dij,dj->di", cycle, pair)
        torch.testing.assert_close(error, pair[:, 0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(buffer, pair[:, 1], rtol=1e-12, atol=1e-12)


def test_without_momentum_the_map_is_the_contraction() -> None:
    for inner_state in ("maintain", "reset", "pullback"):
        cycle = heavy_ball_cycle(CURVATURE, LR, 0.0, 4, 0.3, inner_state)
        torch.testing.assert_close(cycle[:, 0, 0], contraction(CURVATURE, LR, 4, 0.3), rtol=1e-14, atol=0)
        assert (cycle[:, 0, 1] == 0).all()


@pytest.mark.thorough
@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (2, 0.8), (10, 0.3)])
def test_noise_is_averaged_away_as_it_should(k: int, alpha: float) -> None:
    """Variance over independent runs and late cycles, within four standard errors of it."""
    lr, runs, cycles, kept = 0.3, 40_000, 60, 12
    generator = torch.Generator().manual_seed(7)
    curvature = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    theta = nn.Parameter(torch.zeros(runs, 3, dtype=torch.float64))
    optimizer = Lookahead(torch.optim.SGD([theta], lr=lr), k, alpha)
    samples = []
    for cycle in range(cycles):
        for _ in range(k):
            centre = torch.randn(theta.shape, generator=generator, dtype=torch.float64)
            theta.grad = curvature * (theta.detach() - centre)
            optimizer.step()
        if cycle >= cycles - kept:
            samples.append(theta.detach().square().mean(0))
    measured = torch.stack(samples).mean(0)
    expected = variance_ratio(curvature, lr, k, alpha) * sgd_variance(curvature, lr, 1.0)
    # A mean square of n normals deviates by √(2/n); late cycles are correlated, so only one of them is counted.
    assert ((measured / expected - 1).abs() < 4 * (2 / runs) ** 0.5).all()


def test_the_ratio_is_one_for_the_base_and_below_it_for_lookahead() -> None:
    slow = torch.linspace(0.05, 1.9, 38, dtype=torch.float64)
    torch.testing.assert_close(variance_ratio(slow, 1.0, 5, 1.0), torch.ones_like(slow), rtol=1e-14, atol=0)
    for alpha in (0.1, 0.5, 0.9):
        assert (variance_ratio(slow, 1.0, 5, alpha) < 1).all()


def test_the_best_alpha_has_the_least_loss() -> None:
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64)
    curvature = root @ root.mT + 0.1 * torch.eye(4, dtype=torch.float64)
    error, move = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)

    def loss(alpha: Tensor) -> Tensor:
        at = error + alpha.unsqueeze(-1) * move
        return torch.einsum("bi,bij,bj->b", at, curvature, at) / 2

    alpha = best_alpha(curvature, error, move).requires_grad_()
    (slope,) = torch.autograd.grad(loss(alpha).sum(), alpha)
    torch.testing.assert_close(slope, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="k=0: need at least 1"):
        contraction(CURVATURE, LR, 0, 0.5)
    with pytest.raises(ValueError, match="inner_state='keep': need one of"):
        heavy_ball_cycle(CURVATURE, LR, 0.5, 5, 0.5, "keep")  # type: ignore[arg-type]
