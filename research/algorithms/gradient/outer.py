"""What the outer loops that follow a gradient share: what they move, the norm of a step, and how policies respond."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from research.inner_loops import InnerLoopConfig
from research.inner_loops.supported import twice_differentiable, vmappable
from research.optim.differentiable import AdamState
from research.per_task import per_task
from research.types import MetaParams, Params


def refuse_learned_update(config: InnerLoopConfig, algorithm: str) -> None:
    """Returns if the inner update rule is a constant; an algorithm without a gradient for it cannot learn it.

    Raises:
        ValueError: It is to be learned; the message has the key.
    """
    for key in config.learned_keys:
        raise ValueError(
            f"{key}={getattr(config, key)!r}: {algorithm} has no gradient to learn it by; need "
            f"{getattr(InnerLoopConfig(), key)!r}, or maml_ppo or maml_trpo, which have one"
        )


def learned(meta: MetaParams, config: InnerLoopConfig) -> Params:
    """The tensors that are meta-learned, by name; the inner update rule is a constant unless its settings say else."""
    model = {"model." + name: value for name, value in meta.model.items()}
    return model | {"update." + name: value for name, value in meta.update.items() if config.learns(name)}


def replaced(meta: MetaParams, params: Params) -> MetaParams:
    """`meta` with the tensors of `params`, named as `learned` names them, in place of its own."""
    return MetaParams(
        {name: params["model." + name] for name in meta.model},
        {name: params.get("update." + name, constant) for name, constant in meta.update.items()},
    )


def adam_start(params: Params) -> AdamState:
    """Adam's moments before the first step: zeros of tensors' own, so that a checkpoint has a place for each."""
    return AdamState(0, *({name: torch.zeros_like(value) for name, value in params.items()} for _ in range(2)))


def norm(vector: Params) -> float:
    """The Euclidean norm of all tensors together."""
    return float(torch.cat([value.flatten() for value in vector.values()]).norm())


def clip_norm(gradient: Params, max_norm: float) -> tuple[Params, float]:
    """The gradient, scaled down to `max_norm` if it is longer (0 leaves it as it is), and its norm before that.

    Raises:
        FloatingPointError: The gradient is not finite: no step along it means anything.
    """
    length = norm(gradient)
    if not math.isfinite(length):
        raise FloatingPointError(
            f"gradient_norm={length}: the meta-gradient is not finite; lower inner_lr or meta_lr, or num_epochs"
        )
    if not 0 < max_norm < length:
        return gradient, length
    return {name: value * (max_norm / length) for name, value in gradient.items()}, length


def respond(policy: nn.Module, params: Params, observation: Tensor) -> Any:
    """The action distributions of each task of a chunk at its own observations, under its own `params [tasks, ...]`."""

    def one(own: Params, seen: Tensor) -> Any:
        return functional_call(policy, own, (seen,))

    with twice_differentiable(policy):
        return per_task(one, params, observation, vmapped=vmappable(policy))
