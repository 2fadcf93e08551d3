"""Derivative of an inner loop at one point, as products with vectors.

A trust region needs J v and Jᵀ u many times at the same parameters, J = ∂adapted/∂meta for each task. A linearisation
keeps the graphs that all products share. The one here works for every differentiable `adapt`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import nn

from research.optim import linear_map
from research.types import Loss, MetaParams, Params


class Adapts(Protocol):
    """The method of an inner loop that is differentiated here."""

    def adapt(self, model: nn.Module, params: Params, update: Params, loss: Loss, batches: Sequence[Any]) -> Params:
        """Returns the adapted parameters, see `base.InnerLoop.adapt`."""


class Linearized(NamedTuple):
    """An inner loop at one point.

    Attributes:
        adapted: The adapted parameters, `[tasks, ...]`, without a graph.
        jvp: Maps a tangent v of the meta-parameters, the same for all tasks, to J v, `[tasks, ...]` per parameter.
        vjp: Maps cotangents u of the adapted parameters, `[tasks, ...]`, to the sum of Jᵀ u over tasks.
    """

    adapted: Params
    jvp: Callable[[MetaParams], Params]
    vjp: Callable[[Params], MetaParams]


def linearize_by_reverse_mode(
    inner_loop: Adapts, model: nn.Module, meta: MetaParams, loss: Loss, batches: Sequence[Any]
) -> Linearized:
    """Returns the linearisation of any `inner_loop.adapt` at `meta`, see `research.optim.linear_map`.

    Example:
        >>> import torch
        >>> from research.inner_loops import InnerLoopConfig, make_inner_loop
        >>> inner_loop, model = make_inner_loop("func", InnerLoopConfig()), torch.nn.Linear(1, 1, bias=False)
        >>> meta = MetaParams({"weight": torch.zeros(1, 1)}, {"lr": torch.tensor(0.25)})
        >>> loss, batches = lambda forward, x: forward(x).square().sum(), [torch.ones(2, 1)]
        >>> result = linearize_by_reverse_mode(inner_loop, model, meta, loss, batches)
        >>> tangent = MetaParams({"weight": torch.ones(1, 1)}, {"lr": torch.tensor(0.0)})
        >>> result.jvp(tangent)["weight"].flatten()  # 1 − 2α for each of two tasks
        tensor([0.5000, 0.5000])
    """

    def adapt(at: MetaParams) -> Params:
        return inner_loop.adapt(model, at.model, at.update, loss, batches)

    return Linearized(*linear_map.linearize(adapt, meta))
