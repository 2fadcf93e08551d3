"""The functional update rules against torch.optim, and their derivatives against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from research.optim.differentiable import UPDATE_RULES, adam, adamw, sgd

NUM_STEPS = 6
SHAPES = {"weight": (3, 2), "bias": (2,), "scale": ()}

CASES: list[tuple[Callable[..., Any], type[torch.optim.Optimizer], dict[str, Any], dict[str, Any]]] = [
    (sgd, torch.optim.SGD, {}, {}),
    (sgd, torch.optim.SGD, {"momentum": 0.9}, {}),
    (sgd, torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}, {}),
    (sgd, torch.optim.SGD, {"momentum": 0.7, "nesterov": True, "weight_decay": 0.1}, {}),
    (adam, torch.optim.Adam, {}, {}),
    (adam, torch.optim.Adam, {"eps": 1e-2, "weight_decay": 0.1}, {"beta1": 0.6, "beta2": 0.8}),
    (adamw, torch.optim.AdamW, {}, {}),
    (adamw, torch.optim.AdamW, {"eps": 1e-2, "weight_decay": 0.3}, {"beta1": 0.6, "beta2": 0.8}),
]


def draw(seed: int, *axes: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn((*axes, *s), generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}


def gradients(step: int, *axes: int) -> dict[str, Tensor]:
    """Gradients of a step: some are zero at the first step, one stays zero throughout."""
    grads = draw(100 + step, *axes)
    grads["weight"][..., 0, 0] = 0.0
    if step == 0:
        grads["bias"] = torch.zeros_like(grads["bias"])
    return grads


def run(rule: Callable[..., Any], params: dict[str, Tensor], lr: Any, *axes: int, **settings: Any) -> dict[str, Tensor]:
    state = None
    for step in range(NUM_STEPS):
        params, state = rule(params, gradients(step, *axes), state, lr, **settings)
    return params


def torch_settings(common: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    return common | ({"betas": (ours["beta1"], ours["beta2"])} if ours else {})


@pytest.mark.thorough
@pytest.mark.parametrize(("rule", "optimizer", "common", "ours"), CASES)
def test_numbers_are_those_of_torch(rule: Any, optimizer: Any, common: dict[str, Any], ours: dict[str, Any]) -> None:
    expected = {name: value.clone().requires_grad_() for name, value in draw(0).items()}
    reference = optimizer(expected.values(), lr=0.07, **torch_settings(common, ours))
    for step in range(NUM_STEPS):
        for name, grad in gradients(step).items():
            expected[name].grad = grad
        reference.step()
    result = run(rule, draw(0), 0.07, **common, **ours)
    for name in SHAPES:
        torch.testing.assert_close(result[name], expected[name].detach(), rtol=0, atol=1e-12)


@pytest.mark.thorough
@pytest.mark.parametrize(("rule", "optimizer", "common", "ours"), CASES)
def test_derivatives_match_finite_differences(
    rule: Any, optimizer: Any, common: dict[str, Any], ours: dict[str, Any]
) -> None:
    """In parameters, gradients, learning rates and every numeric setting, over two steps, to second order."""
    del optimizer
    flags = {key: value for key, value in common.items() if isinstance(value, bool)}
    numbers = {"eps": 1e-2} if rule is not sgd else {}
    numbers |= {key: value for key, value in (common | ours).items() if key not in flags}
    names = list(SHAPES)

    def two_steps(*inputs: Tensor) -> tuple[Tensor, ...]:
        trees = [dict(zip(names, inputs[3 * i : 3 * i + 3], strict=True)) for i in range(4)]
        settings = dict(zip(numbers, inputs[12:], strict=True)) | flags
        params, state = rule(trees[0], trees[1], None, trees[3], **settings)
        params, _ = rule(params, trees[2], state, trees[3], **settings)
        return tuple(params.values())

    rates = {name: 0.05 + 0.01 * value.abs() for name, value in draw(4).items()}
    tensors = [value for tree in (draw(1), draw(2), draw(3), rates) for value in tree.values()]
    tensors += [torch.tensor(value, dtype=torch.float64) for value in numbers.values()]
    inputs = tuple(tensor.requires_grad_() for tensor in tensors)
    assert torch.autograd.gradcheck(two_steps, inputs)
    assert torch.autograd.gradgradcheck(two_steps, inputs)


@pytest.mark.parametrize("rule", [adam, adamw])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam])
def test_derivative_at_zero_gradient_is_exact(rule: Any, optimizer: Any) -> None:
    """g / (|g| + ε) has slope 1/ε at 0; torch's differentiable mode gives NaN there."""
    grad = torch.zeros((), dtype=torch.float64, requires_grad=True)
    start = torch.zeros((), dtype=torch.float64)
    params, _ = rule({"x": start}, {"x": grad}, None, 0.1, eps=1e-2)
    (slope,) = torch.autograd.grad(params["x"], grad)
    torch.testing.assert_close(slope, torch.tensor(-0.1 / 1e-2, dtype=torch.float64), rtol=1e-12, atol=0)

    leaf = torch.zeros((), dtype=torch.float64, requires_grad=True)
    moved = leaf.clone()
    moved.grad = grad
    optimizer([moved], lr=0.1, eps=1e-2, differentiable=True).step()
    (torch_slope,) = torch.autograd.grad(moved, grad)
    assert torch_slope.isnan()


@pytest.mark.parametrize("rule", UPDATE_RULES.values(), ids=UPDATE_RULES)
def test_a_leading_task_axis_and_vmap_change_nothing(rule: Any) -> None:
    starts = draw(7, 4)
    together = run(rule, starts, 0.05, 4)
    for task in range(4):
        params, state = {n: v[task] for n, v in starts.items()}, None
        for step in range(NUM_STEPS):
            grads = {n: v[task] for n, v in gradients(step, 4).items()}
            params, state = rule(params, grads, state, 0.05)
        for name in SHAPES:
            torch.testing.assert_close(together[name][task], params[name], rtol=0, atol=1e-14)

    def two_steps(params: Any, first: Any, second: Any) -> Any:
        params, state = rule(params, first, None, 0.05)
        return rule(params, second, state, 0.05)[0]

    mapped = torch.vmap(two_steps)(starts, gradients(0, 4), gradients(1, 4))
    direct = two_steps(starts, gradients(0, 4), gradients(1, 4))
    for name in SHAPES:
        torch.testing.assert_close(mapped[name], direct[name], rtol=0, atol=1e-14)


@pytest.mark.parametrize("rule", UPDATE_RULES.values(), ids=UPDATE_RULES)
def test_a_rate_may_be_a_number_a_function_or_a_mapping(rule: Any) -> None:
    per_name = {name: 0.01 * (index + 1) for index, name in enumerate(SHAPES)}
    by_mapping = run(rule, draw(0), per_name)
    by_function = run(rule, draw(0), per_name.__getitem__)
    for name, lr in per_name.items():
        alone = run(rule, draw(0), lr)
        assert torch.equal(by_mapping[name], alone[name])
        assert torch.equal(by_function[name], alone[name])


def test_nothing_changes_in_place() -> None:
    params, grads = draw(0), gradients(1)
    before = [value.clone() for value in (*params.values(), *grads.values())]
    _, state = adamw(params, grads, None, 0.1)
    moments = [value.clone() for value in state.exp_avg.values()]
    adamw(params, grads, state, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, (*params.values(), *grads.values()), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(moments, state.exp_avg.values(), strict=True))
    assert state.step == 1


@pytest.mark.parametrize("rule", UPDATE_RULES.values(), ids=UPDATE_RULES)
def test_missing_gradient_is_refused_by_name(rule: Any) -> None:
    grads = gradients(0)
    del grads["scale"]
    with pytest.raises(ValueError, match="names differ in scale"):
        rule(draw(0), grads, None, 0.1)


@pytest.mark.parametrize("rule", [adam, adamw])
def test_complex_gradients_are_refused_by_name(rule: Any) -> None:
    """torch's Adam divides the parts of a complex gradient each by its own root, which a complex square is not."""
    params = {"scale": torch.ones(2, dtype=torch.complex64)}
    with pytest.raises(ValueError, match="scale is complex, need real ones"):
        rule(params, params, None, 0.1)
