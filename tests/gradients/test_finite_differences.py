"""Meta-gradients against finite differences; the first-order variant must fail that check, and has its own oracle."""

from __future__ import annotations

from typing import Any

import inner_problems as ip
import pytest
import torch

from research.inner_loops.base import InnerLoop
from research.types import MetaParams

SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "sgd_per_step": {"inner_lr": (0.2, 0.05), "learn_inner_lr": "per_step"},
    "sgd_per_parameter": {"learn_inner_lr": "per_parameter"},
    "sgd_head": {"adapt_only": ("*2.*",)},
    "adam": {"inner_optimizer": "adam", "inner_lr": 0.02},
    "adamw_per_parameter": {"inner_optimizer": "adamw", "inner_lr": 0.02, "learn_inner_lr": "per_parameter"},
    "kronecker": {"transform": "kronecker"},
    "meta_curvature": {"transform": "meta_curvature", "learn_inner_lr": "per_step"},
}


def supports(backend: str, settings: dict[str, Any]) -> bool:
    if settings.get("transform"):
        return backend == "learn2learn"
    return backend != "learn2learn" or "inner_optimizer" not in settings


CASES = [(b, s) for b in ip.BACKENDS for s in SETTINGS if supports(b, SETTINGS[s])]


@pytest.mark.parametrize(("backend", "settings"), CASES)
@pytest.mark.parametrize("problem", ip.PROBLEMS)
def test_meta_gradients_match_finite_differences(problem: str, backend: str, settings: str) -> None:
    made, loop = ip.PROBLEMS[problem](), ip.make_loop(backend, **SETTINGS[settings])
    errors = ip.relative_errors(loop, made, ip.initial_update(loop, made, 3), 3)
    assert max(errors) < 1e-6


@pytest.mark.parametrize(("backend", "settings"), CASES)
@pytest.mark.parametrize("problem", ip.PROBLEMS)
def test_first_order_meta_gradients_do_not(problem: str, backend: str, settings: str) -> None:
    """The negative control: the check above sees a missing second-order term."""
    made, loop = ip.PROBLEMS[problem](), ip.make_loop(backend, **SETTINGS[settings], first_order=True)
    by_model, by_update = ip.relative_errors(loop, made, ip.initial_update(loop, made, 3), 3)
    assert by_model > 1e-4
    assert by_update > 1e-4


@pytest.mark.parametrize("backend", ip.BACKENDS)
@pytest.mark.parametrize("problem", ip.PROBLEMS)
def test_first_order_is_the_query_gradient_at_the_adapted_parameters(problem: str, backend: str) -> None:
    """FOMAML by its definition (Finn et al. 2017, section 5.2): ∂θ_K/∂θ counts as the identity."""
    made, loop = ip.PROBLEMS[problem](), ip.make_loop(backend, first_order=True)
    update = ip.initial_update(loop, made, 3)
    gradient = ip.meta_gradient(loop, made, update, 3)
    adapted = ip.leaves(made.adapt(loop, made.params, update, 3))
    at_adapted = torch.autograd.grad(made.query_loss(adapted), list(adapted.values()))
    for name, expected in zip(made.params, at_adapted, strict=True):
        torch.testing.assert_close(gradient[f"model.{name}"], expected.sum(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("first_order", [False, True], ids=["second_order", "first_order"])
@pytest.mark.parametrize(("backend", "settings"), CASES)
def test_the_linearisation_is_the_derivative_of_adapt(backend: str, settings: str, first_order: bool) -> None:
    """J v and Jᵀ u against backward passes through `adapt`: Jᵀ u by itself, J v through ⟨u, J v⟩ = ⟨Jᵀ u, v⟩."""
    made, loop = ip.regression(), ip.make_loop(backend, **SETTINGS[settings], first_order=first_order)
    update = ip.initial_update(loop, made, 2)
    linearized = loop.linearize(made.model, MetaParams(made.params, update), made.loss, made.batches[:2])
    adapted = made.adapt(loop, made.params, update, 2)
    cotangent, inputs = ip.directions(adapted), ip.named(made.params, update)
    expected = torch.autograd.grad(
        list(adapted.values()),
        list(inputs.values()),
        list(cotangent.values()),
        allow_unused=True,
        materialize_grads=True,
    )
    pulled = ip.named(*linearized.vjp(cotangent))
    for name, value in zip(inputs, expected, strict=True):
        torch.testing.assert_close(pulled[name], value, rtol=0, atol=1e-12)
    for name, value in adapted.items():
        torch.testing.assert_close(linearized.adapted[name], value.detach(), rtol=0, atol=1e-14)
    tangent = MetaParams(ip.directions(made.params), ip.directions(update))
    pushed = linearized.jvp(tangent)
    assert ip.dot(cotangent, pushed) == pytest.approx(ip.dot(pulled, ip.named(*tangent)), rel=1e-10)


@pytest.mark.parametrize("backend", ip.BACKENDS)
def test_a_rate_alone_may_be_learned(backend: str) -> None:
    """Initial parameters that are constants leave the derivative in the learning rate intact."""
    made = ip.regression()
    loop: InnerLoop = ip.make_loop(backend, learn_inner_lr="scalar")
    update = ip.initial_update(loop, made, 2)
    constants = {name: value.detach() for name, value in made.params.items()}
    (gradient,) = torch.autograd.grad(made.meta_loss(loop, constants, update, 2), update["lr"])
    expected = ip.meta_gradient(loop, made, update, 2)["update.lr"]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
