"""Multilayer perceptrons by their shape, for code that computes with flat vectors of their parameters."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from research.optim.flat import flatten
from research.policies.mlp import MLP, CategoricalMLP, GaussianMLP, TaskLinear
from research.policies.mlp_function import DERIVATIVES
from research.types import Params

MOST_LAYERS = 32
"""Limit of the compiled functions (research/perceptron.h)."""

Vectors = Float[Tensor, "*_ parameters"]
"""Parameters of a network: one vector for all tasks, or one for each."""


@dataclass(frozen=True)
class Network:
    """The shape of a network, without its parameters.

    Attributes:
        names: Names of the parameters, in the order of a flat vector.
        shapes: Their shapes.
        layers: Names of the weight and the bias of each layer.
        activation: The activation between the layers.
        log_std: Name of the log standard deviation if the output is the mean of a normal distribution, else None.
        is_categorical: Whether the output is the logits of a categorical distribution.
        min_log_std: Lower limit of the log standard deviation.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    layers: tuple[tuple[str, str], ...]
    activation: type[nn.Module]
    log_std: str | None = None
    is_categorical: bool = False
    min_log_std: float = 0.0

    def flat(self, params: Params, batch_axes: int = 0) -> Vectors:
        """Returns the parameters as vectors, a copy without a graph; `batch_axes=1` for parameters `[tasks, ...]`."""
        return flatten((params[name].detach() for name in self.names), batch_axes)

    def named(self, vectors: Vectors) -> Params:
        """Returns views of flat vectors by name; the axes before their last one stay."""
        pieces, leading = vectors.split(self.lengths, -1), vectors.shape[:-1]
        trios = zip(self.names, pieces, self.shapes, strict=True)
        return {name: piece.view(*leading, *shape) for name, piece, shape in trios}

    @functools.cached_property
    def lengths(self) -> list[int]:
        """The number of elements of each parameter."""
        return [shape.numel() for shape in self.shapes]

    @functools.cached_property
    def num_parameters(self) -> int:
        """The length of a flat vector."""
        return sum(self.lengths)

    @functools.cached_property
    def sizes(self) -> list[int]:
        """The number of inputs, and of outputs of each layer."""
        shape = dict(zip(self.names, self.shapes, strict=True))
        return [shape[self.layers[0][0]][1], *(shape[weight][0] for weight, _ in self.layers)]

    @functools.cached_property
    def starts(self) -> dict[str, int]:
        """Where each parameter begins in a flat vector."""
        return dict(zip(self.names, itertools.accumulate([0, *self.lengths]), strict=False))


_network: Callable[..., Network] = functools.lru_cache(maxsize=64)(Network)  # one, whose properties are computed once


def network_of(model: nn.Module) -> Network | None:
    """Returns the network that a model computes, or None if it is not a perceptron of this library's kinds.

    Example:
        >>> network_of(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))).sizes
        [2, 3, 1]
        >>> network_of(nn.Sequential(nn.Linear(2, 3), nn.GELU())) is None
        True
    """
    modules = _modules(model)
    if any(is_changed(module) for _, module in modules):
        return None
    named = {prefix + name: value for prefix, module in modules for name, value in module._parameters.items()}
    params = {name: value for name, value in named.items() if value is not None}
    shapes = {name: value.shape for name, value in params.items()}
    settings: dict[str, Any] = {}
    path, own = "", model
    if type(model) is GaussianMLP:
        path, own, settings = "mean", model.mean, {"log_std": "log_std", "min_log_std": model.min_log_std}
    elif type(model) is CategoricalMLP:
        path, own, settings = "logits", model.logits, {"is_categorical": True}
    chain = list(_chain(path, own))
    linear, between = chain[::2], {type(module) for _, module in chain[1::2]} or {nn.Tanh}
    if len(chain) % 2 == 0 or len(linear) > MOST_LAYERS or len(between) > 1 or not between <= DERIVATIVES.keys():
        return None
    if any(type(layer) not in (TaskLinear, nn.Linear) for _, layer in linear):
        return None
    layers = tuple((f"{prefix}weight", f"{prefix}bias") for prefix, _ in linear)
    if {*itertools.chain(*layers), *settings.get("log_std", "").split()} != shapes.keys():
        return None  # a layer has no bias
    if len(set(map(id, params.values()))) < len(params):
        return None  # parameters are shared
    network = _network(tuple(shapes), tuple(shapes.values()), layers, between.pop(), **settings)
    return network if _fits(network) else None


def is_changed(module: nn.Module) -> bool:
    """Returns whether hooks or a `forward` of its own change what a module computes, or its derivative."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks) or "forward" in vars(module)


def _modules(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """Returns a module and those in it, in the order of `named_modules`, with the prefix of their parameters' names."""
    found = [(prefix, module)]
    for name, child in module._modules.items():
        if child is not None:
            found += _modules(child, f"{prefix}{name}.")
    return found


def _fits(network: Network) -> bool:
    """Returns whether each layer reads the outputs of the one below, and nothing has to be expanded."""
    needed: dict[str | None, tuple[int, ...]] = {network.log_std: (network.sizes[-1],)}
    for (weight, bias), (inputs, outputs) in zip(network.layers, itertools.pairwise(network.sizes), strict=True):
        needed |= {weight: (outputs, inputs), bias: (outputs,)}
    return all(needed[name] == shape for name, shape in zip(network.names, network.shapes, strict=True))


def _chain(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields the modules of nested sequences, and the prefix of the names of their parameters."""
    prefix = f"{path}." if path else ""
    if type(module) in (MLP, nn.Sequential):
        for name, child in module._modules.items():  # named_children omits a module that is there twice
            yield from _chain(prefix + name, cast(nn.Module, child))
    else:
        yield prefix, module
