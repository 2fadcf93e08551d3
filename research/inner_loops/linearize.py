"""The derivative of an inner loop at one point, as products with vectors.

A trust region needs J v and Jᵀ u many times at the same parameters, J = ∂adapted/∂meta for each task. A linearisation
keeps what does not change between the products. The one here serves any differentiable `adapt`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import nn

from research.optim import linear_map
from research.types import Loss, MetaParams, Params


class Adapts(Protocol):
    """The part of an inner loop that is differentiated here."""

    def adapt(self, model: nn.Module, params: Params, update: Params, loss: Loss, batches: Sequence[Any]) -> Params:
        """See `base.InnerLoop.adapt`."""


class Linearized(NamedTuple):
    """An inner loop at one point.

    Attributes:
        adapted: The adapted parameters, `[tasks, ...]`, without a graph.
        jvp: J v for a tangent of the meta-parameters: one tangent for all tasks → `[tasks, ...]` for each parameter.
        vjp: Σ over tasks of Jᵀ u for cotangents `[tasks, ...]` of the adapted parameters.
    """

    adapted: Params
    jvp: Callable[[MetaParams], Params]
    vjp: Callable[[Params], MetaParams]


def linearize_by_reverse_mode(
    inner_loop: Adapts, model: nn.Module, meta: MetaParams, loss: Loss, batches: Sequence[Any]
) -> Linearized:
    """The derivative of `inner_loop.adapt` at `meta`, whatever the inner loop is."""

    def adapt(at: MetaParams) -> Params:
        return inner_loop.adapt(model, at.model, at.update, loss, batches)

    return Linearized(*linear_map.linearize(adapt, meta))
