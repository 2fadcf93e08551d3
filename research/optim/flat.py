"""Named tensors as one vector, and back: for optimisers and solvers that act on elements, not on tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from research.types import Params


def flatten(tensors: Iterable[Tensor], batch_axes: int = 0) -> Float[Tensor, "*batch size"]:
    """Returns all elements of the tensors in one vector, in their order; a copy.

    Args:
        tensors: The tensors; the first `batch_axes` axes are the same for all, and stay.
        batch_axes: Leading axes that are not flattened, e.g. 1 for parameters `[tasks, ...]`.
    """
    return torch.cat([tensor.reshape(*tensor.shape[:batch_axes], -1) for tensor in tensors], -1)


def unflatten(vector: Float[Tensor, "*batch size"], like: Params, batch_axes: int = 0) -> Params:
    """Returns views of the vector with the names and shapes of `like`: the inverse of `flatten(like.values())`."""
    pieces = vector.split([value.shape[batch_axes:].numel() for value in like.values()], -1)
    return {name: piece.view(value.shape) for (name, value), piece in zip(like.items(), pieces, strict=True)}


def distance(first: Params, second: Params) -> float:
    """Returns the Euclidean norm of the difference of all tensors together."""
    return norm({name: value - second[name] for name, value in first.items()})


def norm(params: Params) -> float:
    """Returns the Euclidean norm of all tensors together."""
    return float(flatten(params.values()).norm())
