"""What a Lookahead optimiser has to get right, as checks that any implementation can be put through.

A check is called with how the implementation is made, `make(base_optimizer, k=, alpha=, inner_state=)`, and with how
the base optimiser is. See `lookahead_judge.py` for a command.
"""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import torch
from lookahead_problem import (
    ALPHA,
    STEPS,
    Base,
    K,
    Make,
    Net,
    NotOfferedError,
    Optimizer,
    advance,
    made,
    obvious,
    same,
    saved,
    trained,
    values,
)
from torch import Tensor, nn


def is_an_optimizer(make: Make, base: Base) -> None:
    assert isinstance(made(make, base)[1], torch.optim.Optimizer)


def numbers(make: Make, base: Base) -> None:
    for steps in range(STEPS + 1):
        same(trained(make, base, steps), obvious(base, steps), atol=1e-12)


def syncs_after_every_kth_step(make: Make, base: Base) -> None:
    """And at no other, the first time too."""
    net, alone = Net(), Net()
    optimizer, base_alone = make(base(net.parameters()), k=K, alpha=ALPHA), base(alone.parameters())
    start = values(net)
    advance(net, optimizer, range(K - 1))
    advance(alone, base_alone, range(K - 1))
    same(values(net), values(alone))
    advance(net, optimizer, range(K - 1, K))
    advance(alone, base_alone, range(K - 1, K))
    same(values(net), [s + ALPHA * (f - s) for s, f in zip(start, values(alone), strict=True)], atol=1e-12)


def syncs_without_a_gradient(make: Make, base: Base) -> None:
    """A parameter whose gradient is None at the sync is synced; it moved before."""
    net, optimizer = made(make, base)
    net.leaves_out = True
    start = net.late.detach().clone()
    advance(net, optimizer, range(K - 1))
    moved = net.late.detach().clone()
    advance(net, optimizer, range(K - 1, K))
    assert net.late.grad is None
    torch.testing.assert_close(net.late.detach(), start + ALPHA * (moved - start), rtol=0, atol=1e-12)


def alpha_one_is_the_base(make: Make, base: Base) -> None:
    net = Net()
    advance(net, base(net.parameters()), range(STEPS))
    same(trained(make, base, STEPS, alpha=1.0), values(net))


def reset(make: Make, base: Base) -> None:
    same(trained(make, base, STEPS, inner_state="reset"), obvious(base, STEPS, "reset"), atol=1e-12)


def pullback(make: Make, base: Base) -> None:
    same(trained(make, base, STEPS, inner_state="pullback"), obvious(base, STEPS, "pullback"), atol=1e-12)


def a_checkpoint_goes_on(make: Make, base: Base, atol: float = 0.0, **settings: Any) -> None:
    """At every step of a cycle, into another model and optimiser, bit for bit."""
    expected = trained(make, base, STEPS, **settings)
    for at in range(STEPS):
        net, optimizer = made(make, base, **settings)
        advance(net, optimizer, range(at))
        state = saved({"net": net.state_dict(), "optimizer": optimizer.state_dict()})
        other = Net()
        other.load_state_dict(state["net"])
        following = make(base(other.parameters()), **{"k": K, "alpha": ALPHA, **settings})
        following.load_state_dict(state["optimizer"])
        advance(other, following, range(at, STEPS))
        same(values(other), expected, atol)


def a_checkpoint_goes_on_with_pullback(make: Make, base: Base) -> None:
    a_checkpoint_goes_on(make, base, inner_state="pullback")


def a_checkpoint_of_the_base_loads(make: Make, base: Base) -> None:
    """The base optimiser's state goes on, and the slow weights are the parameters, loaded before it."""
    alone, net = Net(), Net()
    reference, optimizer = base(alone.parameters()), make(base(net.parameters()), k=K, alpha=ALPHA)
    advance(alone, reference, range(2))
    net.load_state_dict(alone.state_dict())
    optimizer.load_state_dict(saved(reference.state_dict()))
    start = values(net)
    advance(net, optimizer, range(2, 2 + K))
    advance(alone, reference, range(2, 2 + K))
    same(values(net), [s + ALPHA * (f - s) for s, f in zip(start, values(alone), strict=True)], atol=1e-12)


def goes_on_after(change: Callable[[Net, Optimizer], tuple[Net, Optimizer]], make: Make, base: Base) -> None:
    for at in range(STEPS):
        net, optimizer = made(make, base)
        advance(net, optimizer, range(at))
        other, following = change(net, optimizer)
        before = values(net)
        advance(other, following, range(at, STEPS))
        same(values(other), obvious(base, STEPS), atol=1e-12)
        same(values(net), before)  # the original stayed where it was
        advance(net, optimizer, range(at, STEPS))
        same(values(net), values(other))


def deepcopy_with_the_model(make: Make, base: Base) -> None:
    goes_on_after(lambda net, optimizer: copy.deepcopy((net, optimizer)), make, base)


def deepcopy_alone(make: Make, base: Base) -> None:
    """The copy has parameters of its own, with which it goes on."""
    net, optimizer = made(make, base)
    advance(net, optimizer, range(K - 1))
    before = values(net)
    other = copy.deepcopy(optimizer)
    params = [param for group in other.param_groups for param in group["params"]]
    for param, theirs in zip(params, net.parameters(), strict=True):
        assert param is not theirs
        param.grad = torch.ones_like(param)
        theirs.grad = torch.ones_like(theirs)
    other.step()
    same(values(net), before)
    optimizer.step()
    same([param.detach() for param in params], values(net))


def pickles(make: Make, base: Base) -> None:
    goes_on_after(lambda net, optimizer: pickle.loads(pickle.dumps((net, optimizer))), make, base)


def schedules(make: Make, base: Base, schedule: Callable[[Any], Any]) -> None:
    """A scheduler does to Lookahead what it does to the base optimiser: seen through an α that is almost 1."""
    results = []
    for wrap in (lambda optimizer: make(optimizer, k=K, alpha=1 - 1e-9), lambda optimizer: optimizer):
        net = Net()
        optimizer = wrap(base(net.parameters()))
        scheduler = schedule(optimizer)
        advance(net, optimizer, range(STEPS), each=scheduler.step)
        results.append(values(net))
    same(*results, atol=1e-7)


def step_schedule(make: Make, base: Base) -> None:
    schedules(make, base, lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5))


def one_cycle(make: Make, base: Base) -> None:
    """It cycles the momentum, or the first β, too."""
    one = functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=STEPS + 1)
    schedules(make, base, one)


def grad_scaler(make: Make, base: Base) -> None:
    """Scaled losses give the same numbers; a step that overflows is skipped and counts for nothing."""
    net, optimizer = made(make, base)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=2)
    step = 0
    for attempt in range(STEPS + 1):
        optimizer.zero_grad()
        loss = net.loss(step) * (float("inf") if attempt == 1 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        step += attempt != 1
    same(values(net), obvious(base, STEPS), atol=1e-12)


def closures(make: Make, base: Base) -> None:
    net, optimizer = made(make, base)
    for step in range(STEPS):

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            loss = net.loss(step)
            loss.backward()
            return loss

        expected = net.loss(step).item()
        assert optimizer.step(closure).item() == expected
    same(values(net), obvious(base, STEPS), atol=1e-12)


def lbfgs(make: Make, base: Base) -> None:
    del base
    net, alone = Net(), Net()
    kind = functools.partial(torch.optim.LBFGS, lr=0.5, max_iter=3)
    optimizer, reference = make(kind(net.parameters()), k=K, alpha=ALPHA), kind(alone.parameters())

    def closure(of: Net, by: Optimizer) -> Tensor:
        by.zero_grad()
        loss = of.loss(0)
        loss.backward()
        return loss

    start = values(net)
    for _ in range(K):
        optimizer.step(functools.partial(closure, net, optimizer))
        reference.step(functools.partial(closure, alone, reference))
    same(values(net), [s + ALPHA * (f - s) for s, f in zip(start, values(alone), strict=True)], atol=1e-12)


def step_hooks(make: Make, base: Base) -> None:
    net, optimizer = made(make, base)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    advance(net, optimizer, range(2))
    assert calls == ["before", "after"] * 2


def state_dict_hooks(make: Make, base: Base) -> None:
    _, optimizer = made(make, base)
    calls: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda *_: calls.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "mark": 1})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: calls.append(f"mark {state.pop('mark')}"))
    optimizer.register_load_state_dict_post_hook(lambda *_: calls.append("after loading"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["before saving", "mark 1", "after loading"]


def zeroes_gradients(make: Make, base: Base) -> None:
    net, optimizer = made(make, base)
    net.loss(0).backward()
    optimizer.zero_grad(set_to_none=False)
    assert all(param.grad is not None and (param.grad == 0).all() for param in net.parameters())
    optimizer.zero_grad(set_to_none=True)
    assert all(param.grad is None for param in net.parameters())


def shows_the_groups_of_the_base(make: Make, base: Base) -> None:
    """Changes to the learning rate take effect, also after a checkpoint was loaded."""
    net, alone = Net(), Net()
    optimizer, reference = make(base(net.parameters()), k=K, alpha=ALPHA), base(alone.parameters())
    for each in (optimizer, reference):
        each.load_state_dict(each.state_dict())
        each.param_groups[0]["lr"] = 0.01
    advance(net, optimizer, range(K - 1))
    advance(alone, reference, range(K - 1))
    same(values(net), values(alone))


def takes_more_groups(make: Make, base: Base) -> None:
    """A group that joins later is synced too: after its own k steps, or with the others."""
    net = Net()
    *first, late = net.parameters()
    optimizer = make(base(first), k=K, alpha=ALPHA)
    advance(net, optimizer, range(K))
    optimizer.add_param_group({"params": [late]})
    start, alone = late.detach().clone(), nn.Parameter(late.detach().clone())
    reference = base([alone])
    for _ in range(K):
        for param in net.parameters():
            param.grad = torch.ones_like(param)
        alone.grad = torch.ones_like(alone)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(late.detach(), start + ALPHA * (alone.detach() - start), rtol=0, atol=1e-12)


def groups_have_their_own_settings(make: Make, base: Base) -> None:
    net = Net()
    *first, late = net.parameters()
    groups = [{"params": first}, {"params": [late], "lookahead_k": 2, "lookahead_alpha": 1.0}]
    optimizer = make(base(groups), k=K, alpha=ALPHA)
    if not hasattr(optimizer, "resync"):
        raise NotOfferedError
    start, alone = values(net), copy.deepcopy(net)
    reference = base(alone.parameters())
    advance(net, optimizer, range(K))
    advance(alone, reference, range(K))
    *fast, fast_late = values(alone)
    same(values(net), [*(s + ALPHA * (f - s) for s, f in zip(start, fast)), fast_late], atol=1e-12)  # noqa: B905


def refuses_a_parameter_of_another_group(make: Make, base: Base) -> None:
    net, optimizer = made(make, base)
    refused(lambda: optimizer.add_param_group({"params": [net.bias]}))


def refuses_impossible_settings(make: Make, base: Base) -> None:
    for key, value in (("k", 0), ("k", -1), ("alpha", 2.0), ("alpha", -0.5)):
        refused(functools.partial(made, make, base, **{key: value}))


def refused(call: Callable[[], Any]) -> None:
    try:
        call()
    except (ValueError, AssertionError):
        return
    raise AssertionError("nothing was refused")


def shows_the_slow_weights(make: Make, base: Base) -> None:
    """For an evaluation; the fast ones come back, after an error too."""
    net, optimizer = made(make, base)
    if not hasattr(optimizer, "slow_weights"):
        raise NotOfferedError
    start = values(net)
    advance(net, optimizer, range(K - 1))
    fast = values(net)
    try:
        with optimizer.slow_weights():
            same(values(net), start)
            raise KeyError
    except KeyError:
        same(values(net), fast)
    advance(net, optimizer, range(K - 1, STEPS))
    same(values(net), obvious(base, STEPS), atol=1e-12)


def starts_anew_from_outside_writes(make: Make, base: Base) -> None:
    net, optimizer = made(make, base)
    if not hasattr(optimizer, "resync"):
        raise NotOfferedError
    advance(net, optimizer, range(K - 1))
    with torch.no_grad():
        for param in net.parameters():
            param.fill_(0.5)
    optimizer.resync()
    copied = copy.deepcopy((net, optimizer.base))
    advance(net, optimizer, range(K))
    advance(*copied, range(K))
    same(values(net), [0.5 + ALPHA * (f - 0.5) for f in values(copied[0])], atol=1e-12)


def follows_the_model_to_another_dtype(make: Make, base: Base) -> None:
    net = Net()
    optimizer = make(base(net.parameters()), k=K, alpha=ALPHA)
    net.float()
    advance(net, optimizer, range(2 * K))
    torch.testing.assert_close(values(net), [v.float() for v in obvious(base, 2 * K)], rtol=0, atol=1e-5)


CHECKS: dict[str, Callable[[Make, Base], None]] = {
    function.__name__: function
    for function in (
        is_an_optimizer,
        numbers,
        syncs_after_every_kth_step,
        syncs_without_a_gradient,
        alpha_one_is_the_base,
        reset,
        pullback,
        a_checkpoint_goes_on,
        a_checkpoint_goes_on_with_pullback,
        a_checkpoint_of_the_base_loads,
        deepcopy_with_the_model,
        deepcopy_alone,
        pickles,
        step_schedule,
        one_cycle,
        grad_scaler,
        closures,
        lbfgs,
        step_hooks,
        state_dict_hooks,
        zeroes_gradients,
        shows_the_groups_of_the_base,
        takes_more_groups,
        groups_have_their_own_settings,
        refuses_a_parameter_of_another_group,
        refuses_impossible_settings,
        shows_the_slow_weights,
        starts_anew_from_outside_writes,
        follows_the_model_to_another_dtype,
    )
}
