"""Lookahead in the inner loops of `func` and `higher`: the same numbers, and right meta-gradients, α's among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import inner_problems as ip
import pytest
import torch
from torch import Tensor, nn

from research.algorithms.regression.maml import MAMLRegression, MAMLRegressionConfig
from research.algorithms.regression.reptile import ReptileRegression, ReptileRegressionConfig
from research.inner_loops.with_higher import DifferentiableLookahead, higher, registered_optimizers
from research.optim import Lookahead
from research.types import MetaParams

INNER_STATES = ["maintain", "reset", "pullback"]
SETTINGS: dict[str, Any] = {"lookahead_k": 2, "lookahead_alpha": 0.4, "learn_lookahead_alpha": True}


@pytest.mark.parametrize("steps", [1, 4, 5], ids=["before a sync", "at a sync", "in mid-cycle"])
@pytest.mark.parametrize("inner_state", INNER_STATES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("backend", ["func", "higher"])
def test_meta_gradients_match_finite_differences(backend: str, optimizer: str, inner_state: str, steps: int) -> None:
    """In the initial parameters, and in the rates and α together."""
    settings = {"inner_optimizer": optimizer, "inner_lr": 0.05, "learn_inner_lr": "per_step"}
    loop = ip.make_loop(backend, **settings, **SETTINGS, lookahead_inner_state=inner_state)
    made = ip.regression()
    update = ip.initial_update(loop, made, steps)
    assert update.keys() == {"lr", "lookahead_alpha"}
    assert max(ip.relative_errors(loop, made, update, steps)) < 1e-6
    gradient = ip.meta_gradient(loop, made, update, steps)["update.lookahead_alpha"]
    assert (gradient != 0) == (steps >= 2)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_state", INNER_STATES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("problem", ip.PROBLEMS)
def test_backends_agree(problem: str, optimizer: str, inner_state: str, first_order: bool) -> None:
    made, found = ip.PROBLEMS[problem](), []
    for backend in ("func", "higher"):
        settings = {"inner_optimizer": optimizer, "lookahead_inner_state": inner_state, "first_order": first_order}
        loop = ip.make_loop(backend, inner_lr=0.05, **settings, **SETTINGS)
        update = ip.initial_update(loop, made, 5)
        found.append((made.adapt(loop, made.params, update, 5), ip.meta_gradient(loop, made, update, 5)))
    for ours, theirs in zip(*found, strict=True):
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["func", "higher"])
def test_the_inner_loop_is_the_optimiser(backend: str) -> None:
    """Task by task, with torch's own Adam inside."""
    made = ip.regression()
    loop = ip.make_loop(backend, inner_optimizer="adam", inner_lr=0.05, lookahead_k=2, lookahead_inner_state="pullback")
    adapted = made.adapt(loop, made.params, loop.init_update(made.model, made.params, 5), 5)
    for task in range(ip.NUM_TASKS):
        params = ip.start(made.model)
        optimizer = Lookahead(torch.optim.Adam(params.values(), lr=0.05), 2, 0.5, "pullback")
        for batch in made.batches:
            optimizer.zero_grad()
            own = ip.Pairs(batch.x[task], batch.y[task])
            made.loss(lambda x, p=params: torch.func.functional_call(made.model, p, (x,)), own).backward()
            optimizer.step()
        for name, value in params.items():
            torch.testing.assert_close(adapted[name][task], value.detach(), rtol=0, atol=1e-12)


def test_a_linearised_inner_loop_has_the_same_derivative() -> None:
    """Plain SGD has a closed form there, which Lookahead must not take."""
    made = ip.regression()
    loop = ip.make_loop("func", inner_lr=0.05, **SETTINGS)
    update = ip.initial_update(loop, made, 5)
    adapted = made.adapt(loop, made.params, update, 5)
    cotangent = {name: torch.randn_like(value) for name, value in adapted.items()}
    linearized = loop.linearize(made.model, MetaParams(made.params, update), made.loss, made.batches)
    pulled = linearized.vjp(cotangent)
    inputs = [*made.params.values(), *update.values()]
    expected = torch.autograd.grad(list(adapted.values()), inputs, list(cotangent.values()), materialize_grads=True)
    for ours, theirs in zip([*pulled.model.values(), *pulled.update.values()], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


BASES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.05),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.8),
    "adam": lambda params: torch.optim.Adam(params, lr=0.05, eps=1e-3),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.02, momentum=0.5),
}


@pytest.mark.parametrize("inner_state", INNER_STATES)
@pytest.mark.parametrize("name", BASES)
def test_higher_goes_on_from_every_step_of_a_cycle(name: str, inner_state: Any) -> None:
    """As higher's own users run it: from an optimiser that has made steps already."""
    for before in range(5):
        made = ip.regression()
        optimizer = Lookahead(BASES[name](made.model.parameters()), 3, 0.4, inner_state)
        batches = [ip.Pairs(batch.x[0], batch.y[0]) for batch in made.batches] * 2
        advance(made, optimizer, batches[:before])
        with higher.innerloop_ctx(made.model, optimizer) as (patched, inner):
            assert isinstance(inner, DifferentiableLookahead)
            for batch in batches[before:]:
                inner.step(made.loss(patched, batch))
            continued = [value.detach().clone() for value in patched.parameters()]
        advance(made, optimizer, batches[before:])
        for ours, theirs in zip(continued, made.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [6, 8], ids=["at a sync", "in mid-cycle"])
@pytest.mark.parametrize("inner_state", INNER_STATES)
@pytest.mark.parametrize("name", BASES)
def test_higher_has_right_derivatives_in_alpha_and_rate(name: str, inner_state: Any, steps: int) -> None:
    made = ip.regression()
    optimizer = Lookahead(BASES[name](made.model.parameters()), 3, 0.4, inner_state)
    batches = ([ip.Pairs(batch.x[0], batch.y[0]) for batch in made.batches] * 2)[:steps]

    def value(point: Tensor) -> Tensor:
        override = {"lookahead_alpha": [point[0]], "lr": [point[1]]}
        with higher.innerloop_ctx(made.model, optimizer, override=override) as (patched, inner):
            for batch in batches:
                inner.step(made.loss(patched, batch))
            return made.loss(patched, ip.Pairs(made.query.x[0], made.query.y[0]))

    point = torch.tensor([0.4, 0.03], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(point), point)
    for index in range(2):
        along = {"x": torch.eye(2, dtype=torch.float64)[index]}
        expected = ip.slope(lambda at: value(at["x"]), {"x": point.detach()}, along, epsilon=1e-5)
        assert gradient[index].item() == pytest.approx(expected, rel=1e-6)


def advance(made: ip.Problem, optimizer: Any, batches: list[ip.Pairs]) -> None:
    for batch in batches:
        optimizer.zero_grad()
        made.loss(made.model, batch).backward()
        optimizer.step()


def test_without_tracking_no_graph_is_kept() -> None:
    made = ip.regression()
    optimizer = Lookahead(torch.optim.SGD(made.model.parameters(), lr=0.05), 2)
    batch = ip.Pairs(made.query.x[0], made.query.y[0])
    with higher.innerloop_ctx(made.model, optimizer, track_higher_grads=False) as (patched, inner):
        for _ in range(4):
            inner.step(made.loss(patched, batch))
        assert all(slow.grad_fn is None for slow in inner._slow[0])


def test_what_has_no_form_in_higher_is_refused() -> None:
    model = nn.Linear(1, 1)
    nested = Lookahead(Lookahead(torch.optim.SGD(model.parameters(), lr=0.1)))
    with pytest.raises(ValueError, match="base_optimizer=Lookahead: need another one"):
        higher.get_diff_optim(nested, model.parameters())
    assert "lookahead" not in registered_optimizers()


@pytest.mark.parametrize(
    ("backend", "settings", "message"),
    [
        ("func", {"lookahead_k": -1}, "lookahead_k=-1: need at least 0"),
        ("func", {"lookahead_k": 2, "lookahead_alpha": 2.0}, "lookahead_alpha=2.0: need a value above 0, at most 1"),
        ("func", {"lookahead_inner_state": "keep"}, "lookahead_inner_state='keep': need one of 'maintain'"),
        ("func", {"learn_lookahead_alpha": True}, "learn_lookahead_alpha=True: need lookahead_k of at least 1"),
        ("learn2learn", {"lookahead_k": 5}, "lookahead_k=5: need 0 with inner_loop='learn2learn'; inner_loop='func'"),
    ],
)
def test_impossible_settings_are_refused(backend: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ip.make_loop(backend, **settings)


def test_maml_learns_alpha_and_reptile_refuses_to() -> None:
    tiny: dict[str, Any] = {"updates_per_iteration": 2, "meta_batch_size": 3, "hidden_sizes": (5,), "lookahead_k": 2}
    algorithm = MAMLRegression(MAMLRegressionConfig(**tiny, num_inner_steps=2, learn_lookahead_alpha=True))
    state = algorithm.init()
    after = algorithm.step(state).state.meta.update
    assert state.meta.update["lookahead_alpha"] == 0.5 != after["lookahead_alpha"]
    assert after["lr"] == state.meta.update["lr"], "a rate that is not learned stays"
    with pytest.raises(ValueError, match="learn_lookahead_alpha=True: Reptile has no gradient to learn it by; need F"):
        ReptileRegression(ReptileRegressionConfig(**tiny, learn_lookahead_alpha=True))
