"""Tied, shared, frozen, unused and left-out parameters, and those that another module reads: right, or refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import inner_problems as ip
import pytest
import torch
from torch import Tensor, nn


class Tied(nn.Module):
    """Two layers with one weight, one layer called twice, and an activation that is there twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.shared = nn.Linear(3, 3)
        self.activation = self.last_activation = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.second(self.activation(self.first(x))).tanh())
        return self.shared(self.last_activation(x))[:, :2]


class Unused(nn.Module):
    """A layer that the loss does not see, and a parameter without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(3, 2)
        self.unused = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x).tanh() * self.scale


class Reading(nn.Module):
    """Computes with the parameters of its layers without calling them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(x @ self.first.weight.T + self.first.bias)
        return hidden @ self.second.weight.T + self.second.bias


MODELS: dict[str, type[nn.Module]] = {"tied": Tied, "unused": Unused, "reading": Reading}
SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "meta_sgd": {"learn_inner_lr": "per_parameter"},
    "adam": {"inner_optimizer": "adam", "inner_lr": 0.02},
    "adamw": {"inner_optimizer": "adamw", "inner_lr": 0.02, "learn_inner_lr": "per_parameter"},
}
CASES = [(b, s) for b in ip.BACKENDS for s in SETTINGS if b != "learn2learn" or "inner_optimizer" not in SETTINGS[s]]


def problem(model: str) -> ip.Problem:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ip.regression(MODELS[model]())


@pytest.mark.parametrize(("backend", "settings"), CASES)
@pytest.mark.parametrize("model", MODELS)
def test_meta_gradients_match_finite_differences(model: str, backend: str, settings: str) -> None:
    made, loop = problem(model), ip.make_loop(backend, **SETTINGS[settings])
    errors = ip.relative_errors(loop, made, ip.initial_update(loop, made, 3), 3)
    assert max(errors) < 1e-6


@pytest.mark.parametrize(("backend", "settings"), CASES)
@pytest.mark.parametrize("model", MODELS)
def test_adapted_parameters_are_those_of_func(model: str, backend: str, settings: str) -> None:
    """Unused parameters included: weight decay moves them, nothing else does."""
    made, loop, func = problem(model), *(ip.make_loop(b, **SETTINGS[settings]) for b in (backend, "func"))
    update = ip.initial_update(loop, made, 2)
    adapted, expected = (made.adapt(each, made.params, update, 2) for each in (loop, func))
    for name, value in expected.items():
        torch.testing.assert_close(adapted[name], value, rtol=0, atol=1e-12)
        still = torch.equal(value, made.params[name].expand_as(value))
        assert still == ("unused" in name and settings != "adamw"), name


@pytest.mark.parametrize("transform", ["kronecker", "meta_curvature"])
def test_transforms_work_on_tied_parameters(transform: str) -> None:
    made, loop = problem("tied"), ip.make_loop("learn2learn", transform=transform)
    errors = ip.relative_errors(loop, made, ip.initial_update(loop, made, 3), 3)
    assert max(errors) < 1e-6


@pytest.mark.parametrize(("backend", "settings"), CASES)
def test_flags_of_the_model_do_not_matter(backend: str, settings: str) -> None:
    """`params` and `adapt_only` say what is adapted; requires_grad of the module's own parameters does not."""
    made, loop = problem("tied"), ip.make_loop(backend, **SETTINGS[settings])
    update = ip.initial_update(loop, made, 2)
    expected = ip.meta_gradient(loop, made, update, 2)
    made.model.requires_grad_(False)
    for name, value in ip.meta_gradient(loop, made, update, 2).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize(("backend", "settings"), CASES)
def test_parameters_that_are_left_out_keep_the_models_own_values(backend: str, settings: str) -> None:
    made, loop = ip.regression(), ip.make_loop(backend, **SETTINGS[settings])
    within = ip.make_loop(backend, **SETTINGS[settings], adapt_only=("2.*",))
    update = ip.initial_update(within, made, 2)
    expected = ip.meta_gradient(within, made, update, 2)
    head = replace(made, params={name: value for name, value in made.params.items() if name.startswith("2.")})
    for name, value in ip.meta_gradient(loop, head, update, 2).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("backend", "settings"), CASES)
def test_the_order_of_the_parameters_does_not_matter(backend: str, settings: str) -> None:
    made, loop = ip.regression(), ip.make_loop(backend, **SETTINGS[settings])
    update = ip.initial_update(loop, made, 2)
    expected = made.adapt(loop, made.params, update, 2)
    turned = made.adapt(loop, dict(reversed(made.params.items())), update, 2)
    assert list(turned) == list(reversed(expected))
    for name, value in expected.items():
        torch.testing.assert_close(turned[name], value, rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", ip.BACKENDS)
def test_a_layer_that_is_registered_twice_is_refused(backend: str) -> None:
    layer = nn.Linear(3, 3)
    made, loop = ip.regression(nn.Sequential(nn.Sequential(layer), layer, nn.Linear(3, 2))), ip.make_loop(backend)
    with pytest.raises(ValueError, match=r"1: Linear cannot be adapted: it is also at 0\.0"):
        made.adapt(loop, made.params, {"lr": torch.tensor(0.1)}, 1)


def test_torch_leaves_a_layer_that_is_registered_twice_changed() -> None:
    """Why such a layer is refused."""
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, layer)
    params = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    torch.func.functional_call(model, params, (torch.ones(1, 3),))
    assert layer.weight is params["0.weight"]


@pytest.mark.parametrize("backend", ["higher", "learn2learn"])
def test_a_name_that_the_model_does_not_have_is_refused(backend: str) -> None:
    made, loop = ip.regression(), ip.make_loop(backend)
    params = made.params | {"head.weight": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"params: the model has no head\.weight; it has 0\.weight, 0\.bias"):
        made.adapt(loop, params, {"lr": torch.tensor(0.1)}, 1)


@pytest.mark.parametrize("backend", ip.BACKENDS)
def test_batches_of_unequal_numbers_of_tasks_are_refused(backend: str) -> None:
    made, loop = ip.regression(), ip.make_loop(backend)
    short = ip.Pairs(made.batches[1].x[:1], made.batches[1].y[:1])
    with pytest.raises(ValueError, match=r"batches: every leaf needs the same leading \[tasks\] axis"):
        loop.adapt(made.model, made.params, {"lr": torch.tensor(0.1)}, made.loss, [made.batches[0], short])
