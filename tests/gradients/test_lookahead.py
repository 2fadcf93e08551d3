"""Differentiable Lookahead: the optimiser's numbers, and derivatives against finite differences and closed forms."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from quadratics import contraction
from torch import Tensor

from research.optim import Lookahead
from research.optim.differentiable import UPDATE_RULES, adam, adamw, sgd
from research.optim.differentiable_lookahead import lookahead

K = 3
INNER_STATES = ["maintain", "reset", "pullback"]
LENGTHS = {"before a sync": 2, "at a sync": 6, "in mid-cycle": 8}
RULES: dict[str, tuple[Callable[..., Any], dict[str, float], Callable[..., torch.optim.Optimizer]]] = {
    "sgd": (sgd, {}, torch.optim.SGD),
    "momentum": (sgd, {"momentum": 0.8}, functools.partial(torch.optim.SGD, momentum=0.8)),
    "adam": (
        adam,
        {"beta1": 0.7, "beta2": 0.9, "eps": 1e-3},
        functools.partial(torch.optim.Adam, betas=(0.7, 0.9), eps=1e-3),
    ),
    "adamw": (
        adamw,
        {"beta1": 0.7, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1},
        functools.partial(torch.optim.AdamW, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.1),
    ),
}


def start() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (3, 2), "bias": (2,)}
    return {n: 0.5 * torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}


def loss(params: dict[str, Tensor], step: int) -> Tensor:
    generator = torch.Generator().manual_seed(10 + step)
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    return (torch.tanh(x @ params["weight"] + params["bias"]) - x[:, :2]).square().mean()


def unroll(by: Any, params: dict[str, Tensor], steps: int, lr: Any, **settings: Any) -> dict[str, Tensor]:
    """Parameters after some steps of the rule, with a graph."""
    state = None
    for step in range(steps):
        point = {n: v if v.requires_grad else v.detach().requires_grad_() for n, v in params.items()}
        grads = torch.autograd.grad(loss(point, step), list(point.values()), create_graph=True)
        params, state = by(point, dict(zip(point, grads, strict=True)), state, lr, **settings)
    return params


def optimized(make: Callable[..., Any], steps: int) -> dict[str, Tensor]:
    params = {name: value.requires_grad_() for name, value in start().items()}
    optimizer = make(params.values())
    for step in range(steps):
        optimizer.zero_grad()
        loss(params, step).backward()
        optimizer.step()
    return {name: value.detach() for name, value in params.items()}


@pytest.mark.parametrize("steps", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("inner_state", INNER_STATES)
@pytest.mark.parametrize("name", RULES)
def test_the_numbers_are_those_of_the_optimiser(name: str, inner_state: Any, steps: int) -> None:
    rule, settings, base = RULES[name]
    expected = optimized(lambda params: Lookahead(base(params, lr=0.1), K, 0.4, inner_state), steps)
    ours = unroll(lookahead, start(), steps, 0.1, rule=rule, k=K, alpha=0.4, inner_state=inner_state, **settings)
    for key, value in expected.items():
        torch.testing.assert_close(ours[key].detach(), value, rtol=0, atol=1e-13)


@pytest.mark.parametrize("steps", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("inner_state", INNER_STATES)
@pytest.mark.parametrize("name", RULES)
def test_derivatives_match_finite_differences(name: str, inner_state: Any, steps: int) -> None:
    """In α, the rate, every setting of the rule and every initial weight, to 1e-7 of the largest one."""
    rule, settings, _ = RULES[name]
    numbers = {"alpha": 0.4, "lr": 0.1, **settings}
    shapes = {key: value.shape for key, value in start().items()}

    def value(point: Tensor) -> Tensor:
        """Of all inputs in one vector."""
        sizes = [1] * len(numbers) + [shape.numel() for shape in shapes.values()]
        *scalars, weight, bias = point.split(sizes)
        given = dict(zip(numbers, (scalar.squeeze() for scalar in scalars), strict=True))
        params = {"weight": weight.view(shapes["weight"]), "bias": bias.view(shapes["bias"])}
        end = unroll(lookahead, params, steps, given.pop("lr"), rule=rule, k=K, inner_state=inner_state, **given)
        return loss(end, 99)

    at = torch.cat([torch.tensor(list(numbers.values())).double(), *(v.flatten() for v in start().values())])
    at[: len(numbers)] = torch.tensor(list(numbers.values()), dtype=torch.float64)
    leaf = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    expected = torch.stack([central(value, at, index) for index in range(len(at))])
    scale = expected.abs().max()
    assert ((gradient - expected).abs() <= 1e-7 * scale).all(), (gradient - expected) / scale
    assert (gradient[0] != 0) == (steps >= K), "α matters once there was a sync, and not before"


def central(value: Callable[[Tensor], Tensor], at: Tensor, index: int, step: float = 1e-3) -> Tensor:
    """∂value/∂at[index] by central differences of sixth order."""

    def rise(size: float) -> Tensor:
        shift = torch.zeros_like(at)
        shift[index] = size
        return (value(at + shift) - value(at - shift)).detach()

    return (45 * rise(step) - 9 * rise(2 * step) + rise(3 * step)) / (60 * step)


def test_the_derivative_on_a_quadratic_is_that_of_the_closed_form() -> None:
    """θ_n = (1 − α + α (1 − γa)^k)^n θ_0."""
    curvature = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    alpha, lr, error = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, 0.2, 1.5))
    params, state = {"x": error * torch.ones_like(curvature)}, None
    for _ in range(4 * K):
        params, state = lookahead(params, {"x": curvature * params["x"]}, state, lr, k=K, alpha=alpha)
    expected = (1 - alpha + alpha * (1 - lr * curvature) ** K) ** 4 * error
    torch.testing.assert_close(expected, contraction(curvature, 0.2, K, 0.4) ** 4 * error, rtol=0, atol=1e-14)
    ours = torch.autograd.grad(params["x"].sum(), (alpha, lr, error))
    theirs = torch.autograd.grad(expected.sum(), (alpha, lr, error))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_alpha_one_is_the_rule_itself_to_the_last_bit() -> None:
    for name, (rule, settings, _) in RULES.items():
        ours = unroll(lookahead, start(), 8, 0.1, rule=rule, k=K, alpha=1.0, **settings)
        theirs = unroll(rule, start(), 8, 0.1, **settings)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


@pytest.mark.parametrize("outer", INNER_STATES)
@pytest.mark.parametrize("inner", INNER_STATES)
def test_nested_numbers_are_those_of_the_nested_optimiser(inner: Any, outer: Any) -> None:
    """Also where the outer sync comes before the inner one."""
    for k_inner, k_outer in ((2, 6), (4, 3), (2, 3)):
        rule = functools.partial(lookahead, rule=sgd, k=k_inner, alpha=0.5, inner_state=inner)
        ours = unroll(rule_around(rule, k_outer, outer), start(), 13, 0.1, momentum=0.8)

        def make(params: Any, k_inner: int = k_inner, k_outer: int = k_outer) -> Lookahead:
            base = Lookahead(torch.optim.SGD(params, lr=0.1, momentum=0.8), k_inner, 0.5, inner)
            return Lookahead(base, k_outer, 0.7, outer)

        for key, value in optimized(make, 13).items():
            torch.testing.assert_close(ours[key].detach(), value, rtol=0, atol=1e-13)


def rule_around(rule: Any, k: int, inner_state: Any) -> Any:
    """Lookahead around a rule of its own, where `rule=` is taken."""
    return lambda params, grads, state, lr, **settings: lookahead(
        params, grads, state, lr, rule=functools.partial(rule, **settings), k=k, alpha=0.7, inner_state=inner_state
    )


@pytest.mark.parametrize("rule", UPDATE_RULES.values(), ids=UPDATE_RULES)
def test_tasks_and_vmap_change_nothing(rule: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    starts, first, second = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)

    def two_steps(params: Tensor, g1: Tensor, g2: Tensor, alpha: Tensor) -> Tensor:
        settings = {"rule": rule, "k": 2, "alpha": alpha, "inner_state": "pullback"}
        moved, state = lookahead({"x": params}, {"x": g1}, None, 0.1, **settings)
        return lookahead(moved, {"x": g2}, state, 0.1, **settings)[0]["x"]

    alphas = torch.tensor([0.2, 0.4, 0.6, 1.0], dtype=torch.float64)
    together = torch.vmap(two_steps)(starts, first, second, alphas)
    for task in range(4):
        alone = two_steps(starts[task], first[task], second[task], alphas[task])
        torch.testing.assert_close(together[task], alone, rtol=0, atol=1e-15)


def test_impossible_settings_are_refused() -> None:
    params, grads = {"x": torch.zeros(2)}, {"x": torch.ones(2)}
    for settings, message in (
        ({"k": 0}, "k=0: need at least 1"),
        ({"alpha": 2}, "alpha=2: need a value above 0, at most 1"),
        ({"inner_state": "keep"}, "inner_state='keep': need one of"),
    ):
        with pytest.raises(ValueError, match=message):
            lookahead(params, grads, None, 0.1, **settings)
    with pytest.raises(ValueError, match="names differ in x"):
        lookahead(params, {}, None, 0.1)
