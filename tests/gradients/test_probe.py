"""Modules and losses that no list has: those with wrong meta-gradients are refused, and all others pass."""

from __future__ import annotations

import contextlib
import copy
import functools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import inner_problems as ip
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from research.inner_loops import InnerLoopConfig, func, make_inner_loop
from research.inner_loops.func import FuncInnerLoop
from research.inner_loops.known import is_known
from research.inner_loops.probe import Probed
from research.inner_loops.reference import random_states
from research.losses import reinforce
from research.types import Forward, Loss, MetaParams, Params


class Net(nn.Module):
    """A layer, and `middle(net, hidden)`."""

    def __init__(self, middle: Callable[[Any, Tensor], Tensor]):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.last = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 4))
        self.register_buffer("mean", torch.zeros(4))
        self.average = torch.zeros(4)
        self.calls = 0
        self.held = [self.last]
        self.closed = lambda x, layer=self.last: layer(x)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(self, torch.tanh(self.first(x)))


class Squared(torch.autograd.Function):
    """x², whose backward pass is not differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return 2 * cotangent * ctx.saved_tensors[0]


def buffer_in_place(net: Any, hidden: Tensor) -> Tensor:
    net.mean.mul_(0.9).add_(hidden.detach().mean(0))
    return net.last(hidden)


def buffer_replaced(net: Any, hidden: Tensor) -> Tensor:
    net.mean = 0.9 * net.mean + hidden.detach().mean(0)
    return net.last(hidden - net.mean)


def attribute(net: Any, hidden: Tensor) -> Tensor:
    net.average = 0.9 * net.average + hidden.detach().mean(0)
    return net.last(hidden)


def number(net: Any, hidden: Tensor) -> Tensor:
    net.calls += 1
    return net.last(hidden) / net.calls


def renormalised(net: Any, hidden: Tensor) -> Tensor:
    rows = torch.arange(len(hidden)) % 4
    return net.last(hidden) + F.embedding(rows, net.last.weight.T, max_norm=0.1)


def by_frequency(net: Any, hidden: Tensor) -> Tensor:
    rows = torch.arange(len(hidden)) % 2
    return net.last(hidden * F.embedding(rows, net.first.weight.T.contiguous(), scale_grad_by_freq=True)).tanh()


def weight_normed(net: Any, hidden: Tensor) -> Tensor:
    return F.linear(
        hidden, torch._weight_norm(net.last.weight, net.last.weight.norm(dim=1, keepdim=True) * 1.5, 0)
    ).tanh()


def loose() -> Callable[[Any, Tensor], Tensor]:
    layers = [nn.Linear(4, 4).double()]
    return lambda net, hidden: net.last(layers[0](hidden))


def noisy_by(draw: Callable[[], float]) -> Callable[[Any, Tensor], Tensor]:
    return lambda net, hidden: net.last(hidden * draw())


WRONG: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "dropout": (lambda net, h: net.last(F.dropout(h, 0.3)), r"the model draws random numbers .* call eval\(\)"),
    "NumPy's noise": (noisy_by(lambda: np.random.rand()), "the model draws random numbers"),  # noqa: NPY002
    "Python's noise": (noisy_by(random.random), "the model draws random numbers"),
    "a buffer in place": (buffer_in_place, "changes mean,"),
    "another buffer": (buffer_replaced, "changes mean,"),
    "an attribute": (attribute, "changes average,"),
    "a number": (number, "a second evaluation gives"),
    "max_norm": (renormalised, r"changes last\.weight,"),
    "scale_grad_by_freq": (by_frequency, "scale_grad_by_freq scales"),
    "_weight_norm": (weight_normed, r"second derivative is wrong in .*last\.weight.* torch\._weight_norm"),
    "once_differentiable": (lambda net, h: net.last(Squared.apply(h)), "Squared is once_differentiable"),
    "no second derivative": (lambda net, h: net.last(torch.cdist(h, h[:4], p=3.0)), "it has no second derivative: "),
    "once_differentiable, silent": (lambda net, h: Squared.apply(net.last(h)), "Squared is once_differentiable"),
    ".data": (lambda net, h: net.last(h * net.scale.data), "not the derivative of the loss .* look for .data"),
    "not registered": (loose(), r"a parameter of shape \(4, 4\) that it has not registered"),
}


def padded(net: Any, hidden: Tensor) -> Tensor:
    rows = (hidden[:, 0] > 0).long()
    return net.last(hidden * F.embedding(rows, net.first.weight.T, padding_idx=0))


def recomputed(net: Any, hidden: Tensor) -> Tensor:
    return checkpoint(net.last, hidden, use_reentrant=False)


RIGHT_BACKENDS: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, Any], set[str]]] = {
    "padding_idx": (padded, {}, {"higher", "learn2learn"}),
    "in a list": (lambda net, h: net.held[0](h), {}, {"func"}),
    "in a closure": (lambda net, h: net.closed(h), {}, {"func"}),
    "a recomputed block": (recomputed, {}, set()),
    "a recomputed block, first order": (recomputed, {"first_order": True}, {"higher", "learn2learn"}),
}


def problem(middle: Callable[[Any, Tensor], Tensor]) -> ip.Problem:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ip.regression(Net(middle))


def loop(backend: str, probe: bool = True, **settings: Any) -> Any:
    return make_inner_loop(backend, InnerLoopConfig(**settings), probe)


@pytest.mark.parametrize("backend", ip.BACKENDS)
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_with_every_backend_is_refused(kind: str, backend: str) -> None:
    middle, message = WRONG[kind]
    made = problem(middle)
    for _ in range(2):  # and again
        with pytest.raises(ValueError, match=f"Net with the loss squared_error cannot be adapted: .*{message}"):
            made.adapt(loop(backend), made.params, {"lr": torch.tensor(0.1)}, 1)


@pytest.mark.parametrize("backend", ip.BACKENDS)
@pytest.mark.parametrize("kind", RIGHT_BACKENDS)
def test_a_backend_that_is_wrong_is_refused_and_the_right_ones_are_named(kind: str, backend: str) -> None:
    middle, settings, right = RIGHT_BACKENDS[kind]
    made, inner_loop = problem(middle), loop(backend, **settings)
    if backend in right:
        made.adapt(inner_loop, made.params, {"lr": torch.tensor(0.1)}, 2)
        return
    with pytest.raises(ValueError, match=rf"inner_loop='{backend}' its .* are wrong in ") as error:
        made.adapt(inner_loop, made.params, {"lr": torch.tensor(0.1)}, 2)
    assert {
        name
        for name in ip.BACKENDS
        if f"use inner_loop='{name}'" in str(error.value) or f"or inner_loop='{name}'" in str(error.value)
    } == right


def targets_without_gradients(forward: Forward, batch: ip.Pairs) -> Tensor:
    with torch.no_grad():
        target = batch.y + 0.9 * forward(batch.x.flip(0))
    return (forward(batch.x) - target).square().mean()


def semi_gradient(forward: Forward, batch: ip.Pairs) -> Tensor:
    return (forward(batch.x) - 0.9 * forward(batch.x.flip(0)).detach() - batch.y).square().mean()


def magic_box(forward: Forward, batch: ip.Pairs) -> Tensor:
    log_prob = -(forward(batch.x) - batch.y).square().sum(-1)
    return ((log_prob - log_prob.detach()).exp() * batch.y[:, 0]).mean()


def straight_through(forward: Forward, batch: ip.Pairs) -> Tensor:
    output = forward(batch.x)
    return (output + (output.round() - output).detach() - batch.y).square().mean()


def branch(forward: Forward, batch: ip.Pairs) -> Tensor:
    error = (forward(batch.x) - batch.y).square()
    return error.mean() if error.mean() > 0.5 else error.sum()


def number_of_it(forward: Forward, batch: ip.Pairs) -> Tensor:
    error = (forward(batch.x) - batch.y).square()
    return error.mean() / error.detach().mean().item()


def masked(forward: Forward, batch: ip.Pairs) -> Tensor:
    error = (forward(batch.x) - batch.y).square()
    return error[error < 2].mean()


def in_place(forward: Forward, batch: ip.Pairs) -> Tensor:
    target = torch.ones(batch.y.shape, dtype=batch.y.dtype)
    target[:] = batch.y
    return (forward(batch.x) - target).square().mean()


def permuted(forward: Forward, batch: ip.Pairs) -> Tensor:
    chosen = torch.randperm(len(batch.x), generator=torch.Generator().manual_seed(0))[:3]
    return (forward(batch.x[chosen]) - batch.y[chosen]).square().mean()


def likelihood(forward: Forward, batch: ip.Pairs) -> Tensor:
    mean = forward(batch.x)
    return F.gaussian_nll_loss(mean, batch.y, mean.square() + 0.1)


def penalty(forward: Forward, batch: ip.Pairs) -> Tensor:
    x = batch.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(forward(x).tanh().sum(), x, create_graph=True)
    return (forward(batch.x) - batch.y).square().mean() + slope.square().sum()


def linear(forward: Forward, batch: ip.Pairs) -> Tensor:
    return 1e4 + (forward(batch.x) * batch.y).sum()


def kinked(forward: Forward, batch: ip.Pairs) -> Tensor:
    return forward(batch.x).relu().square().sum() + forward(batch.x).abs().sum()


LOSSES = [
    ip.squared_error,
    linear,
    kinked,
    targets_without_gradients,
    semi_gradient,
    magic_box,
    straight_through,
    branch,
    number_of_it,
]
LOSSES += [masked, in_place, permuted, likelihood, penalty]
NOT_VMAPPED = {branch, number_of_it, masked, in_place, permuted, likelihood, penalty}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_right_losses_pass_and_every_backend_has_the_same_numbers(loss: Any, dtype: torch.dtype, caplog: Any) -> None:
    func._say_looped.cache_clear()
    func._LOOPED.clear()
    made = problem(lambda net, hidden: net.last(hidden))
    made = replace(made, loss=loss, model=made.model.to(dtype), params=ip.start(made.model.to(dtype)))
    made = replace(made, batches=[ip.Pairs(*(field.to(dtype) for field in batch)) for batch in made.batches[:2]])
    results = []
    for backend in ip.BACKENDS:
        adapted = made.adapt(loop(backend), made.params, {"lr": torch.tensor(0.05, dtype=dtype)}, 2)
        total = sum(value.square().sum() for value in adapted.values())
        gradient = torch.autograd.grad(total, list(made.params.values()), allow_unused=True, materialize_grads=True)
        results.append([*(value.detach() for value in adapted.values()), *gradient])
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)
    assert [record.levelname for record in caplog.records] == (["WARNING"] if loss in NOT_VMAPPED else [])
    assert all("torch.vmap cannot batch" in record.message for record in caplog.records)


def test_a_loss_that_cannot_be_batched_is_tried_once(monkeypatch: Any, caplog: Any) -> None:
    """Also if the next call has a copy of the model, and the same loss made again."""
    func._say_looped.cache_clear()
    func._LOOPED.clear()
    tried = []
    real = func.per_task
    monkeypatch.setattr(func, "per_task", lambda *a, vmapped: (tried.append(vmapped), real(*a, vmapped=vmapped))[1])
    made = ip.regression()
    for loss in (functools.partial(branch), functools.partial(branch), ip.squared_error):
        made = replace(made, loss=loss, model=copy.deepcopy(made.model))
        made.adapt(loop("func", probe=False), made.params, {"lr": torch.tensor(0.05)}, 3)
    assert tried == [True] + [False] * 3 + [False] * 3 + [True] * 3
    assert len(caplog.records) == 1


def test_large_batches_are_looped_without_a_word(caplog: Any) -> None:
    made = replace(ip.regression(rows=3000), loss=branch)
    made.adapt(loop("func"), made.params, {"lr": torch.tensor(0.05)}, 1)
    assert not caplog.records


def test_an_error_of_the_loss_is_that_of_one_task() -> None:
    made = replace(ip.regression(), loss=lambda forward, batch: (forward(batch.x) @ batch.y).mean())
    with pytest.raises(RuntimeError, match=r"mat1 and mat2 shapes cannot be multiplied \(5x2 and 5x2\)"):
        made.adapt(loop("func", probe=False), made.params, {"lr": torch.tensor(0.05)}, 1)


@pytest.mark.parametrize(
    "kind", ["right", "dropout", "a buffer in place", "another buffer", "an attribute", "a number"]
)
@pytest.mark.parametrize("backend", ip.BACKENDS)
def test_the_check_leaves_everything_as_it_was(backend: str, kind: str) -> None:
    """Generators, parameters, buffers and attributes, in value and identity."""
    middle = (lambda net, h: net.last(h)) if kind == "right" else WRONG[kind][0]
    made = problem(middle)
    own = dict(made.model.named_parameters()) | dict(made.model.named_buffers())
    own["average"] = average = made.model.average
    kept = {name: value.detach().clone() for name, value in own.items()}
    given = {name: value.detach().clone() for name, value in made.params.items()}
    states = random_states(torch.device("cpu"))
    with contextlib.nullcontext() if kind == "right" else pytest.raises(ValueError, match="cannot be adapted"):
        made.adapt(loop(backend), made.params, {"lr": torch.tensor(0.1)}, 2)
    assert random_states(torch.device("cpu")) == states
    assert made.model.average is average
    now = dict(made.model.named_parameters()) | dict(made.model.named_buffers())
    assert all(now[name] is own[name] for name in now)
    assert all(torch.equal(value, kept[name]) for name, value in own.items())
    assert all(torch.equal(value, given[name]) for name, value in made.params.items())
    assert made.model.calls == 0 and set(vars(made.model)) == set(vars(Net(middle)))


@pytest.fixture
def checks(monkeypatch: Any) -> list[nn.Module]:
    """The models that were checked."""
    seen: list[nn.Module] = []
    monkeypatch.setattr(Probed, "_check", lambda self, model, *rest: seen.append(model))
    return seen


def test_a_pair_is_checked_once_and_so_are_its_copies(checks: list[nn.Module]) -> None:
    made, inner_loop = problem(lambda net, h: net.last(h)), loop("func")
    for model in (made.model, copy.deepcopy(made.model), made.model):
        replace(made, model=model).adapt(inner_loop, made.params, {"lr": torch.tensor(0.1)}, 1)
    assert checks == [made.model]
    meta = MetaParams(made.params, {"lr": torch.tensor(0.1)})
    inner_loop.linearize(made.model, meta, semi_gradient, made.batches[:1])
    made.adapt(inner_loop, made.params, meta.update, 1)
    assert len(checks) == 2  # another loss
    made.model.eval()
    made.adapt(inner_loop, made.params, meta.update, 1)
    assert len(checks) == 3  # another mode


def test_modules_and_losses_of_the_library_are_not_checked(checks: list[nn.Module]) -> None:
    made = ip.gaussian_policy()
    made.adapt(loop("func"), made.params, {"lr": torch.tensor(0.1)}, 1)
    assert not checks
    made.model.register_forward_hook(lambda module, inputs, output: None)
    made.adapt(loop("func"), made.params, {"lr": torch.tensor(0.1)}, 1)
    assert checks == [made.model]


def test_a_module_with_a_hook_or_a_forward_of_its_own_is_not_known() -> None:
    for kind in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"):
        model = nn.Sequential(nn.Linear(1, 1), nn.Tanh())
        assert is_known(model, reinforce)
        getattr(model[1], f"register_{kind}")(lambda *_: None)
        assert not is_known(model, reinforce), kind
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh())
    model[1].forward = torch.sin
    assert not is_known(model, reinforce)


class Failing(FuncInnerLoop):
    """A backend that has no derivative of a derivative."""

    def adapt(self, model: nn.Module, params: Params, update: Params, loss: Loss, batches: Any) -> Params:
        raise self.error  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("no rule\nfor this"), r"with inner_loop='func' it fails, no rule; use inner_loop='higher' or"),
        (ValueError("2: Linear cannot be adapted"), "^2: Linear cannot be adapted$"),
    ],
)
def test_a_backend_that_fails_is_refused(error: Exception, message: str, caplog: Any) -> None:
    made, config = problem(lambda net, hidden: net.last(hidden)), InnerLoopConfig()
    failing = Failing(config)
    object.__setattr__(failing, "error", error)

    def make(name: str, config: InnerLoopConfig) -> Any:
        return failing if name == "func" else make_inner_loop(name, config, probe=False)

    with pytest.raises(ValueError, match=message):
        made.adapt(Probed(config, failing, ip.BACKENDS, make), made.params, {"lr": torch.tensor(0.1)}, 1)
    assert not caplog.records


def test_a_loss_may_have_an_inner_loop_of_its_own() -> None:
    made, inside = problem(lambda net, hidden: net.last(hidden)), loop("func")

    def loss(forward: Forward, batch: ip.Pairs) -> Tensor:
        start = {"weight": batch.x.mean().reshape(1, 1)}
        within = inside.adapt(one, start, {"lr": torch.tensor(0.1)}, semi_gradient, [single])
        return ip.squared_error(forward, batch) * within["weight"].square().sum()

    one, single = nn.Linear(1, 1, bias=False).double(), ip.Pairs(*torch.ones(2, 1, 3, 1, dtype=torch.float64))
    replace(made, loss=loss).adapt(loop("higher"), made.params, {"lr": torch.tensor(0.1)}, 1)


def test_the_check_can_be_left_out() -> None:
    made = problem(WRONG[".data"][0])
    inner_loop = make_inner_loop("func", InnerLoopConfig(), probe=False)
    made.adapt(inner_loop, made.params, {"lr": torch.tensor(0.1)}, 1)


def test_a_model_of_one_dtype_is_checked_in_its_own(caplog: Any) -> None:
    """Without differences, which need float64."""

    def single(middle: Callable[[Any, Tensor], Tensor]) -> ip.Problem:
        made = problem(lambda net, hidden: middle(net, hidden) + hidden.float() @ torch.ones(4, 2))
        made = replace(made, model=made.model.float(), params=ip.start(made.model.float()))
        return replace(made, batches=[ip.Pairs(*(field.float() for field in batch)) for batch in made.batches])

    update = {"lr": torch.tensor(0.1)}
    made = single(lambda net, hidden: net.last(hidden))
    made.adapt(loop("func"), made.params, update, 1)
    made = single(lambda net, hidden: net.held[0](hidden))
    made.adapt(loop("func"), made.params, update, 1)
    with pytest.raises(ValueError, match="adapted parameters are wrong in"):
        made.adapt(loop("higher"), made.params, update, 1)
    assert not caplog.records


def test_a_check_that_cannot_run_is_said(caplog: Any) -> None:
    made = problem(lambda net, hidden: net.last(hidden) / 0.0)
    made.adapt(loop("func"), made.params, {"lr": torch.tensor(0.1)}, 1)
    assert [record.message for record in caplog.records] == [
        "The meta-gradients of Net with the loss squared_error were not checked: FloatingPointError: the loss or its "
        "gradient is not finite"
    ]
