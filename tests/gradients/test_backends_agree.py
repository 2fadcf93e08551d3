"""The three backends give the same adapted parameters and the same meta-gradients, to 1e-10 in float64."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import inner_problems as ip
import pytest
import torch

from research.inner_loops.func import FuncInnerLoop
from research.parallel import parallel_map
from research.types import Params

TOLERANCE = 1e-10
RATES: dict[str, dict[str, Any]] = {
    "fixed": {"inner_lr": 0.1},
    "fixed_per_step": {"inner_lr": (0.2, 0.05)},
    "scalar": {"inner_lr": 0.1, "learn_inner_lr": "scalar"},
    "per_step": {"inner_lr": (0.2, 0.05), "learn_inner_lr": "per_step"},
    "per_parameter": {"inner_lr": 0.1, "learn_inner_lr": "per_parameter"},
}
CASES = [("sgd", rates) for rates in RATES]
CASES += [(optimizer, rates) for optimizer in ("adam", "adamw") for rates in ("fixed_per_step", "per_parameter")]
HEAD = {"regression": ("2.*",), "policy": ("mean.2.*", "log_std")}


def backends(optimizer: str) -> list[str]:
    return [backend for backend in ip.BACKENDS if optimizer == "sgd" or backend != "learn2learn"]


def results(loop: Any, problem: ip.Problem, steps: int) -> Params:
    """Adapted parameters and meta-gradients in one dict."""
    update = ip.initial_update(loop, problem, steps)
    adapted = problem.adapt(loop, problem.params, update, steps)
    inputs = ip.named(problem.params, update)
    gradient = torch.autograd.grad(
        problem.query_loss(adapted), list(inputs.values()), allow_unused=True, materialize_grads=True
    )
    return {f"adapted.{n}": p.detach() for n, p in adapted.items()} | dict(zip(inputs, gradient, strict=True))


def assert_same(results: dict[str, Params]) -> None:
    (first, expected), *others = results.items()
    assert torch.cat([value.flatten() for value in expected.values()]).norm() > 1e-2
    for backend, values in others:
        assert values.keys() == expected.keys()
        for name, value in values.items():
            torch.testing.assert_close(
                value,
                expected[name],
                rtol=0,
                atol=TOLERANCE,
                msg=lambda m, n=name, b=backend: f"{b} {n}: {m} ({first})",
            )


@pytest.mark.parametrize("adapted", ["all", "head"])
@pytest.mark.parametrize("first_order", [False, True], ids=["second_order", "first_order"])
@pytest.mark.parametrize(("optimizer", "rates"), CASES)
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("problem", ip.PROBLEMS)
def test_backends_agree(problem: str, steps: int, optimizer: str, rates: str, first_order: bool, adapted: str) -> None:
    settings = RATES[rates] | {
        "inner_optimizer": optimizer,
        "first_order": first_order,
        "adapt_only": HEAD[problem] if adapted == "head" else (),
    }
    made = ip.PROBLEMS[problem]()
    loops = {backend: ip.make_loop(backend, **settings) for backend in backends(optimizer)}
    assert_same({backend: results(loop, made, steps) for backend, loop in loops.items()})


@pytest.mark.parametrize("problem", ip.PROBLEMS)
def test_backends_agree_on_one_batch_for_all_steps(problem: str) -> None:
    made = ip.PROBLEMS[problem]()
    made = replace(made, batches=[made.batches[0]] * 5)
    loops = {backend: ip.make_loop(backend, inner_lr=0.02) for backend in ip.BACKENDS}
    assert_same({backend: results(loop, made, 5) for backend, loop in loops.items()})


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("problem", ip.PROBLEMS)
def test_func_gives_the_same_for_every_chunk_size(problem: str, optimizer: str) -> None:
    made = ip.PROBLEMS[problem]()
    config = ip.make_loop("func", inner_optimizer=optimizer, learn_inner_lr="per_parameter").config
    sizes = {str(size): FuncInnerLoop(config, chunk_size=size) for size in (None, 1, 2, ip.NUM_TASKS, 100)}
    assert_same({size: results(loop, made, 2) for size, loop in sizes.items()})


@pytest.mark.parametrize("backend", ip.BACKENDS)
def test_threads_with_a_model_each_do_not_disturb_each_other(backend: str) -> None:
    made, loop = ip.gaussian_policy(), ip.make_loop(backend)
    own = [replace(made, model=copy.deepcopy(made.model)) for _ in range(8)]
    threaded = parallel_map(lambda problem: results(loop, problem, 2), own, num_threads=4)
    assert_same({str(number): values for number, values in enumerate([results(loop, made, 2), *threaded])})


@pytest.mark.parametrize("backend", ip.BACKENDS)
@pytest.mark.parametrize("problem", ip.PROBLEMS)
def test_one_step_of_gradient_descent_by_hand(problem: str, backend: str) -> None:
    """θ − α∇L for each task, from the formula."""
    made = ip.PROBLEMS[problem]()
    loop = ip.make_loop(backend, inner_lr=0.3)
    adapted = made.adapt(loop, made.params, loop.init_update(made.model, made.params, 1), 1)
    for task in range(ip.NUM_TASKS):
        batch = type(made.query)(*(field[task] for field in made.batches[0]))
        value = made.loss(lambda *x: torch.func.functional_call(made.model, made.params, x), batch)
        gradient = torch.autograd.grad(value, list(made.params.values()))
        for (name, start), grad in zip(made.params.items(), gradient, strict=True):
            torch.testing.assert_close(adapted[name][task], start - 0.3 * grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", ip.BACKENDS)
def test_parameters_outside_the_subset_stay(backend: str) -> None:
    made = ip.regression()
    loop = ip.make_loop(backend, adapt_only=("2.weight",))
    adapted = made.adapt(loop, made.params, ip.initial_update(loop, made, 2), 2)
    assert list(adapted) == list(made.params)
    for name, value in adapted.items():
        same = torch.equal(value, made.params[name].expand_as(value))
        assert same == (name != "2.weight"), name


@pytest.mark.parametrize("backend", ip.BACKENDS)
def test_a_subset_that_matches_nothing_is_refused(backend: str) -> None:
    made = ip.regression()
    loop = ip.make_loop(backend, adapt_only=("head.*",))
    with pytest.raises(ValueError, match=r"adapt_only: 'head\.\*' matches no parameter"):
        made.adapt(loop, made.params, {"lr": torch.tensor(0.1)}, 1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("backend", ip.BACKENDS)
def test_without_gradients_the_numbers_stay_and_no_graph_is_kept(backend: str, optimizer: str) -> None:
    if backend not in backends(optimizer):
        return
    made = ip.regression()
    loop = ip.make_loop(backend, inner_optimizer=optimizer)
    update = ip.initial_update(loop, made, 2)
    expected = made.adapt(loop, made.params, update, 2)
    with torch.no_grad():
        without = made.adapt(loop, made.params, update, 2)
    detached = made.adapt(
        loop, {n: p.detach() for n, p in made.params.items()}, {n: p.detach() for n, p in update.items()}, 2
    )
    for name, value in expected.items():
        assert value.requires_grad
        for other in (without[name], detached[name]):
            assert not other.requires_grad
            torch.testing.assert_close(other, value.detach(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", ip.BACKENDS)
def test_the_model_is_left_as_it_was(backend: str) -> None:
    made = ip.regression()
    before = {name: value.detach().clone() for name, value in made.model.named_parameters()}
    loop = ip.make_loop(backend)
    moved = ip.leaves({name: value + 1.0 for name, value in made.params.items()})
    made.meta_loss(loop, moved, ip.initial_update(loop, made, 2), 2).backward()
    for name, value in made.model.named_parameters():
        assert torch.equal(value, before[name])
        assert value.grad is None
        assert isinstance(value, torch.nn.Parameter)


def squared_error_and_output(forward: Any, batch: Any) -> tuple[torch.Tensor, Any]:
    output = forward(batch.x)
    return (output - batch.y).square().mean(), {"output": output}


def stages_by_definition(loop: Any, problem: ip.Problem, params: Params, update: Params) -> list[torch.Tensor]:
    """The parameters of each stage by `adapt` from the start, and the outputs by another forward pass, task by task."""
    paths = [problem.adapt(loop, params, update, step) for step in range(1, 4)]
    paths.insert(0, {name: value.expand(ip.NUM_TASKS, *value.shape) for name, value in params.items()})
    outputs = []
    for path, batch in zip(paths, problem.batches[:3], strict=False):
        own = [{name: value[task] for name, value in path.items()} for task in range(ip.NUM_TASKS)]
        passes = [torch.func.functional_call(problem.model, one, (x,)) for one, x in zip(own, batch.x, strict=True)]
        outputs.append(torch.stack(passes))
    return [*outputs, *(value for path in paths for value in path.values())]


@pytest.mark.parametrize("first_order", [False, True], ids=["second_order", "first_order"])
@pytest.mark.parametrize("backend", [*ip.BACKENDS, "func, task by task"])
def test_stages_and_their_outputs_have_the_values_and_derivatives_of_a_loop(backend: str, first_order: bool) -> None:
    made = ip.regression()
    loop = ip.make_loop(backend.partition(",")[0], inner_lr=(0.2, 0.05), first_order=first_order)
    if "," in backend:
        loop = replace(loop, chunk_size=1)
    update = ip.initial_update(loop, made, 3)
    found = loop.stages(made.model, made.params, update, squared_error_and_output, made.batches[:3])
    assert len(found.params) == 4
    ours = [output["output"] for output in found.outputs]
    ours += [value for params in found.params for value in params.values()]
    theirs = stages_by_definition(loop, made, made.params, update)
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in theirs]
    inputs = list(ip.named(made.params, update).values())
    gradients = [torch.autograd.grad(values, inputs, weights, allow_unused=True) for values in (ours, theirs)]
    for mine, expected in [*zip(ours, theirs, strict=True), *zip(*gradients, strict=True)]:
        torch.testing.assert_close(mine, expected, rtol=0, atol=TOLERANCE)
    with torch.no_grad():
        constant = loop.stages(made.model, made.params, update, squared_error_and_output, made.batches[:3])
    assert not any(output["output"].requires_grad for output in constant.outputs)


def test_func_passes_each_batch_through_the_model_once() -> None:
    made, calls = ip.regression(), 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    loop = ip.make_loop("func")
    with made.model.register_forward_hook(count):
        loop.stages(
            made.model, made.params, ip.initial_update(loop, made, 3), squared_error_and_output, made.batches[:3]
        )
    assert calls == 3
