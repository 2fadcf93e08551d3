"""How learn2learn is loaded, what it gets wrong by itself, and what its backend refuses."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import inner_problems as ip
import pytest
import torch
from torch import nn

from research.inner_loops import with_learn2learn
from research.inner_loops.with_learn2learn import learn2learn


@pytest.fixture
def reload() -> Iterator[None]:
    """learn2learn is loaded anew in the test, and again after it."""
    with_learn2learn._load.cache_clear()
    yield
    with_learn2learn._load.cache_clear()


def imported() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "learn2learn"]


@pytest.mark.usefixtures("reload")
def test_the_core_loads_without_a_trace_and_once_for_all_threads() -> None:
    assert imported() == []
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: learn2learn(), range(8)))
    assert all(module is loaded[0] for module in loaded)
    assert imported() == []
    assert "gym" not in sys.modules
    assert "torchvision" not in sys.modules
    assert {"MAML", "MetaSGD", "GBML"} <= set(dir(loaded[0].algorithms))


@pytest.mark.usefixtures("reload")
def test_a_learn2learn_that_the_program_has_imported_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ModuleType("learn2learn")
    whole.update_module = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "learn2learn", whole)
    assert learn2learn() is whole


@pytest.mark.usefixtures("reload")
def test_what_a_failed_import_has_left_behind_stays_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    left = ModuleType("learn2learn.utils")
    monkeypatch.setitem(sys.modules, "learn2learn.utils", left)
    assert learn2learn().utils is not left
    assert sys.modules["learn2learn.utils"] is left
    assert imported() == ["learn2learn.utils"]


@pytest.mark.usefixtures("reload")
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"learn2learn is not installed\. Run: .* learn2learn==0\.2\.0"):
        ip.make_loop("learn2learn")


def test_its_own_meta_sgd_unties_weights() -> None:
    """Why the backend shows it each parameter once; test_models.py checks that ours stay tied."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    learner = learn2learn().algorithms.MetaSGD(model, lr=0.1).clone()
    with pytest.warns(UserWarning, match="attribute of a Tensor that is not a leaf"):
        learner.adapt(learner(torch.ones(2, 3)).square().mean())
    assert not torch.equal(learner.module[0].weight, learner.module[2].weight)


def test_its_own_maml_fails_on_a_frozen_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    """Why the backend allows parameters without a gradient."""
    model = nn.Linear(3, 3)
    model.bias.requires_grad_(False)
    learner = learn2learn().algorithms.MAML(model, lr=0.1).clone()
    with pytest.raises(UnboundLocalError):
        learner.adapt(learner(torch.ones(2, 3)).square().mean())
    assert "allow_nograd" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"inner_optimizer": "adam"},
            "inner_optimizer='adam': inner_loop='learn2learn' has only sgd; inner_loop='func'",
        ),
        ({"transform": "shampoo"}, "transform='shampoo': need one of 'none', 'kronecker', 'meta_curvature'"),
        (
            {"transform": "kronecker", "learn_inner_lr": "per_parameter"},
            "transform='kronecker': learn_inner_lr='per_parameter' does not go with a transform",
        ),
    ],
)
def test_settings_that_it_cannot_do_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ip.make_loop("learn2learn", **settings)


@pytest.mark.parametrize("transform", ["kronecker", "meta_curvature"])
def test_a_parameter_of_a_shape_without_transform_is_refused_by_name(transform: str) -> None:
    made = ip.regression(nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 3), nn.Flatten()))
    loop = ip.make_loop("learn2learn", transform=transform)
    with pytest.raises(ValueError, match=rf"transform='{transform}': parameter 1\.weight has shape \(2, 1, 3\)"):
        loop.init_update(made.model, made.params, 1)


@pytest.mark.parametrize("transform", ["kronecker", "meta_curvature"])
def test_a_transform_starts_as_the_identity(transform: str) -> None:
    made, loop, plain = ip.regression(), ip.make_loop("learn2learn", transform=transform), ip.make_loop("learn2learn")
    update = loop.init_update(made.model, made.params, 3)
    expected = made.adapt(plain, made.params, {"lr": update["lr"]}, 3)
    for name, value in made.adapt(loop, made.params, update, 3).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-14)
    for name, value in update.items():
        assert name == "lr" or name.split(".")[0] == "transform"
        assert value.dtype == torch.float64
        assert not value.requires_grad


@pytest.mark.parametrize("transform", ["kronecker", "meta_curvature"])
def test_transforms_of_convolutions_match_finite_differences(transform: str) -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ip.regression(model, inputs=8)
    loop = ip.make_loop("learn2learn", transform=transform)
    assert max(ip.relative_errors(loop, made, ip.initial_update(loop, made, 2), 2)) < 1e-6


def test_kronecker_transforms_are_the_formula() -> None:
    """One step on a linear layer: θ − α LᵀL ∇ RᵀR."""
    made, loop = (
        ip.regression(nn.Linear(3, 2)),
        ip.make_loop("learn2learn", transform="kronecker", adapt_only=("weight",)),
    )
    update = ip.initial_update(loop, made, 1)
    left, right = (update[f"transform.weight.transform.{side}"] for side in ("left", "right"))
    adapted = made.adapt(loop, made.params, update, 1)["weight"]
    plain = made.adapt(ip.make_loop("learn2learn", adapt_only=("weight",)), made.params, {"lr": torch.ones(())}, 1)[
        "weight"
    ]
    gradient = made.params["weight"] - plain
    expected = made.params["weight"] - update["lr"] * (left.mT @ left @ gradient @ right.mT @ right)
    torch.testing.assert_close(adapted, expected, rtol=0, atol=1e-14)
