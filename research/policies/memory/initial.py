"""Initial weights of the memories and heads, each drawn with a given generator alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from research.policies.layers import unset_linear


def glorot(rows: int, columns: int, generator: torch.Generator, fan: int, scale: float = 1.0) -> nn.Parameter:
    """Returns uniform weights `[rows, columns]` for a layer with `fan` inputs and outputs together, times `scale`."""
    bound = scale * math.sqrt(6.0 / fan)
    return nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound, generator=generator))


def orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """Returns a random orthogonal matrix, `[size, size]`."""
    return nn.init.orthogonal_(torch.empty(size, size), generator=generator)


def linear(inputs: int, outputs: int, generator: torch.Generator, scale: float = 1.0) -> nn.Linear:
    """Returns a linear layer with Glorot's weights times `scale`, and biases 0."""
    layer = unset_linear(nn.Linear, inputs, outputs)
    layer.weight = glorot(outputs, inputs, generator, inputs + outputs, scale)
    layer.bias = nn.Parameter(torch.zeros(outputs))
    return layer
