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

    Example:
        >>> flatten([torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0])])
        tensor([1., 2., 3., 4., 5.])
    """
    return torch.cat([tensor.reshape(*tensor.shape[:batch_axes], -1) for tensor in tensors], -1)


def unflatten(vector: Float[Tensor, "*batch size"], like: Params, batch_axes: int = 0) -> Params:
    """Returns views of the vector with the names and shapes of `like`: the inverse of `flatten(like.values())`.

    Example:
        >>> unflatten(torch.tensor([1.0, 2.0, 3.0]), {"w": torch.zeros(1, 2), "b": torch.zeros(1)})
        {'w': tensor([[1., 2.]]), 'b': tensor([3.])}
    """
    pieces = vector.split([value.shape[batch_axes:].numel() for value in like.values()], -1)
    return {name: piece.view(value.shape) for (name, value), piece in zip(like.items(), pieces, strict=True)}


def distance(first: Params, second: Params) -> float:
    """Returns the Euclidean norm of the difference of all tensors together.

    Example:
        >>> distance({"w": torch.tensor([3.0, 4.0])}, {"w": torch.zeros(2)})
        5.0
    """
    return norm({name: value - second[name] for name, value in first.items()})


def norm(params: Params) -> float:
    """Returns the Euclidean norm of all tensors together.

    Example:
        >>> norm({"w": torch.tensor([3.0]), "b": torch.tensor([4.0])})
        5.0
    """
    return float(flatten(params.values()).norm())
