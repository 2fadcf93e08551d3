"""A small problem for Lookahead optimisers, their base optimisers, and the algorithm as it is written."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

K, ALPHA, STEPS = 3, 0.4, 8
"""Two syncs, and two steps more."""

Optimizer = Any
Make = Callable[..., Optimizer]
Base = Callable[..., torch.optim.Optimizer]


class NotOfferedError(Exception):
    """The implementation has nothing of the kind."""


BASES: dict[str, Base] = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.05),
    "momentum": functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "adam": functools.partial(torch.optim.Adam, lr=0.05),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.05),
    "rmsprop": functools.partial(torch.optim.RMSprop, lr=0.05, momentum=0.9),
}
VARIANTS: dict[str, Base] = {
    **BASES,
    **{f"{name}/foreach": functools.partial(base, foreach=True) for name, base in BASES.items()},
    **{f"{name}/fused": functools.partial(base, fused=True) for name, base in BASES.items() if name != "rmsprop"},
}


class Net(nn.Module):
    """Parameters of some shapes. With `leaves_out` the loss does without `late` at syncs: it has no gradient there."""

    leaves_out = False

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = {"weight": (3, 2), "bias": (2,), "scale": (), "late": (4,)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)))

    def loss(self, step: int) -> Tensor:
        used = [p for n, p in self.named_parameters() if n != "late" or not self.leaves_out or step % K != K - 1]
        return sum(((1 + i) * (p - 0.1 * step).square()).sum() for i, p in enumerate(used)) + self.scale.sin()


def advance(net: Net, optimizer: Optimizer, steps: range, each: Callable[[], Any] = lambda: None) -> None:
    for step in steps:
        optimizer.zero_grad()
        net.loss(step).backward()
        optimizer.step()
        each()


def values(net: Net) -> list[Tensor]:
    return [param.detach().clone() for param in net.parameters()]


def same(ours: list[Tensor], theirs: list[Tensor], atol: float = 0.0) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


def obvious(base: Base, steps: int, inner_state: str = "maintain", k: int = K, alpha: float = ALPHA) -> list[Tensor]:
    """The parameters after some steps, by the algorithm as it is written."""
    net = Net()
    params, optimizer = list(net.parameters()), base(net.parameters())
    slow, slow_state = [p.detach().clone() for p in params], {}
    for step in range(steps):
        advance(net, optimizer, range(step, step + 1))
        if (step + 1) % k:
            continue
        for index, param in enumerate(params):
            slow[index] = slow[index] + alpha * (param.detach() - slow[index])
            param.data = slow[index].clone()
            for key, value in optimizer.state[param].items() if inner_state == "pullback" else ():
                if isinstance(value, Tensor) and key != "step":
                    before = slow_state.get((index, key), torch.zeros_like(value))
                    slow_state[index, key] = before + alpha * (value - before)
                    value.copy_(slow_state[index, key])
        if inner_state == "reset":
            optimizer = base(net.parameters())
    return values(net)


def made(make: Make, base: Base, **settings: Any) -> tuple[Net, Optimizer]:
    net = Net()
    return net, make(base(net.parameters()), **{"k": K, "alpha": ALPHA, **settings})


def trained(make: Make, base: Base, steps: int, **settings: Any) -> list[Tensor]:
    net, optimizer = made(make, base, **settings)
    advance(net, optimizer, range(steps))
    return values(net)


def saved(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
