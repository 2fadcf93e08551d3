"""The derivative of a function at one point, as products with vectors, by reverse mode alone.

vjp(u) = Jᵀ u is a backward pass through the kept graph. As it is linear in u, differentiating it in u gives J v (the
double-vjp trick): no operation needs a forward-mode rule, and nothing is computed again between products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class LinearMap(NamedTuple):
    """J = ∂function/∂inputs at a point.

    Attributes:
        value: The function's value there, a tree of tensors without a graph.
        jvp: Tangents of the inputs (a tree like them) → tangents of the value (a tree like it).
        vjp: Cotangents of the value → cotangents of the inputs.
    """

    value: Any
    jvp: Callable[[Any], Any]
    vjp: Callable[[Any], Any]


def linearize(function: Callable[[Any], Any], inputs: Any) -> LinearMap:
    """The derivative of `function` (tree of tensors → tree of tensors) at `inputs`.

    Inputs that the value does not depend on have zero cotangents; values that depend on no input have zero tangents.
    """
    primals, input_spec = pytree.tree_flatten(inputs)
    leaves = [leaf.detach().requires_grad_() for leaf in primals]  # leaves of a graph of their own
    with torch.enable_grad():
        value = function(pytree.tree_unflatten(leaves, input_spec))
        outputs, output_spec = pytree.tree_flatten(value)
        # The graph of vjp(u) is wanted for symbolic u; at which u it is made does not matter.
        probes = [torch.zeros_like(output, requires_grad=True) for output in outputs]
        pulled = _gradients(outputs, leaves, probes, create_graph=True)

    def jvp(tangents: Any) -> Any:
        pushed = _gradients(pulled, probes, pytree.tree_leaves(tangents))
        return pytree.tree_unflatten(pushed, output_spec)

    def vjp(cotangents: Any) -> Any:
        return pytree.tree_unflatten(_gradients(outputs, leaves, pytree.tree_leaves(cotangents)), input_spec)

    return LinearMap(pytree.tree_map(lambda leaf: leaf.detach(), value), jvp, vjp)


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor], create_graph: bool = False
) -> list[Tensor]:
    """Σ cotangentᵀ ∂output/∂input for each input, through the graph, which is kept; zeros where there is no path."""
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
