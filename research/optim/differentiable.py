"""Optimiser steps as pure functions: SGD, Adam and AdamW with torch's numbers, differentiable in every argument.

`rule(params, grads, state, lr) -> (params, state)` is one step. It changes nothing in place and detaches nothing, so
that derivatives of every order pass through the parameters, the gradients, the state, and all hyper-parameters that are
given as tensors. Every operation acts on elements: parameters may have leading axes, e.g. `[tasks]`, and `vmap`
applies.

At an element whose gradients were all 0, Adam's √v has an infinite derivative, and torch's own `differentiable=True`
mode returns NaN. The update itself is differentiable there: the first moment m is 0 together with v, so
d(m / (√v + ε)) = dm / ε. These functions return that. It needs ε > 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from research.types import Params

Scalar = float | Tensor
"""A hyper-parameter: a number, or a tensor that broadcasts to every parameter."""

LearningRate = Scalar | Mapping[str, Scalar] | Callable[[str], Scalar]
"""One rate, a rate (or a tensor of rates) for each name, or a function from the name to it."""


class SGDState(NamedTuple):
    """Momentum buffers by parameter name; empty without momentum."""

    momentum: Params


class AdamState(NamedTuple):
    """Moments by parameter name.

    Attributes:
        step: Number of finished steps.
        exp_avg: Running mean of the gradients, m.
        exp_avg_sq: Running mean of the squared gradients, v.
    """

    step: int
    exp_avg: Params
    exp_avg_sq: Params


UpdateRule = Callable[[Params, Params, Any, LearningRate], tuple[Params, Any]]
"""`rule(params, grads, state, lr) -> (params, state)`; `state=None` is the state before the first step."""


def sgd(
    params: Params,
    grads: Params,
    state: SGDState | None,
    lr: LearningRate,
    *,
    momentum: Scalar = 0.0,
    dampening: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    nesterov: bool = False,
) -> tuple[Params, SGDState]:
    """Returns parameters and state after one step of stochastic gradient descent, as in `torch.optim.SGD`.

    g ← g + λθ,  b ← μb + (1 − d)g  (b = g at the first step),  θ ← θ − α·b, or θ − α(g + μb) with `nesterov`.

    Args:
        params: The parameters θ.
        grads: Their gradients g, under the same names.
        state: State that the previous step returned; None at the first step.
        lr: The learning rate α, see `LearningRate`.
        momentum: μ.
        dampening: d.
        weight_decay: λ.
        nesterov: Whether to use Nesterov's momentum.

    Raises:
        ValueError: `params` and `grads` differ in their names.

    Example:
        >>> params, state = sgd({"w": torch.tensor(1.0)}, {"w": torch.tensor(2.0)}, None, lr=0.25)
        >>> params
        {'w': tensor(0.5000)}
    """
    _check_names(params, grads)
    buffers: Params = {}
    updated: Params = {}
    for name, param in params.items():
        step = _decayed(grads[name], weight_decay, param)
        if not _is_zero(momentum):
            previous = None if state is None else state.momentum[name]
            buffer = step if previous is None else momentum * previous + (1 - dampening) * step
            buffers[name] = buffer
            step = step + momentum * buffer if nesterov else buffer
        updated[name] = param - _rate(lr, name) * step
    return updated, SGDState(buffers)


def adam(
    params: Params,
    grads: Params,
    state: AdamState | None,
    lr: LearningRate,
    *,
    beta1: Scalar = 0.9,
    beta2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
) -> tuple[Params, AdamState]:
    """Returns parameters and state after one step of Adam, as in `torch.optim.Adam`.

    g ← g + λθ,  m ← β₁m + (1 − β₁)g,  v ← β₂v + (1 − β₂)g²,  θ ← θ − α · m/(1 − β₁ᵗ) / (√v/√(1 − β₂ᵗ) + ε).
    (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1.) Arguments and errors as for `sgd`; ε must be
    above 0 if gradients can be 0. Complex parameters are refused: torch takes them for pairs of real ones.

    Example:
        >>> params, state = adam({"w": torch.tensor(1.0)}, {"w": torch.tensor(2.0)}, None, lr=0.25)
        >>> params, state.step
        ({'w': tensor(0.7500)}, 1)
    """
    _check_names(params, grads)
    for name, grad in grads.items():
        if grad.is_complex():
            raise ValueError(
                f"grads: {name} is complex, need real ones; use torch.view_as_real on the parameter, or sgd"
            )
    grads = {name: _decayed(grads[name], weight_decay, param) for name, param in params.items()}
    state = _moments(grads, state, beta1, beta2)
    updated = {
        name: param - _rate(lr, name) * _direction(state, name, beta1, beta2, eps) for name, param in params.items()
    }
    return updated, state


def adamw(
    params: Params,
    grads: Params,
    state: AdamState | None,
    lr: LearningRate,
    *,
    weight_decay: Scalar = 1e-2,
    **settings: Scalar,
) -> tuple[Params, AdamState]:
    """Returns parameters and state after one step of AdamW, as in `torch.optim.AdamW`. Settings as for `adam`.

    θ ← (1 − αλ)θ, then Adam's update with λ = 0. (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2.)

    Example:
        >>> params, _ = adamw({"w": torch.tensor(1.0)}, {"w": torch.tensor(2.0)}, None, lr=0.25, weight_decay=1.0)
        >>> params
        {'w': tensor(0.5000)}
    """
    decayed = {name: param * (1 - _rate(lr, name) * weight_decay) for name, param in params.items()}
    return adam(decayed, grads, state, lr, **settings)


def adam_start(params: Params) -> AdamState:
    """Returns Adam's state before the first step: zero moments, tensors of their own, for a checkpoint to restore.

    Example:
        >>> adam_start({"w": torch.ones(2)})
        AdamState(step=0, exp_avg={'w': tensor([0., 0.])}, exp_avg_sq={'w': tensor([0., 0.])})
    """
    return AdamState(0, *({name: torch.zeros_like(value) for name, value in params.items()} for _ in range(2)))


UPDATE_RULES: dict[str, UpdateRule] = {"sgd": sgd, "adam": adam, "adamw": adamw}
"""The rules by name, each with torch's defaults."""


def _moments(grads: Params, state: AdamState | None, beta1: Scalar, beta2: Scalar) -> AdamState:
    state = state or adam_start(grads)
    return AdamState(
        step=state.step + 1,
        exp_avg={name: beta1 * state.exp_avg[name] + (1 - beta1) * grad for name, grad in grads.items()},
        exp_avg_sq={name: beta2 * state.exp_avg_sq[name] + (1 - beta2) * grad * grad for name, grad in grads.items()},
    )


def _direction(state: AdamState, name: str, beta1: Scalar, beta2: Scalar, eps: Scalar) -> Float[Tensor, "*_"]:
    mean = state.exp_avg[name] / (1 - beta1**state.step)
    root = _sqrt(state.exp_avg_sq[name]) / (1 - beta2**state.step) ** 0.5
    return mean / (root + eps)


def _sqrt(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns √values, with derivative 0 instead of ∞ at 0."""
    zero = values == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, values).sqrt())


def _decayed(
    grad: Float[Tensor, "*shape"], weight_decay: Scalar, param: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    return grad if _is_zero(weight_decay) else grad + weight_decay * param


def _is_zero(value: Scalar) -> bool:
    """Returns whether a setting is the number 0; a tensor never is, since its derivative may be needed."""
    return not isinstance(value, Tensor) and value == 0


def _rate(lr: LearningRate, name: str) -> Scalar:
    if isinstance(lr, Mapping):
        return lr[name]
    return lr(name) if callable(lr) else lr


def _check_names(params: Params, grads: Params) -> None:
    if params.keys() != grads.keys():
        wrong = ", ".join(sorted(params.keys() ^ grads.keys()))
        raise ValueError(f"grads: need one gradient for each parameter, names differ in {wrong}")
