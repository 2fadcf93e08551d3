"""Products with weights that each row generates for itself, without these weights in memory.

With T the generating tensor, m̃ = (m, 1) and x̃ = (x, 1), the layer W(m) x + b(m) is trilinear:

    y_o = Σ_{i,e} T_{oie} x̃_i m̃_e                          (Ha et al. 2017, arXiv:1609.09106, equation 5, with a bias)

`torch.bmm` takes T m̃ first and writes [output, input] numbers for each row. Here one of two arrays is computed, for
as many rows at a time as stay in the cache, and each product is one large product of matrices:

    outer       P = x̃ ⊗ m̃  [input, memory],   y = P T;            ∂T = Pᵀ ∂y,  ∂P = ∂y Tᵀ,  ∂m̃ = ∂P x̃,  ∂x̃ = ∂P m̃
    generated   W = T m̃    [output, input],   y = W x̃;            ∂W = ∂y ⊗ x̃,  ∂T = ∂Wᵀ m̃,  ∂m̃ = ∂W T,  ∂x̃ = Wᵀ ∂y

Both need 2 · output · input · memory operations for each row forward, and twice as many backward; `generated` a third
time, for W, where the gradient of x is needed. Nothing is kept for the backward pass but the arguments. If a graph of
the gradient is needed, the formula is recorded.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from research.parallel import chunks

_BLOCK = 2**17
"""Numbers of the largest array of a block of rows, which stay in the cache of a core."""

_MEMORY_PER_OUTPUT = 4
"""Size of m̃ for each output up to which `outer` is faster, though x̃ ⊗ m̃ is larger than W."""


def generated_linear(
    memory: Float[Tensor, "rows memory"],
    inputs: Float[Tensor, "rows input"],
    weight: Float[Tensor, "output extended memory"],
    bias: Float[Tensor, "output extended"],
) -> Float[Tensor, "rows output"]:
    """Returns W(m) x + b(m) for each row, differentiable in every argument to any order.

    Args:
        memory: m.
        inputs: x.
        weight: T without its last part, `[output, input + 1, memory]`; the last input is 1.
        bias: The last part of T, which the 1 of m̃ multiplies.
    """
    return _Generated.apply(memory, inputs, weight, bias)  # type: ignore[no-untyped-call]


def generated_recorded(memory: Tensor, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns `generated_linear` of the arguments by `torch.bmm` on the generated weights, recorded."""
    weights = F.linear(memory, weight.flatten(0, 1), bias.flatten()).unflatten(-1, bias.shape)
    return torch.bmm(weights[..., :-1], inputs.unsqueeze(-1)).squeeze(-1) + weights[..., -1]


class _Generated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, memory: Tensor, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(memory, inputs, weight, bias)
        output = inputs.new_empty(len(inputs), len(bias))
        own, own_inputs = _extended(memory), _extended(inputs)
        tensor = torch.cat([weight, bias.unsqueeze(-1)], -1)
        by_outer = _takes_outer(tensor)
        flat = _flat(tensor, by_outer)
        for rows in _blocks(tensor, len(memory), by_outer):
            m, x = own[rows], own_inputs[rows]
            if by_outer:
                torch.mm(_outer(x, m), flat, out=output[rows])
            else:
                output[rows] = torch.bmm((m @ flat).view(len(m), *bias.shape), x.unsqueeze(-1)).squeeze(-1)
        return output

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        leaves = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is needed
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            found = iter(torch.autograd.grad(generated_recorded(*leaves), wanted, cotangents, create_graph=True))
            return tuple(next(found) if leaf.requires_grad else None for leaf in leaves)
        memory, inputs, weight, bias = leaves
        tensor = torch.cat([weight, bias.unsqueeze(-1)], -1)
        to_memory, to_inputs, to_tensor = _pull(
            _extended(memory), _extended(inputs), tensor, cotangents[0].contiguous(), ctx.needs_input_grad[1]
        )
        to_x = to_inputs[:, :-1] if ctx.needs_input_grad[1] else None
        return to_memory[:, :-1], to_x, to_tensor[..., :-1], to_tensor[..., -1]


def _pull(
    memory: Tensor, inputs: Tensor, tensor: Tensor, cotangent: Tensor, needs_inputs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the cotangents of m̃, x̃ (unset where it is not needed) and T."""
    by_outer = _takes_outer(tensor)
    flat = _flat(tensor, by_outer)
    to_memory, to_inputs, to_flat = torch.empty_like(memory), torch.empty_like(inputs), torch.zeros_like(flat)
    pull = _pull_outer if by_outer else _pull_generated
    for rows in _blocks(tensor, len(memory), by_outer):
        pull(memory[rows], inputs[rows], flat, cotangent[rows], to_memory[rows], to_inputs[rows], to_flat, needs_inputs)
    return to_memory, to_inputs, to_flat.mT.reshape(tensor.shape)


def _pull_outer(
    m: Tensor, x: Tensor, flat: Tensor, y: Tensor, to_m: Tensor, to_x: Tensor, to_flat: Tensor, needs_inputs: bool
) -> None:
    to_flat.addmm_(_outer(x, m).mT, y)
    to_outer = torch.mm(y, flat.mT).view(len(x), x.shape[-1], m.shape[-1])
    torch.bmm(x.unsqueeze(1), to_outer, out=to_m.unsqueeze(1))
    if needs_inputs:
        torch.bmm(to_outer, m.unsqueeze(-1), out=to_x.unsqueeze(-1))


def _pull_generated(
    m: Tensor, x: Tensor, flat: Tensor, y: Tensor, to_m: Tensor, to_x: Tensor, to_flat: Tensor, needs_inputs: bool
) -> None:
    if needs_inputs:
        weights = (m @ flat).view(len(m), y.shape[-1], x.shape[-1])
        torch.bmm(y.unsqueeze(1), weights, out=to_x.unsqueeze(1))
    to_weights = _outer(y, x)
    to_flat.addmm_(m.mT, to_weights)
    torch.mm(to_weights, flat.mT, out=to_m)


def _takes_outer(tensor: Tensor) -> bool:
    """Returns whether the order is `outer`, whose products are as large but need no W a third time."""
    return tensor.shape[-1] <= _MEMORY_PER_OUTPUT * len(tensor)


def _flat(tensor: Tensor, by_outer: bool) -> Tensor:
    """Returns T as the matrix of the product: `[input · memory, output]` or `[memory, output · input]`."""
    return tensor.flatten(1).mT.contiguous() if by_outer else tensor.flatten(0, 1).mT.contiguous()


def _blocks(tensor: Tensor, rows: int, by_outer: bool) -> list[slice]:
    """Returns the rows in blocks."""
    outputs, extended, size = tensor.shape
    return chunks(rows, max(32, _BLOCK // (extended * (size if by_outer else outputs))))


def _outer(one: Tensor, other: Tensor) -> Tensor:
    """Returns the outer product of each row, `[rows, one · other]`."""
    return (one.unsqueeze(-1) * other.unsqueeze(-2)).flatten(1)


def _extended(vectors: Tensor) -> Tensor:
    """Returns vectors with a last element of 1."""
    return F.pad(vectors, (0, 1), value=1.0)
