"""The map from the tensors of a network to those of a larger one: parameters, moments of gradients, learning rates.

`research.policies.net2net` makes such maps, and derives their factors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from research.types import Params


class AxisMap(NamedTuple):
    """The map of one axis of a tensor, `[new size]` each.

    Attributes:
        origin: The old position of each new one.
        on_params: Factor on parameters.
        on_gradients: Factor on gradients.
    """

    origin: Tensor
    on_params: Tensor
    on_gradients: Tensor


class Copied(NamedTuple):
    """A tensor whose elements are copies of those of an old one.

    Attributes:
        name: The name of the old tensor.
        axes: The map of each axis; None for an axis that stays.
        noise: The addend ε on parameters; None for 0.
    """

    name: str
    axes: tuple[AxisMap | None, ...]
    noise: Tensor | None = None

    def map(self, old: Tensor, factor: Callable[[AxisMap], Tensor]) -> Tensor:
        """Returns the new tensor, with a factor for each axis."""
        new = old.clone()
        for axis, own in enumerate(self.axes):
            if own is not None:
                shape = [-1 if place == axis else 1 for place in range(old.ndim)]
                new = new.index_select(axis, own.origin.to(old.device)) * factor(own).to(old).reshape(shape)
        return new


class Inserted(NamedTuple):
    """A tensor of an inserted layer.

    Attributes:
        below: The tensor of the layer that it reads, in the new network.
        scale: The factor on the identity; 0 for a bias.
        is_exact: Whether the layer is the identity.
    """

    below: str
    scale: float
    is_exact: bool

    def value(self, below: Tensor) -> Tensor:
        """Returns the parameters: a multiple of the identity, or zeros."""
        if below.ndim == 1:
            return torch.zeros_like(below)
        return self.scale * torch.eye(len(below), dtype=below.dtype, device=below.device)

    def gradient(self, below: Tensor) -> Tensor:
        """Returns the mean gradient: that of the bias below for the bias of an exact layer, else 0: it is not known."""
        if below.ndim == 1:
            return below.clone() if self.is_exact else torch.zeros_like(below)
        return below.new_zeros(len(below), len(below))

    def like(self, below: Tensor) -> Tensor:
        """Returns the values of the layer below, for each unit the mean over its inputs."""
        return below.clone() if below.ndim == 1 else below.mean(1, keepdim=True).repeat(1, len(below))


@dataclass(frozen=True)
class Change:
    """The map from the tensors of a network to those of a larger one.

    The methods map a tensor for each parameter of the old network, or for some of them, by its name.

    Attributes:
        tensors: For each parameter of the new network what it is made of.
        is_exact: Whether the networks compute the same function: not with inserted layers of tanh, or with another
            activation.
    """

    tensors: dict[str, Copied | Inserted]
    is_exact: bool = True

    def params(self, old: Params) -> Params:
        """Returns the parameters of the new network, or other weights of the same form, e.g. a target network's.

        ε is the same for all of them, so that differences of weights have none.
        """

        def copied(one: Copied, tensor: Tensor) -> Tensor:
            new = one.map(tensor, lambda axis: axis.on_params)
            return new if one.noise is None else new + one.noise.to(new)

        return self._map(old, copied, Inserted.value)

    def gradients(self, old: Params) -> Params:
        """Returns means of gradients of the new network. Those of inserted weights, which nobody knows, are 0."""
        return self._map(old, lambda one, tensor: one.map(tensor, lambda axis: axis.on_gradients), Inserted.gradient)

    def squares(self, old: Params, power: int = 2) -> Params:
        """Returns means of squared gradients of the new network; for inserted weights those of the layer below.

        Args:
            old: The means of the old network.
            power: Power of gradients of which they are the mean. The gradient of an element's own learning rate is
                minus the product of its gradients before and after the step: it is of power 2, its square of power 4.
        """
        return self._map(old, lambda one, tensor: one.map(tensor, lambda axis: axis.on_gradients**power), Inserted.like)

    def rates(self, old: Params) -> Params:
        """Returns learning rates of the elements of the new network; for inserted weights those of the layer below."""
        return self._map(
            old, lambda one, tensor: one.map(tensor, lambda axis: axis.on_params / axis.on_gradients), Inserted.like
        )

    def _map(
        self, old: Params, copied: Callable[[Copied, Tensor], Tensor], inserted: Callable[[Inserted, Tensor], Tensor]
    ) -> Params:
        new: Params = {}
        for name, one in self.tensors.items():
            if isinstance(one, Copied) and one.name in old:
                new[name] = copied(one, old[one.name])
            elif isinstance(one, Inserted) and one.below in new:
                new[name] = inserted(one, new[one.below])
        return new


def unchanged(params: Params) -> Change:
    """Returns the change that copies every tensor."""
    return Change({name: Copied(name, (None,) * value.ndim) for name, value in params.items()})
