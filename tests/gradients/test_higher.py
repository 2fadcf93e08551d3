"""What higher itself gets wrong, what is registered in its place, and the other optimisers that it brings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import inner_problems as ip
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from research.inner_loops.with_higher import DifferentiableAdam, DifferentiableAdamW, higher, registered_optimizers

STEPS = 3
OTHERS = ("adadelta", "adagrad", "adamax", "rmsprop", "asgd", "rprop")


@pytest.fixture
def model() -> nn.Module:
    return ip.regression().model


def inner_batches() -> Iterator[ip.Pairs]:
    for batch in ip.regression().batches[:STEPS]:
        yield ip.Pairs(batch.x[0], batch.y[0])


def by_torch(model: nn.Module, kind: Any, **settings: Any) -> list[Tensor]:
    """Parameters after some steps of a torch optimiser."""
    params = ip.start(model)
    optimizer = kind(params.values(), **settings)
    for batch in inner_batches():
        optimizer.zero_grad()
        ip.squared_error(lambda x: functional_call(model, params, (x,)), batch).backward()
        optimizer.step()
    return [value.detach() for value in params.values()]


def by_higher(model: nn.Module, kind: Any, differentiable: Any, override: Any = None, **settings: Any) -> list[Tensor]:
    """The same through one of higher's differentiable forms, as higher's own users run it."""
    optimizer = kind(model.parameters(), **settings)
    patched = higher.monkeypatch(model)
    inner = differentiable(optimizer, model.parameters(), fmodel=patched, override=override)
    for batch in inner_batches():
        inner.step(ip.squared_error(patched, batch))
    return list(patched.parameters())


def distance(left: list[Tensor], right: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(left, right, strict=True))


CASES: list[tuple[Any, Any, dict[str, Any]]] = [
    (torch.optim.Adam, DifferentiableAdam, {"eps": 1e-2}),
    (torch.optim.Adam, DifferentiableAdam, {"weight_decay": 0.1, "betas": (0.5, 0.7)}),
    (torch.optim.Adam, DifferentiableAdam, {"maximize": True}),
    (torch.optim.AdamW, DifferentiableAdamW, {"eps": 1e-2, "weight_decay": 0.3}),
    (torch.optim.AdamW, DifferentiableAdamW, {"maximize": True}),
]


@pytest.mark.parametrize(("kind", "differentiable", "settings"), CASES)
def test_our_adam_and_adamw_have_the_numbers_of_torch(
    model: nn.Module, kind: Any, differentiable: Any, settings: dict[str, Any]
) -> None:
    expected = by_torch(model, kind, lr=0.05, **settings)
    assert distance(by_higher(model, kind, differentiable, lr=0.05, **settings), expected) < 1e-12


def test_ours_are_registered() -> None:
    made = [kind(nn.Linear(1, 1).parameters()) for kind in (torch.optim.Adam, torch.optim.AdamW)]
    kinds = [type(higher.get_diff_optim(optimizer, optimizer.param_groups[0]["params"])) for optimizer in made]
    assert kinds == [DifferentiableAdam, DifferentiableAdamW]


@pytest.mark.parametrize("settings", [{"eps": 1e-2}, {"maximize": True}], ids=str)
def test_highers_own_adam_has_other_numbers_than_torch(model: nn.Module, settings: dict[str, Any]) -> None:
    expected = by_torch(model, torch.optim.Adam, lr=0.05, **settings)
    assert (
        distance(by_higher(model, torch.optim.Adam, higher.optim.DifferentiableAdam, lr=0.05, **settings), expected)
        > 1e-3
    )


@pytest.mark.parametrize("name", ["beta1", "beta2"])
def test_the_derivative_in_beta_is_right_in_ours_and_lost_in_highers(model: nn.Module, name: str) -> None:
    betas = {"beta1": 0.6, "beta2": 0.8}

    def value(differentiable: Any, beta: Tensor) -> Tensor:
        pair = tuple({**betas, name: beta}.values())
        settings = {"lr": 0.05, "betas": tuple(betas.values())}
        params = by_higher(model, torch.optim.Adam, differentiable, override={"betas": [pair]}, **settings)
        return sum((p.square().sum() for p in params), torch.zeros(()))

    def derivative(differentiable: Any) -> float:
        beta = torch.tensor(betas[name], dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(value(differentiable, beta), beta)[0].item()

    def expected(differentiable: Any) -> float:
        ends = [value(differentiable, torch.tensor(betas[name] + sign * 1e-5, dtype=torch.float64)) for sign in (1, -1)]
        return (ends[0] - ends[1]).item() / 2e-5

    assert derivative(DifferentiableAdam) == pytest.approx(expected(DifferentiableAdam), rel=1e-6)
    if name == "beta2":
        with pytest.warns(UserWarning, match="requires_grad=True to a scalar"):
            lost = derivative(higher.optim.DifferentiableAdam)
        assert lost != pytest.approx(expected(higher.optim.DifferentiableAdam), rel=0.1)


def test_our_adam_goes_on_from_the_state_of_a_torch_optimiser(model: nn.Module) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    batches = list(inner_batches())
    for batch in batches[:2]:
        optimizer.zero_grad()
        ip.squared_error(model, batch).backward()
        optimizer.step()
    with higher.innerloop_ctx(model, optimizer) as (patched, inner):
        inner.step(ip.squared_error(patched, batches[2]))
        continued = list(patched.parameters())
    optimizer.zero_grad()
    ip.squared_error(model, batches[2]).backward()
    optimizer.step()
    assert distance(continued, list(model.parameters())) < 1e-12


def test_amsgrad_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="amsgrad=True: need False"):
        by_higher(model, torch.optim.Adam, DifferentiableAdam, amsgrad=True)


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_optimisers_have_the_numbers_of_torch(model: nn.Module, name: str) -> None:
    made, loop = ip.regression(), ip.make_loop("higher", inner_optimizer=name, inner_lr=0.02)
    adapted = made.adapt(loop, made.params, loop.init_update(made.model, made.params, STEPS), STEPS)
    expected = by_torch(model, registered_optimizers()[name], lr=0.02)
    tolerance = 1e-8 if name == "asgd" else 1e-12  # torch keeps ASGD's rate in float32
    assert distance([value[0] for value in adapted.values()], expected) < tolerance


@pytest.mark.parametrize("learn", ["none", "scalar", "per_step", "per_parameter"])
@pytest.mark.parametrize("name", OTHERS)
def test_the_other_optimisers_have_right_meta_gradients_or_refuse(name: str, learn: str) -> None:
    settings: dict[str, Any] = {"inner_optimizer": name, "inner_lr": 0.02, "learn_inner_lr": learn}
    if name in ("asgd", "rprop") and learn != "none":
        with pytest.raises(ValueError, match=f"learn_inner_lr='{learn}': need 'none' with inner_optimizer='{name}'"):
            ip.make_loop("higher", **settings)
        return
    made, loop = ip.regression(), ip.make_loop("higher", **settings)
    for batch in made.batches:
        batch.x[..., 0] = 0.0  # weights whose gradient is zero at every step
    update = ip.initial_update(loop, made, STEPS)
    if learn != "none":
        assert max(ip.relative_errors(loop, made, update, STEPS)) < 1e-5
    else:
        gradient, along = ip.meta_gradient(loop, made, update, STEPS), ip.directions(made.params)
        expected = ip.slope(lambda p: made.meta_loss(loop, p, update, STEPS), made.params, along)
        assert ip.dot({n: gradient[f"model.{n}"] for n in along}, along) == pytest.approx(expected, rel=1e-5)


def test_an_optimiser_that_is_not_registered_is_refused() -> None:
    with pytest.raises(ValueError, match="inner_optimizer='lbfgs': inner_loop='higher' has adadelta, adagrad, adam"):
        ip.make_loop("higher", inner_optimizer="lbfgs")


def test_a_transform_is_refused() -> None:
    with pytest.raises(ValueError, match="transform='kronecker': only inner_loop='learn2learn'"):
        ip.make_loop("higher", transform="kronecker")


def test_forward_hooks_are_refused() -> None:
    made = ip.regression()
    made.model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(ValueError, match="0: Linear has forward hooks, which higher does not run"):
        made.adapt(ip.make_loop("higher"), made.params, {"lr": torch.tensor(0.1)}, 1)
