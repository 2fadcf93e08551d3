"""Losses as criteria: sums over rows of a function of the network's output whose derivatives are written out.

    LOG_PROB  −Σ w log p(a)                 RATIO    −Σ w ρ,  ρ = p(a) / p_old(a)
    CLIPPED   −Σ min(w ρ, w clip(ρ))        KL       Σ w KL(old ‖ new)
    SQUARED   Σ w ‖o − y‖²

Compiled kernels treat every network with every criterion (research/criteria.h): they know no algorithm and no batch. A
loss declares that it is a criterion by `closed_form`; losses without a declaration are differentiated by autograd.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

from jaxtyping import Float, Shaped
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])


class Kind(enum.IntEnum):
    """The functions of a row; see the module."""

    LOG_PROB = 0
    RATIO = 1
    CLIPPED = 2
    KL = 3
    SQUARED = 4


class Criterion(NamedTuple):
    """A criterion of many tasks. Fields that its kind does not read are None.

    Attributes:
        kind: The function of a row.
        weight: w of each row, the advantage and the division by the number of rows included; 0 for invalid rows.
        target: Actions a, `[tasks, rows, out]` or, if they are discrete, `[tasks, rows]` int64; y of SQUARED,
            `[tasks, rows, out]`.
        log_prob: log p_old(a).
        old: The mean or the logits of the old distribution.
        old_log_std: Its log standard deviation, one for all rows; None if it is categorical.
        clip_eps: ε of clip(ρ, 1 − ε, 1 + ε).
    """

    kind: Kind
    weight: Float[Tensor, "tasks rows"]
    target: Shaped[Tensor, "tasks rows *_"] | None = None
    log_prob: Float[Tensor, "tasks rows"] | None = None
    old: Float[Tensor, "tasks rows out"] | None = None
    old_log_std: Float[Tensor, "tasks out"] | None = None
    clip_eps: float = 0.0


class Rows(NamedTuple):
    """A loss in closed form: the inputs of the network, `[tasks, rows, in]`, and the criterion of its outputs."""

    inputs: Float[Tensor, "tasks rows features"]
    criterion: Criterion


ClosedForm = Callable[[Any], Rows]
"""A batch of many tasks, every leaf `[tasks, ...]`, as the rows of a criterion."""


def closed_form(form: ClosedForm) -> Callable[[F], F]:
    """Returns a decorator by which a loss `(forward, batch) -> scalar` declares that it is a criterion.

    The criterion must be the loss for every network and every batch. Tests compare the two.
    """

    def declare(loss: F) -> F:
        loss.closed_form = loss, form  # type: ignore[attr-defined]
        return loss

    return declare


def closed_form_of(loss: Callable[..., Any]) -> ClosedForm | None:
    """Returns the closed form that a loss declares, or None. It is not that of a wrapper, see `functools.wraps`.

    Example:
        >>> closed_form_of(max) is None
        True
    """
    owner, form = getattr(loss, "closed_form", (None, None))
    return cast(ClosedForm, form) if owner is loss else None
