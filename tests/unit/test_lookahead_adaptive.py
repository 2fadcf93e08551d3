"""Adaptive Lookahead: α and k against closed forms on quadratics, and what a checkpoint has to carry."""

from __future__ import annotations

import copy
import functools
from typing import Any

import lookahead_battery as battery
import lookahead_problem as problem
import pytest
import torch
from quadratics import best_alpha
from torch import Tensor, nn

from research.optim.adaptive import AdaptiveLookahead
from research.optim.lookahead import Lookahead

ADAPTIVE = functools.partial(AdaptiveLookahead, alpha_lr=0.01, adapt_k=True, k_range=(1, 4))


@pytest.mark.parametrize("base", problem.BASES.values(), ids=problem.BASES)
@pytest.mark.parametrize("check", battery.CHECKS.values(), ids=battery.CHECKS)
def test_off_it_is_lookahead(check: Any, base: problem.Base) -> None:
    check(AdaptiveLookahead, base)


class Quadratic:
    """½ (θ − θ*)ᵀ A (θ − θ*) with A positive definite and several curvatures."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
        self.curvature = root @ root.T / 4 + 0.3 * torch.eye(4, dtype=torch.float64)
        self.optimum = torch.randn(4, generator=generator, dtype=torch.float64)
        self.start = torch.randn(4, generator=generator, dtype=torch.float64)
        self.point = nn.Parameter(self.start.clone())

    def cycle(self, optimizer: Lookahead, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            error = self.point - self.optimum
            (error @ self.curvature @ error / 2).backward()
            optimizer.step()

    def best_alpha(self, k: int, lr: float) -> tuple[float, float]:
        """α* for the d of k steps of gradient descent from the start, and dᵀAd."""
        theta = self.start
        for _ in range(k):
            theta = theta - lr * self.curvature @ (theta - self.optimum)
        move = theta - self.start
        best = best_alpha(self.curvature, self.start - self.optimum, move)
        return float(best), float(move @ self.curvature @ move)


def overshooting() -> tuple[float, int]:
    """A rate at which three steps go beyond the minimum along them, so that α* is within (0, 1)."""
    return 2.05 / float(torch.linalg.eigvalsh(Quadratic().curvature)[-1]), 3


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_alpha_reaches_the_minimum_along_the_move(share: float) -> None:
    """With η = 1/(dᵀAd) in one update, with a part of it by the geometric series: always from the same φ."""
    lr, k = overshooting()
    quadratic = Quadratic()
    best, bend = quadratic.best_alpha(k, lr)
    assert 0.2 < best < 0.9
    optimizer = AdaptiveLookahead(torch.optim.SGD([quadratic.point], lr=lr), k, 0.15, alpha_lr=share / bend)
    group = optimizer.param_groups[0]
    for update in range(1, 90):
        quadratic.cycle(optimizer, k + 1)  # the step after the sync has the gradient at φ
        expected = best + (1 - share) ** update * (0.15 - best)
        assert group["lookahead_alpha"] == pytest.approx(expected, abs=1e-12)
        quadratic.point.data.copy_(quadratic.start)
        optimizer.resync()
    assert group["lookahead_alpha"] == pytest.approx(best, abs=1e-12)


def test_the_hypergradient_is_the_derivative_of_the_loss_in_alpha() -> None:
    """On a net that is no quadratic, with Adam, by central differences."""

    def loss_after_sync(alpha: float) -> float:
        net = problem.Net()
        problem.advance(net, Lookahead(torch.optim.Adam(net.parameters(), lr=0.05), 3, alpha), range(3))
        return net.loss(3).item()

    net = problem.Net()
    optimizer = AdaptiveLookahead(torch.optim.Adam(net.parameters(), lr=0.05), 3, 0.4, alpha_lr=1e-3)
    problem.advance(net, optimizer, range(4))
    slope = (0.4 - optimizer.param_groups[0]["lookahead_alpha"]) / 1e-3
    assert slope == pytest.approx((loss_after_sync(0.4 + 1e-6) - loss_after_sync(0.4 - 1e-6)) / 2e-6, rel=1e-7)


@pytest.mark.parametrize(("alpha", "expected"), [(0.15, 4), (0.95, 2)])
def test_k_grows_short_of_the_minimum_and_shrinks_beyond(alpha: float, expected: int) -> None:
    lr, k = overshooting()
    quadratic = Quadratic()
    optimizer = AdaptiveLookahead(torch.optim.SGD([quadratic.point], lr=lr), k, alpha, adapt_k=True)
    quadratic.cycle(optimizer, k + 1)
    assert optimizer.param_groups[0]["lookahead_k"] == expected
    assert optimizer.param_groups[0]["lookahead_alpha"] == alpha


@pytest.mark.parametrize(("alpha", "end"), [(0.15, 0.6), (0.95, 0.5)])
def test_alpha_stays_in_its_range(alpha: float, end: float) -> None:
    lr, k = overshooting()
    quadratic = Quadratic()
    sgd = torch.optim.SGD([quadratic.point], lr=lr)
    optimizer = AdaptiveLookahead(sgd, k, alpha, alpha_lr=1e6, alpha_range=(0.5, 0.6))
    quadratic.cycle(optimizer, k + 1)
    assert optimizer.param_groups[0]["lookahead_alpha"] == end


def test_each_group_follows_its_own_slope() -> None:
    """A group beside another has the α that it would have alone, where the loss is a sum."""
    alphas = []
    for others in (0, 1):
        near, far = Quadratic(), Quadratic()
        groups = [{"params": [q.point], "lr": lr} for q, lr in ((near, 0.01), (far, 0.3))][: 1 + others]
        optimizer = AdaptiveLookahead(torch.optim.SGD(groups, lr=0.1), 3, 0.5, alpha_lr=0.1)
        for _ in range(4):
            optimizer.zero_grad()
            for q in (near, far):
                error = q.point - q.optimum
                (error @ q.curvature @ error / 2).backward()
            optimizer.step()
        alphas.append([group["lookahead_alpha"] for group in optimizer.param_groups])
    assert alphas[0][0] == alphas[1][0] != alphas[1][1]


def test_with_a_closure_the_first_gradient_counts() -> None:
    """And the same numbers come out."""
    nets = [problem.Net(), problem.Net()]
    optimizers = [ADAPTIVE(torch.optim.SGD(net.parameters(), lr=0.02), 3, 0.4) for net in nets]
    for step in range(10):
        problem.advance(nets[0], optimizers[0], range(step, step + 1))

        def closure(step: int = step) -> Tensor:
            optimizers[1].zero_grad()
            loss = nets[1].loss(step)
            loss.backward()
            return loss

        optimizers[1].step(closure)
    problem.same(problem.values(nets[0]), problem.values(nets[1]))
    assert optimizers[0].param_groups[0]["lookahead_alpha"] == optimizers[1].param_groups[0]["lookahead_alpha"] != 0.4


def test_a_checkpoint_goes_on() -> None:
    """Between a sync and the next step, too, when the hypergradient is yet to come."""
    battery.a_checkpoint_goes_on(ADAPTIVE, problem.BASES["adam"])


def test_a_copy_goes_on() -> None:
    net = problem.Net()
    optimizer = ADAPTIVE(torch.optim.Adam(net.parameters(), lr=0.05), 2, 0.4)
    problem.advance(net, optimizer, range(2))
    other, following = copy.deepcopy((net, optimizer))
    problem.advance(net, optimizer, range(2, 9))
    problem.advance(other, following, range(2, 9))
    problem.same(problem.values(net), problem.values(other))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha_lr": -1.0}, "alpha_lr=-1.0: need at least 0"),
        ({"alpha_range": (0.0, 1.0)}, r"alpha_range=\(0.0, 1.0\): need both ends above 0, at most 1"),
        ({"alpha_range": (0.9, 0.1)}, r"alpha_range=\(0.9, 0.1\): need the lower end first"),
        ({"k_range": (0, 5)}, r"k_range=\(0, 5\): need whole numbers of steps, at least 1"),
        ({"k_range": (1, 2.5)}, r"k_range=\(1, 2.5\): need whole numbers"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveLookahead(torch.optim.SGD(problem.Net().parameters(), lr=0.1), **settings)
