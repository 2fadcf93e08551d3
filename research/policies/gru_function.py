"""A GRU over a whole sequence as one node of the autograd graph, with its first derivative written out.

With x the projected inputs, `[time, rows, 3·hidden]` for the gates r, z and n, and W the hidden weights:

    r = σ(x_r + W_r h),  z = σ(x_z + W_z h),  q = W_n h + b,  n = tanh(x_n + r ∘ q),  h' = n + z ∘ (h − n)

(Cho et al. 2014, arXiv:1406.1078, with the reset gate after the product, as in cuDNN and torch.nn.GRU.)
Backward, from δ = ∂h', the sum of the cotangents from the output and from the next step:

    ∂n = δ ∘ (1 − z) ∘ (1 − n²),  ∂z = δ ∘ (h − n) ∘ z (1 − z),  ∂r = ∂n ∘ q ∘ r (1 − r),  ∂q = ∂n ∘ r
    ∂h = δ ∘ z + W_rᵀ ∂r + W_zᵀ ∂z + W_nᵀ ∂q

The derivatives of the weights are one product over all steps at the end. A step that is recorded operation by operation
keeps some twenty small tensors; here it keeps five, and the loop writes into them in place. If a graph of the gradient
is needed, the loop is run again and recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def gru_function(
    gates: Float[Tensor, "time rows gates"],
    state: Float[Tensor, "rows hidden"],
    weight: Float[Tensor, "gates hidden"],
    bias: Float[Tensor, " hidden"],
) -> Float[Tensor, "time rows hidden"]:
    """Returns the states after each step, differentiable in every argument to any order.

    Args:
        gates: The projected inputs x of the gates r, z and n, biases included.
        state: The state before the first step.
        weight: W, with the rows of the gates in the same order.
        bias: b, added where the reset gate acts.
    """
    return _GRU.apply(gates, state, weight, bias)  # type: ignore[no-untyped-call]


def gru_recorded(
    gates: Float[Tensor, "time rows gates"],
    state: Float[Tensor, "rows hidden"],
    weight: Float[Tensor, "gates hidden"],
    bias: Float[Tensor, " hidden"],
    norm: Callable[[Tensor], Tensor] = lambda product: product,
) -> Float[Tensor, "time rows hidden"]:
    """Returns `gru_function` of the arguments, recorded operation by operation; `norm` normalises the products W h."""
    size, states = state.shape[-1], []
    for own in gates.unbind(0):
        product = norm(state @ weight.mT)
        reset, update = (own[:, : 2 * size] + product[:, : 2 * size]).sigmoid().split(size, -1)
        new = (own[:, 2 * size :] + reset * (product[:, 2 * size :] + bias)).tanh()
        state = new + update * (state - new)
        states.append(state)
    return torch.stack(states)


def input_product(
    inputs: Float[Tensor, "*axes features"], weight: Float[Tensor, "out features"], bias: Float[Tensor, " out"]
) -> Float[Tensor, "*axes out"]:
    """Returns inputs Wᵀ + b, differentiable in `weight` and `bias`; the inputs are constants.

    The numbers are those of `F.linear`. The derivative is the transpose of the product in the opposite order, which is
    five times as fast for a few features and thousands of rows.
    """
    return _InputProduct.apply(inputs, weight, bias)  # type: ignore[no-untyped-call]


class _InputProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return F.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors
        rows = cotangents[0].flatten(0, -2)
        return None, (inputs.flatten(0, -2).mT @ rows).mT, rows.sum(0)


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        time, rows, size = len(gates), *state.shape
        states = gates.new_empty(time + 1, rows, size)
        states[0] = state
        switches = gates.new_empty(time, rows, 2 * size)  # r and z
        news, products = gates.new_empty(2, time, rows, size)  # n and q
        weight_rz, weight_n = weight[: 2 * size].mT, weight[2 * size :].mT
        along = (leaf.unbind(0) for leaf in (gates, states[:-1], states[1:], switches, news, products))
        for own, before, after, rz, n, q in zip(*along, strict=True):
            torch.addmm(own[:, : 2 * size], before, weight_rz, out=rz).sigmoid_()
            torch.addmm(bias, before, weight_n, out=q)
            # tanh(a) = 2 σ(2a) − 1: torch's tanh takes six times as long as its σ.
            torch.addcmul(own[:, 2 * size :], rz[:, :size], q, out=n).mul_(2).sigmoid_().mul_(2).sub_(1)
            torch.lerp(n, before, rz[:, size:], out=after)
        ctx.save_for_backward(gates, state, weight, bias, states, switches, news, products)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, states, switches, news, products = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is needed
            wanted = [leaf for leaf in inputs if leaf.requires_grad]
            found = torch.autograd.grad(gru_recorded(*inputs), wanted, cotangents, create_graph=True)
            gradients = iter(found)
            return tuple(next(gradients) if leaf.requires_grad else None for leaf in inputs)
        return _backward(inputs[2], states, switches, news, products, cotangents[0])


def _backward(
    weight: Tensor, states: Tensor, switches: Tensor, news: Tensor, products: Tensor, cotangent: Tensor
) -> tuple[Tensor, ...]:
    """Returns the cotangents of the gates, the first state, the weights and the bias."""
    time, rows, size = news.shape
    to_gates, to_products = news.new_empty(time, rows, 3 * size), torch.empty_like(news)
    weight_rz, weight_n = weight[: 2 * size], weight[2 * size :]
    delta, kept, first, second = news.new_zeros(rows, size), *news.new_empty(3, rows, size)
    for t in reversed(range(time)):
        (r, z), n, q = switches[t].split(size, -1), news[t], products[t]
        to_r, to_z, to_n = to_gates[t].split(size, -1)
        delta += cotangent[t]
        torch.mul(delta, z, out=kept)
        torch.sub(delta, kept, out=first)
        torch.addcmul(first, torch.mul(first, n, out=second), n, value=-1, out=to_n)
        _pull_sigmoid(torch.sub(states[t], n, out=first).mul_(delta), z, grad_input=to_z)
        _pull_sigmoid(torch.mul(to_n, q, out=first), r, grad_input=to_r)
        torch.mul(to_n, r, out=to_products[t])
        torch.addmm(kept, to_gates[t, :, : 2 * size], weight_rz, out=delta).addmm_(to_products[t], weight_n)
    before, flat, inner = states[:-1].flatten(0, 1), to_gates.flatten(0, 1), to_products.flatten(0, 1)
    return to_gates, delta, torch.cat([flat[:, : 2 * size].mT @ before, inner.mT @ before]), inner.sum(0)


_pull_sigmoid = torch.ops.aten.sigmoid_backward.grad_input
"""(g, σ) → g ∘ σ (1 − σ)."""
