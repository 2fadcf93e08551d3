"""The Lookahead optimiser: the battery on every base optimiser, and what only ours can be asked for."""

from __future__ import annotations

import copy
import functools
import itertools
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lookahead_battery as battery
import lookahead_problem as problem
import pytest
import torch
from torch import nn

from research.optim import Lookahead, lookahead_around
from research.optim.lookahead_settings import check_settings

ALL_OF_TORCH = ["Adadelta", "Adafactor", "Adagrad", "Adamax", "ASGD", "NAdam", "RAdam", "Rprop"]


@pytest.mark.thorough
@pytest.mark.parametrize("base", problem.VARIANTS.values(), ids=problem.VARIANTS)
@pytest.mark.parametrize("check", battery.CHECKS.values(), ids=battery.CHECKS)
def test_battery(check: Callable[..., None], base: problem.Base) -> None:
    check(Lookahead, base)


@pytest.mark.thorough
@pytest.mark.parametrize("check", ["numbers", "reset", "pullback", "a_checkpoint_goes_on", "pickles"])
@pytest.mark.parametrize("base", problem.BASES.values(), ids=problem.BASES)
def test_a_gradient_that_is_missing_at_every_sync_changes_nothing(check: str, base: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(problem.Net, "leaves_out", True)
    battery.CHECKS[check](Lookahead, base)


@pytest.mark.thorough
@pytest.mark.parametrize("inner_state", ["maintain", "reset", "pullback"])
@pytest.mark.parametrize("name", ALL_OF_TORCH)
def test_every_other_optimiser_of_torch_goes_in(name: str, inner_state: Any) -> None:
    base = functools.partial(getattr(torch.optim, name), lr=0.05)
    if inner_state == "maintain":
        battery.numbers(Lookahead, base)
    if inner_state == "reset":
        battery.reset(Lookahead, base)
    rounded = 1e-9 if name == "NAdam" else 0.0  # torch keeps its product of momenta in float32, and loads it as float64
    battery.a_checkpoint_goes_on(Lookahead, base, rounded, inner_state=inner_state)


def test_what_counts_steps_is_not_pulled_back() -> None:
    """NAdam's product of momenta belongs to its step."""
    net = problem.Net()
    optimizer = Lookahead(torch.optim.NAdam(net.parameters(), lr=0.1), k=2, inner_state="pullback")
    alone = problem.Net()
    reference = torch.optim.NAdam(alone.parameters(), lr=0.1)
    problem.advance(net, optimizer, range(2))
    problem.advance(alone, reference, range(2))
    ours, theirs = optimizer.state[net.weight], reference.state[alone.weight]
    assert ours["step"] == theirs["step"] == 2
    assert ours["mu_product"] == theirs["mu_product"]
    torch.testing.assert_close(ours["exp_avg"], theirs["exp_avg"] / 2, rtol=0, atol=1e-15)


@pytest.mark.parametrize("inner_state", ["maintain", "reset", "pullback"])
@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_complex_parameters_are_pairs_of_real_ones(name: str, inner_state: Any) -> None:
    """Torch's optimisers step in both parts, and so must a sync, of the state as well."""
    settings = {"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.5}}.get(name, {})
    start = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pair, single = start.clone().requires_grad_(), torch.view_as_complex(start.clone()).requires_grad_()
    for param in (pair, single):
        optimizer = Lookahead(getattr(torch.optim, name)([param], lr=0.1, **settings), 2, 0.5, inner_state)
        for step in range(5):
            optimizer.zero_grad()
            parts = param if param is pair else torch.view_as_real(param)
            (parts - 0.3 * step).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(single.detach()), pair.detach(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_pullback_takes_the_momentum_of_sparse_gradients(alpha: float) -> None:
    """The numbers of dense gradients; the momentum stays sparse."""
    start = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = []
    for sparse in (False, True):
        table = nn.Embedding.from_pretrained(start.clone(), freeze=False, sparse=sparse)
        optimizer = Lookahead(torch.optim.SGD(table.parameters(), lr=0.1, momentum=0.9), 2, alpha, "pullback")
        for step in range(7):
            optimizer.zero_grad()
            table(torch.tensor([1, 2, step % 5])).square().sum().backward()
            optimizer.step()
            if step == 4:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        momentum = optimizer.state[table.weight]["momentum_buffer"]
        assert momentum.is_sparse == sparse
        results.append((table.weight.detach(), momentum.to_dense()))
    for dense, sparse_one in zip(*results, strict=True):
        torch.testing.assert_close(sparse_one, dense, rtol=0, atol=1e-14)


def nested(net: nn.Module, inner: str = "maintain", outer: str = "maintain") -> Lookahead:
    base = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.5)
    return Lookahead(Lookahead(base, k=2, alpha=0.5, inner_state=inner), k=6, alpha=0.7, inner_state=outer)


def test_nested_syncs_with_the_slow_weights_of_the_slow_weights() -> None:
    """Both levels by hand, over two syncs of the outer one, each of which starts the inner one anew."""
    net, alone = problem.Net(), problem.Net()
    optimizer, reference = nested(net), torch.optim.SGD(alone.parameters(), lr=0.05, momentum=0.5)
    inner = outer = problem.values(alone)
    for step in range(14):
        problem.advance(net, optimizer, range(step, step + 1))
        problem.advance(alone, reference, range(step, step + 1))
        if step % 2 == 1:
            inner = write(alone, [s + 0.5 * (f - s) for s, f in zip(inner, problem.values(alone), strict=True)])
        if step % 6 == 5:
            inner = outer = write(alone, [s + 0.7 * (f - s) for s, f in zip(outer, problem.values(alone), strict=True)])
        problem.same(problem.values(net), problem.values(alone), atol=1e-14)


def write(net: nn.Module, to: list[torch.Tensor]) -> list[torch.Tensor]:
    for param, value in zip(net.parameters(), to, strict=True):
        param.data.copy_(value)
    return to


@pytest.mark.thorough
@pytest.mark.parametrize(("inner", "outer"), [*itertools.product(["maintain", "pullback"], repeat=2)])
def test_nested_checkpoints_and_copies_go_on(inner: str, outer: str) -> None:
    for at in range(15):
        net = problem.Net()
        optimizer = nested(net, inner, outer)
        problem.advance(net, optimizer, range(at))
        state = problem.saved({"net": net.state_dict(), "optimizer": optimizer.state_dict()})
        other = problem.Net()
        other.load_state_dict(state["net"])
        following = nested(other, inner, outer)
        following.load_state_dict(state["optimizer"])
        copied = copy.deepcopy((net, optimizer))
        unpickled = pickle.loads(pickle.dumps((net, optimizer)))
        for pair in ((net, optimizer), (other, following), copied, unpickled):
            problem.advance(*pair, range(at, 16))
            problem.same(problem.values(pair[0]), problem.values(net))


def test_a_checkpoint_has_its_settings_and_the_base_optimiser_can_load_it() -> None:
    net, other = problem.Net(), problem.Net()
    optimizer = Lookahead(torch.optim.Adam(net.parameters()), k=3, alpha=0.25, inner_state="pullback")
    problem.advance(net, optimizer, range(4))
    following = Lookahead(torch.optim.Adam(other.parameters()))
    following.load_state_dict(optimizer.state_dict())
    group = following.param_groups[0]
    assert [group[f"lookahead_{key}"] for key in ("k", "alpha", "inner_state", "steps")] == [3, 0.25, "pullback", 1]
    alone = torch.optim.Adam(other.parameters())
    alone.load_state_dict(problem.saved(optimizer.state_dict()))
    problem.same([alone.state[other.bias]["exp_avg"]], [optimizer.state[net.bias]["exp_avg"]])


def test_a_loaded_checkpoint_is_not_written_to() -> None:
    net = problem.Net()
    optimizer = Lookahead(torch.optim.SGD(net.parameters(), lr=0.1), k=2)
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(state)
    before = copy.deepcopy(state["lookahead"]["slow"])
    problem.advance(net, optimizer, range(2))
    problem.same(list(state["lookahead"]["slow"].values()), list(before.values()))


def test_slow_weights_of_another_model_are_refused_before_anything_is_loaded() -> None:
    net = problem.Net()
    optimizer = Lookahead(torch.optim.Adam(net.parameters(), lr=0.1))
    wrong = optimizer.state_dict()
    wrong["param_groups"][0]["lr"] = 0.7
    wrong["lookahead"] = {"slow": {0: torch.zeros(3)}, "slow_state": {0: {}}}
    with pytest.raises(ValueError, match=r"lookahead: the checkpoint's slow weights have shapes \[\(3,\)\], need"):
        optimizer.load_state_dict(wrong)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_no_step_while_the_model_holds_the_slow_weights() -> None:
    net = problem.Net()
    optimizer = Lookahead(torch.optim.SGD(net.parameters(), lr=0.1))
    with optimizer.slow_weights(), pytest.raises(RuntimeError, match=r"leave slow_weights\(\) first"):
        optimizer.step()
    with (
        optimizer.slow_weights(),
        pytest.raises(RuntimeError, match="holds the slow weights already"),
        optimizer.slow_weights(),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k=0: need at least 1"),
        ({"k": 2.5}, "k=2.5: need a whole number of steps, at least 1"),
        ({"k": True}, "k=True: need a whole number"),
        ({"alpha": 2}, "alpha=2: need a value above 0, at most 1"),
        ({"alpha": 0.0}, "alpha=0.0: need a value above 0, at most 1"),
        ({"alpha": float("nan")}, "alpha=nan: need a value above 0, at most 1"),
        ({"inner_state": "keep"}, "inner_state='keep': need one of 'maintain', 'reset', 'pullback'"),
    ],
)
def test_the_message_has_key_value_and_what_is_allowed(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lookahead(torch.optim.SGD(problem.Net().parameters(), lr=0.1), **settings)
    with pytest.raises(ValueError, match=message):
        lookahead_around(torch.optim.SGD, **settings)


def test_settings_of_a_group_are_checked_by_their_own_name() -> None:
    net = problem.Net()
    base = torch.optim.SGD([{"params": list(net.parameters()), "lookahead_alpha": 2}], lr=0.1)
    with pytest.raises(ValueError, match="lookahead_alpha=2: need a value above 0, at most 1"):
        Lookahead(base)
    optimizer = Lookahead(torch.optim.SGD([net.weight], lr=0.1))
    with pytest.raises(ValueError, match="lookahead_k=0: need at least 1"):
        optimizer.add_param_group({"params": [net.bias], "lookahead_k": 0})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="k='5': need a whole number"):
        check_settings({"k": "5", "alpha": 0.5, "inner_state": "reset"})


def test_a_parameter_that_is_there_twice_is_named_by_its_shape() -> None:
    net = problem.Net()
    with pytest.warns(UserWarning, match="duplicate"):
        base = torch.optim.SGD([net.bias, net.bias], lr=0.1)
    with pytest.raises(ValueError, match=r"a parameter of shape \(2,\) is in the groups twice"):
        Lookahead(base)


def test_a_base_that_is_differentiable_is_refused() -> None:
    base = torch.optim.SGD(problem.Net().parameters(), lr=0.1, differentiable=True)
    with pytest.raises(ValueError, match="differentiable=True: need a base optimizer without it"):
        Lookahead(base)


def test_around_makes_a_factory_that_pickles() -> None:
    make = pickle.loads(pickle.dumps(lookahead_around(torch.optim.Adam, k=problem.K, alpha=problem.ALPHA)))
    net = problem.Net()
    problem.advance(net, make(net.parameters(), lr=0.05), range(7))
    problem.same(problem.values(net), problem.obvious(problem.BASES["adam"], 7), atol=1e-12)


def test_slow_weights_are_no_part_of_a_graph() -> None:
    net = problem.Net()
    optimizer = Lookahead(torch.optim.SGD(net.parameters(), lr=0.1), k=2)
    problem.advance(net, optimizer, range(3))
    assert all(not value.requires_grad for value in optimizer.state_dict()["lookahead"]["slow"].values())
    assert all(param.requires_grad and param.is_leaf for param in net.parameters())


def test_the_example_of_the_page_runs() -> None:
    page = Path(__file__).parents[2] / "docs" / "lookahead.md"
    (text,) = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(text, names)
    assert names["loss"].isfinite()
    assert names["checkpoint"]["optimizer"]["lookahead"]["slow"].keys() == {0, 1}
