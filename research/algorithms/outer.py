"""Outer loops that follow a meta-gradient: the tensors that they move, limits on norms, and weights of penalties."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from research.inner_loops import InnerLoopConfig
from research.optim.flat import norm
from research.types import MetaParams, Metrics, Params


def initial_params(module: nn.Module) -> Params:
    """Returns copies of the module's parameters by name, without a graph."""
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def refuse_learned_update(config: InnerLoopConfig, algorithm: str) -> None:
    """Raises ValueError if the settings say that the inner update rule is meta-learned, which needs a meta-gradient.

    Args:
        config: The settings.
        algorithm: Name of the algorithm in the message.
    """
    for key in config.learned_keys:
        raise ValueError(
            f"{key}={getattr(config, key)!r}: {algorithm} has no gradient to learn it by; need "
            f"{getattr(InnerLoopConfig(), key)!r}, or maml_trpo, maml_ppo or maml_regression, which have one"
        )


def learned(meta: MetaParams, config: InnerLoopConfig) -> Params:
    """Returns the meta-learned tensors by name: the initial parameters, and the learned parts of the update rule."""
    model = {"model." + name: value for name, value in meta.model.items()}
    return model | {"update." + name: value for name, value in meta.update.items() if config.learns(name)}


def replaced(meta: MetaParams, params: Params) -> MetaParams:
    """Returns `meta` with other meta-learned tensors, named as by `learned`; the constants stay."""
    return MetaParams(
        {name: params["model." + name] for name in meta.model},
        {name: params.get("update." + name, constant) for name, constant in meta.update.items()},
    )


def move_towards(params: Params, target: Params, rate: float) -> tuple[Params, Metrics]:
    """Returns params + rate · (target − params), the meta-update of Reptile, and the metrics of the move."""
    direction = {name: target[name] - value for name, value in params.items()}
    moved = {name: value + rate * direction[name] for name, value in params.items()}
    length = norm(direction)
    return moved, {"gradient_norm": length, "step_norm": rate * length}


def clip_norm(gradient: Params, max_norm: float) -> tuple[Params, float]:
    """Returns the gradient, scaled down to the norm `max_norm` if it is longer (0: never), and its norm before that.

    Raises:
        FloatingPointError: The gradient is not finite.
    """
    length = norm(gradient)
    if not math.isfinite(length):
        raise FloatingPointError(
            f"gradient_norm={length}: the meta-gradient is not finite; lower inner_lr or meta_lr, or num_epochs"
        )
    if not 0 < max_norm < length:
        return gradient, length
    return {name: value * (max_norm / length) for name, value in gradient.items()}, length


def adapted_coef(coef: Tensor, kl: Tensor, target: float) -> Tensor:
    """Returns 2 · coef where KL > 1.5 · target, coef / 2 where KL < target / 1.5, else coef, within [1e-8, 1e4].

    Schulman et al. 2017, arXiv:1707.06347, section 4. The bounds keep it from vanishing while the policy hardly moves.
    """
    factor = torch.where(kl > 1.5 * target, 2.0, torch.where(kl < target / 1.5, 0.5, 1.0))
    return (coef * factor).clamp(1e-8, 1e4)
