"""The modules and losses whose meta-gradients were measured, which no inner loop has to check again.

tests/gradients/ measures them.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable
from typing import Any

from torch import nn

from research.policies.mlp import MLP, CategoricalMLP, GaussianMLP, TaskLinear
from research.policies.mlp_network import is_changed
from research.policies.q_network import DuelingQNetwork, QNetwork
from research.types import Loss

_MODULES = frozenset(
    {
        *(MLP, TaskLinear, GaussianMLP, CategoricalMLP, QNetwork, DuelingQNetwork),
        *(nn.Sequential, nn.Linear, nn.Conv1d, nn.Conv2d, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm),
        *(nn.Tanh, nn.ReLU, nn.GELU, nn.ELU, nn.SiLU, nn.Softplus, nn.PReLU, nn.Softmax),
    }
)


def is_known(model: nn.Module, loss: Loss) -> bool:
    """Returns whether the loss is one of the library's, and every module of the model is known, without hooks.

    Example:
        >>> from research.losses import reinforce
        >>> is_known(nn.Linear(1, 1), reinforce), is_known(nn.Linear(1, 1), max)
        (True, False)
    """
    function: Any = loss
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", "")).startswith("research.") and all(
        type(module) in _MODULES and not is_changed(module) for module in model.modules()
    )


def fingerprint(model: nn.Module, loss: Callable[..., Any]) -> Hashable:
    """Returns the same value for a model and its copies, and for a function and the same one made again.

    Numbers are no part of it: a counter does not make another model. The mode (`train()`, `eval()`) is.

    Example:
        >>> print_of = functools.partial(fingerprint, loss=max)
        >>> print_of(nn.ReLU()) == print_of(nn.ReLU()), print_of(nn.ReLU()) == print_of(nn.ReLU().eval())
        (True, False)
    """
    return tuple(_print(module) for module in model.modules()), _print(loss)


def _print(value: Any, depth: int = 3) -> Any:
    if value is None or isinstance(value, (bool, str, type)):
        return value
    if depth == 0:
        return type(value)
    below = functools.partial(_print, depth=depth - 1)
    if isinstance(value, nn.Module):
        attributes = {k: v for k, v in vars(value).items() if not k.startswith("_") and not isinstance(v, nn.Module)}
        return type(value), tuple((key, below(attribute)) for key, attribute in attributes.items())
    if isinstance(value, functools.partial):
        return below(value.func), tuple(map(below, value.args)), tuple(map(below, value.keywords.values()))
    if isinstance(value, types.MethodType):
        return below(value.__func__), type(value.__self__)
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
        return value.__code__, tuple(map(below, cells))
    return type(value)
