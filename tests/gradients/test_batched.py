"""Losses of many tasks at once against the same losses in a wrapper that hides their form, which vmap computes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import inner_problems as ip
import pytest
import torch
from torch import Tensor, nn

from research.algorithms.regression.agent import make_network
from research.criteria import closed_form_of
from research.estimators import low_variance_curvature
from research.inner_loops import func
from research.inner_loops.base import add_rate_cotangent
from research.inner_loops.batched import batched_loss, task_losses
from research.losses import ExampleBatch, PolicyBatch, dice, reinforce, squared_error
from research.per_task import expand
from research.policies import mlp_kernel
from research.policies.mlp import CategoricalMLP, GaussianMLP, PolicyConfig
from research.types import Forward, Loss, MetaParams, Params

TASKS = 3


def hidden(loss: Loss) -> Loss:
    """The loss under another name, whose form is not known."""
    return lambda forward, batch: loss(forward, batch)


class Case(NamedTuple):
    """A model with a loss, batches `[tasks, ...]` for two inner steps and a query."""

    model: nn.Module
    loss: Loss
    batches: list[Any]

    def params(self) -> Params:
        return ip.start(self.model)


def draws(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


def regression(activation: str) -> Case:
    normal = draws(1)
    network = make_network((2, 5, 4, 3), activation, torch.Generator().manual_seed(0)).double()
    return Case(network, squared_error, [ExampleBatch(normal(TASKS, 6, 2), normal(TASKS, 6, 3)) for _ in range(3)])


def gaussian(loss: Loss, hidden_sizes: tuple[int, ...] = (5,)) -> Case:
    normal = draws(2)
    # The floor of the standard deviation holds for the second action: log_std has no gradient there.
    config = PolicyConfig(hidden_sizes, init_log_std=0.0, min_log_std=-0.5)
    policy = GaussianMLP(3, 2, config, torch.Generator().manual_seed(1)).double()
    policy.log_std.data[1] = -1.0

    def batch() -> PolicyBatch:
        steps = (TASKS, 2, 4)
        return PolicyBatch(normal(*steps, 3), normal(*steps, 2), normal(*steps), normal(*steps), normal(*steps) > -1.0)

    return Case(policy, loss, [batch() for _ in range(3)])


def categorical(loss: Loss) -> Case:
    case = gaussian(loss)
    policy = CategoricalMLP(3, 4, PolicyConfig((5,), "relu"), torch.Generator().manual_seed(1)).double()
    actions = [(batch.action[..., 0] * 7).long() % 4 for batch in case.batches]
    pairs = zip(case.batches, actions, strict=True)
    return Case(policy, loss, [batch._replace(action=action) for batch, action in pairs])


CASES: dict[str, Callable[[], Case]] = {
    "regression_relu": lambda: regression("relu"),
    "regression_tanh": lambda: regression("tanh"),
    "reinforce": lambda: gaussian(reinforce),
    "linear": lambda: gaussian(reinforce, ()),
    "lvc": lambda: gaussian(low_variance_curvature, (5, 4)),
    "dice": lambda: gaussian(dice),
    "categorical_reinforce": lambda: categorical(reinforce),
    "categorical_lvc": lambda: categorical(low_variance_curvature),
    "categorical_dice": lambda: categorical(dice),
}
RULES: dict[str, dict[str, Any]] = {
    "sgd": {"inner_lr": (0.2, 0.1)},
    "first_order": {"first_order": True},
    "meta_sgd": {"learn_inner_lr": "per_parameter"},
    "adam": {"inner_optimizer": "adam", "inner_lr": 0.05},
    "lookahead": {"lookahead_k": 2, "learn_lookahead_alpha": True},
}


def derivatives(case: Case, loss: Loss, settings: dict[str, Any], order: int) -> Params:
    """The adapted parameters, and derivatives of a function of them up to the given order."""
    loop, params = ip.make_loop("func", **settings), case.params()
    update = ip.leaves(loop.init_update(case.model, params, 2))
    adapted = loop.adapt(case.model, params, update, loss, case.batches[:2])
    result = {f"adapted.{name}": value for name, value in adapted.items()}
    value = task_losses(case.model, loss, adapted, case.batches[2]).sum()
    inputs = ip.named(params, update)
    for power in range(1, order + 1):
        gradient = torch.autograd.grad(
            value, list(inputs.values()), create_graph=True, allow_unused=True, materialize_grads=True
        )
        result |= {f"{power}.{name}": g for name, g in zip(inputs, gradient, strict=True)}
        value = sum(((g * (g + 1)).sum() for g in gradient), torch.zeros(()))
    return result


PAIRS = [(name, "sgd") for name in CASES] + [
    (name, rule) for name in ("reinforce", "regression_relu") for rule in RULES
]


@pytest.mark.parametrize(("name", "rule"), dict.fromkeys(PAIRS))
def test_adaptation_and_its_derivatives_are_those_of_vmap(name: str, rule: str) -> None:
    case = CASES[name]()
    assert batched_loss(case.model, case.loss, case.params(), case.batches) is not None
    assert batched_loss(case.model, hidden(case.loss), case.params(), case.batches) is None
    ours, theirs = (derivatives(case, loss, RULES[rule], order=2) for loss in (case.loss, hidden(case.loss)))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        # Adam divides by the root of a gradient's square, which is small for some.
        tolerance = (1e-10 if rule == "adam" else 1e-12) * max(1.0, float(value.detach().abs().max()))
        torch.testing.assert_close(ours[key], value, rtol=0, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", ["reinforce", "categorical_lvc", "regression_tanh"])
@pytest.mark.parametrize("form", ["compiled", "recorded"])
def test_both_forms_are_those_of_vmap(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler, and with one, for some parameters alone."""
    case = CASES[name]()
    if form == "recorded":
        monkeypatch.setattr(mlp_kernel, "serves", lambda network, params: False)
    losses = batched_loss(case.model, case.loss, case.params(), case.batches)
    assert losses is not None
    assert (losses.rows is None) == (form == "recorded")
    settings = {"adapt_only": ("*2.*" if name != "regression_tanh" else "head.*",), "learn_inner_lr": "per_parameter"}
    ours, theirs = (derivatives(case, loss, settings, order=2) for loss in (case.loss, hidden(case.loss)))
    for key, value in theirs.items():
        tolerance = 1e-12 * max(1.0, float(value.detach().abs().max()))
        torch.testing.assert_close(ours[key], value, rtol=0, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}")


META: dict[str, dict[str, Any]] = {
    "sgd": {"inner_lr": (0.2, 0.1)},
    "first_order": {"first_order": True},
    "adapt_only": {"adapt_only": ("*0.*",)},
    "meta_sgd": {"learn_inner_lr": "per_parameter"},
    "adam": {"inner_optimizer": "adam", "inner_lr": 0.05},
}


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("settings", META)
@pytest.mark.parametrize("name", ["regression_relu", "regression_tanh", "lvc", "categorical_reinforce"])
def test_meta_gradients_are_those_of_autograd_through_vmap(name: str, settings: str, steps: int) -> None:
    case = CASES[name]()
    loop, params = ip.make_loop("func", **META[settings]), case.params()
    update = ip.leaves(loop.init_update(case.model, params, max(1, steps)))
    loss = hidden(case.loss)
    batches, query = case.batches[:steps], case.batches[2]
    adapted = loop.adapt(case.model, params, update, loss, batches) if steps else expand(params, TASKS)
    expected = task_losses(case.model, loss, adapted, query).mean()
    inputs = [*params.values(), *update.values()]
    gradient = torch.autograd.grad(expected, inputs, materialize_grads=True, allow_unused=True)
    value, found = loop.meta_gradient(case.model, MetaParams(params, update), case.loss, batches, query)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=1e-12)
    assert not value.requires_grad
    for (key, ours), theirs in zip([*found.model.items(), *found.update.items()], gradient, strict=True):
        if key in found.model or settings == "meta_sgd":
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("settings", ["sgd", "meta_sgd"])
def test_parts_of_the_tasks_on_threads_give_the_same_meta_gradient(settings: str, monkeypatch) -> None:
    case, loop = CASES["lvc"](), ip.make_loop("func", **META[settings])
    meta = MetaParams(case.params(), loop.init_update(case.model, case.params(), 2))

    def found(threads: int) -> list[Tensor]:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        value, gradient = loop.meta_gradient(case.model, meta, case.loss, case.batches[:2], case.batches[2])
        return [value, *gradient.model.values(), *gradient.update.values()]

    whole = found(2)
    monkeypatch.setattr(func, "_WORK_OF_PART", 1)
    assert len(func._parts(TASKS, 10**6)) == TASKS
    first, second = found(1), found(2)
    for ours, theirs, expected in zip(first, second, whole, strict=True):
        assert torch.equal(ours, theirs)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)


def test_the_gradient_of_one_rate_does_not_depend_on_the_threads_of_torch() -> None:
    """A plain sum of so many elements is shared out to the threads."""
    cotangent = torch.randn(25, 40, 400, generator=torch.Generator().manual_seed(0))
    found, plain, threads = [], [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            update = {"lr": torch.zeros(())}
            add_rate_cotangent(update, "w", 0, cotangent)
            found.append(float(update["lr"]))
            plain.append(float(cotangent.sum()))
    finally:
        torch.set_num_threads(threads)
    assert len(set(found)) == 1 < len(set(plain))


def test_batches_of_different_numbers_of_tasks_are_refused() -> None:
    case, loop = CASES["lvc"](), ip.make_loop("func")
    more = type(case.batches[0])(*(torch.cat([leaf, leaf]) for leaf in case.batches[0]))
    meta = MetaParams(case.params(), loop.init_update(case.model, case.params(), 1))
    with pytest.raises(ValueError, match=r"same leading \[tasks\] axis, got lengths \[3, 6\]"):
        loop.meta_gradient(case.model, meta, case.loss, [more], case.batches[2])


def test_the_compiled_functions_are_used_for_the_losses_that_declare_their_form() -> None:
    for name in ("reinforce", "lvc", "categorical_reinforce", "regression_relu", "dice"):
        case = CASES[name]()
        losses = batched_loss(case.model, case.loss, case.params(), case.batches)
        assert losses is not None
        assert (losses.rows is not None) == (name != "dice")


@pytest.mark.parametrize("first_order", [True, False])
def test_blocks_are_kept_for_second_derivatives_alone(first_order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case, kept, compiled = regression("tanh"), [], mlp_kernel.gradient

    def gradient(*arguments: Any) -> mlp_kernel.Gradient:
        found = compiled(*arguments)
        kept.append(found.kept is not None)
        return found

    monkeypatch.setattr(mlp_kernel, "gradient", gradient)
    loop, params = ip.make_loop("func", first_order=first_order), case.params()
    loop.adapt(case.model, params, loop.init_update(case.model, params, 2), case.loss, case.batches[:2])
    assert kept == [not first_order] * 2


def test_a_loss_without_a_graph_is_its_value() -> None:
    for name in CASES:
        case = CASES[name]()
        params = {n: torch.stack([v.detach()] * TASKS) for n, v in case.params().items()}
        recorded, plain = (
            task_losses(case.model, loss, params, case.batches[0]) for loss in (case.loss, hidden(case.loss))
        )
        torch.testing.assert_close(recorded, plain, rtol=1e-12, atol=1e-12)


def test_a_loss_of_outputs_is_none_of_a_distribution() -> None:
    for model, loss in ((gaussian(reinforce).model, squared_error), (regression("tanh").model, reinforce)):
        assert batched_loss(model, loss, ip.start(model), []) is None


def test_inputs_with_a_gradient_or_without_rows_are_left_to_the_other_forms() -> None:
    case = regression("tanh")
    batch, params = case.batches[0], case.params()

    def applies(batch: ExampleBatch, params: Params = params) -> bool:
        return batched_loss(case.model, squared_error, params, [batch]) is not None

    assert applies(batch)
    assert not applies(batch._replace(inputs=batch.inputs.clone().requires_grad_()))
    assert not applies(ExampleBatch(batch.inputs[:, 0], batch.targets[:, 0]))
    loop, meta = ip.make_loop("func"), MetaParams(params, {"lr": torch.tensor(0.1, dtype=torch.float64)})
    row = [ExampleBatch(batch.inputs[:, 0], batch.targets[:, 0])]
    ours, theirs = (loop.linearize(case.model, meta, loss, row) for loss in (case.loss, hidden(case.loss)))
    torch.testing.assert_close(ours.adapted, theirs.adapted)
    inside = torch.func.vmap(lambda bias: torch.tensor(applies(batch, {**params, "head.bias": bias})))
    assert not inside(torch.zeros(2, 3, dtype=torch.float64)).any()


@pytest.mark.parametrize("change", ["a gradient", "another dtype"])
def test_targets_that_compiled_functions_do_not_read_are_recorded(change: str) -> None:
    case = regression("tanh")
    model, params, batch = (
        case.model.float(),
        {n: v.detach().float() for n, v in case.params().items()},
        case.batches[0],
    )
    targets = batch.targets.float().requires_grad_() if change == "a gradient" else batch.targets
    batch, meta = ExampleBatch(batch.inputs.float(), targets), MetaParams(ip.leaves(params), {"lr": torch.tensor(0.1)})
    loop, found = ip.make_loop("func"), []
    for loss in (case.loss, hidden(case.loss)):
        adapted = loop.adapt(model, *meta, loss, [batch])
        found.append([*adapted.values(), *loop.linearize(model, meta, loss, [batch]).adapted.values()])
        if change == "a gradient":
            found[-1] += torch.autograd.grad(adapted["head.weight"].square().sum(), targets)
    torch.testing.assert_close(*found)


def test_a_wrapper_does_not_inherit_the_closed_form() -> None:
    @functools.wraps(squared_error)
    def twice(forward: Forward, batch: ExampleBatch) -> Tensor:
        return 2 * squared_error(forward, batch)

    case, loop = regression("tanh"), ip.make_loop("func")
    meta = MetaParams(case.params(), {"lr": torch.tensor(0.1, dtype=torch.float64)})
    ours, theirs = (loop.linearize(case.model, meta, loss, case.batches[:1]) for loss in (twice, hidden(twice)))
    torch.testing.assert_close(ours.adapted, theirs.adapted, rtol=1e-12, atol=1e-12)
    assert closed_form_of(squared_error) is not None and closed_form_of(twice) is None
