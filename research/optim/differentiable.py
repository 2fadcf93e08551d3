"""Optimiser steps as pure functions: SGD, Adam and AdamW with torch's numbers, differentiable in every argument.

`rule(params, grads, state, lr) -> (params, state)` is one step. Nothing is changed in place and nothing is detached, so
derivatives of any order flow through the parameters, the gradients, the state, and every hyper-parameter that is given
as a tensor. Every operation acts on elements: parameters may carry leading axes, e.g. `[tasks]`, and `vmap` applies.

At an element whose gradients were all zero Adam's √v has an infinite derivative, and torch's own `differentiable=True`
mode returns NaN there. The update itself is differentiable: the first moment m vanishes together with v, so
d(m / (√v + ε)) = dm / ε. That is what these functions return. It needs ε > 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from research.types import Params

Scalar = float | Tensor
"""A hyper-parameter: a number, or a tensor that broadcasts against every parameter."""

LearningRate = Scalar | Mapping[str, Scalar] | Callable[[str], Scalar]
"""One rate, a rate (or a tensor of rates) for each name, or a function from the name to it."""


class SGDState(NamedTuple):
    """Momentum buffers by parameter name; empty without momentum."""

    momentum: Params


class AdamState(NamedTuple):
    """Moments by parameter name.

    Attributes:
        step: How many steps were made.
        exp_avg: Running mean of the gradients, m.
        exp_avg_sq: Running mean of the squared gradients, v.
    """

    step: int
    exp_avg: Params
    exp_avg_sq: Params


UpdateRule = Callable[[Params, Params, Any, LearningRate], tuple[Params, Any]]
"""`rule(params, grads, state, lr) -> (params, state)`; `state=None` starts."""


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
    """Parameters and state after one step of stochastic gradient descent, as in `torch.optim.SGD`.

    g ← g + λθ,  b ← μb + (1 − d)g  (b = g at the first step),  θ ← θ − α·b, or θ − α(g + μb) with `nesterov`.

    Args:
        params: The parameters θ.
        grads: Their gradients g, under the same names.
        state: What the previous step returned; None at the first step.
        lr: The learning rate α, see `LearningRate`.
        momentum: μ.
        dampening: d.
        weight_decay: λ.
        nesterov: Whether to look ahead along the momentum.

    Raises:
        ValueError: `params` and `grads` differ in their names.
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
    """Parameters and state after one step of Adam, as in `torch.optim.Adam`.

    g ← g + λθ,  m ← β₁m + (1 − β₁)g,  v ← β₂v + (1 − β₂)g²,  θ ← θ − α · m/(1 − β₁ᵗ) / (√v/√(1 − β₂ᵗ) + ε).
    (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1.)

    Args:
        params: The parameters θ.
        grads: Their gradients g, under the same names.
        state: What the previous step returned; None at the first step.
        lr: The learning rate α, see `LearningRate`.
        beta1: β₁.
        beta2: β₂.
        eps: ε, above 0 if gradients can be zero.
        weight_decay: λ, added to the gradient.

    Raises:
        ValueError: `params` and `grads` differ in their names.
    """
    _check_names(params, grads)
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
    beta1: Scalar = 0.9,
    beta2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 1e-2,
) -> tuple[Params, AdamState]:
    """Parameters and state after one step of AdamW, as in `torch.optim.AdamW`.

    θ ← (1 − αλ)θ, then Adam's update with λ = 0. (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2.)

    Args:
        params: The parameters θ.
        grads: Their gradients g, under the same names.
        state: What the previous step returned; None at the first step.
        lr: The learning rate α, see `LearningRate`.
        beta1: β₁.
        beta2: β₂.
        eps: ε, above 0 if gradients can be zero.
        weight_decay: λ, decoupled from the gradient.

    Raises:
        ValueError: `params` and `grads` differ in their names.
    """
    decayed = {name: param * (1 - _rate(lr, name) * weight_decay) for name, param in params.items()}
    return adam(decayed, grads, state, lr, beta1=beta1, beta2=beta2, eps=eps)


def adam_start(params: Params) -> AdamState:
    """Returns Adam's state before the first step: zero moments, tensors of their own, for a checkpoint to restore."""
    return AdamState(0, *({name: torch.zeros_like(value) for name, value in params.items()} for _ in range(2)))


UPDATE_RULES: dict[str, UpdateRule] = {"sgd": sgd, "adam": adam, "adamw": adamw}
"""The rules by name, each with torch's default settings."""


def _moments(grads: Params, state: AdamState | None, beta1: Scalar, beta2: Scalar) -> AdamState:
    state = state or adam_start(grads)
    return AdamState(
        step=state.step + 1,
        exp_avg={name: beta1 * state.exp_avg[name] + (1 - beta1) * grad for name, grad in grads.items()},
        exp_avg_sq={name: beta2 * state.exp_avg_sq[name] + (1 - beta2) * grad * grad for name, grad in grads.items()},
    )


def _direction(state: AdamState, name: str, beta1: Scalar, beta2: Scalar, eps: Scalar) -> Tensor:
    mean = state.exp_avg[name] / (1 - beta1**state.step)
    root = _sqrt(state.exp_avg_sq[name]) / (1 - beta2**state.step) ** 0.5
    return mean / (root + eps)


def _sqrt(values: Tensor) -> Tensor:
    """√values, with derivative 0 instead of ∞ at 0."""
    zero = values == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, values).sqrt())


def _decayed(grad: Tensor, weight_decay: Scalar, param: Tensor) -> Tensor:
    return grad if _is_zero(weight_decay) else grad + weight_decay * param


def _is_zero(value: Scalar) -> bool:
    """Whether a setting is the number 0; a tensor never is, since its derivative may be wanted."""
    return not isinstance(value, Tensor) and value == 0


def _rate(lr: LearningRate, name: str) -> Scalar:
    if isinstance(lr, Mapping):
        return lr[name]
    return lr(name) if callable(lr) else lr


def _check_names(params: Params, grads: Params) -> None:
    if params.keys() != grads.keys():
        wrong = ", ".join(sorted(params.keys() ^ grads.keys()))
        raise ValueError(f"grads: need one gradient for each parameter, names differ in {wrong}")
