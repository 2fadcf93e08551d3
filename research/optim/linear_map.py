"""The derivative of a function at one point, as products with vectors, by reverse mode alone.

vjp(u) = Jᵀ u is a backward pass through a graph that is kept. As it is linear in u, its derivative in u gives J v (the
double-vjp trick): no operation needs a forward-mode rule, and products repeat none of the function's computations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

Tensors = Sequence[Float[Tensor, "*_"]]


class LinearMap(NamedTuple):
    """The products with J = ∂function/∂inputs at a point.

    Attributes:
        value: The function's value there, a tree of tensors without a graph.
        jvp: Tangents of the inputs (a tree like them) → tangents of the value (a tree like it), J v.
        vjp: Cotangents of the value → cotangents of the inputs, Jᵀ u.
    """

    value: Any
    jvp: Callable[[Any], Any]
    vjp: Callable[[Any], Any]


def linearize(function: Callable[[Any], Any], inputs: Any) -> LinearMap:
    """Returns the derivative of `function` at `inputs`.

    Inputs on which the value does not depend have zero cotangents; values that depend on no input have zero tangents.

    Args:
        function: Tree of tensors → tree of tensors, differentiable by reverse mode.
        inputs: The point.

    Example:
        >>> square = linearize(lambda x: x**2, torch.tensor([1.0, 3.0]))
        >>> square.value, square.jvp(torch.tensor([1.0, 1.0]))
        (tensor([1., 9.]), tensor([2., 6.]))
    """
    primals, input_spec = pytree.tree_flatten(inputs)
    leaves = [leaf.detach().requires_grad_() for leaf in primals]  # leaves of a graph of their own
    with torch.enable_grad():
        value = function(pytree.tree_unflatten(leaves, input_spec))
        outputs, output_spec = pytree.tree_flatten(value)
        # vjp(u) is linear in u, so its graph is the same for every u.
        probes = [torch.zeros_like(output, requires_grad=True) for output in outputs]
        pulled = _gradients(outputs, leaves, probes, create_graph=True)

    def jvp(tangents: Any) -> Any:
        pushed = _gradients(pulled, probes, pytree.tree_leaves(tangents))
        return pytree.tree_unflatten(pushed, output_spec)

    def vjp(cotangents: Any) -> Any:
        return pytree.tree_unflatten(_gradients(outputs, leaves, pytree.tree_leaves(cotangents)), input_spec)

    return LinearMap(pytree.tree_map(lambda leaf: leaf.detach(), value), jvp, vjp)


def _gradients(
    outputs: Tensors, inputs: Tensors, cotangents: Tensors, create_graph: bool = False
) -> list[Float[Tensor, "*_"]]:
    """Returns Σ cotangentᵀ ∂output/∂input for each input, 0 where there is no path; the graph is kept."""
    pairs = [(output, cotangent) for output, cotangent in zip(outputs, cotangents, strict=True) if output.requires_grad]
    if not pairs:
        return [torch.zeros_like(leaf) for leaf in inputs]
    gradients = torch.autograd.grad(
        [output for output, _ in pairs],
        inputs,
        [cotangent for _, cotangent in pairs],
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return list(gradients)
