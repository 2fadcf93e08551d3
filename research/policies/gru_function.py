"""A GRU over a whole sequence as one node of the autograd graph, with its first derivative written out.

With x the projected inputs, `[time, rows, 3·hidden]` for the gates r, z and n, and W the hidden weights:

    r = σ(x_r + W_r h),  z = σ(x_z + W_z h),  q = W_n h + b,  n = tanh(x_n + r ∘ q),  h' = n + z ∘ (h − n)

(Cho et al. 2014, arXiv:1406.1078, with the reset gate behind the product, as cuDNN and torch.nn.GRU have it.)
Backward, from δ = ∂h' of the step, which collects what comes from the output and from the step behind:

    ∂n = δ ∘ (1 − z) ∘ (1 − n²),  ∂z = δ ∘ (h − n) ∘ z (1 − z),  ∂r = ∂n ∘ q ∘ r (1 − r),  ∂q = ∂n ∘ r
    ∂h = δ ∘ z + W_rᵀ ∂r + W_zᵀ ∂z + W_nᵀ ∂q

The derivatives of the weights are one product over all steps at the end. Recorded operation by operation a step is
some twenty small tensors that the memory has to hold; here it is five, and the loop writes into them in place. Where a
graph of the gradient is asked for, the loop is run again and recorded.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def gru_function(
    gates: Float[Tensor, "time rows gates"],
    state: Float[Tensor, "rows hidden"],
    weight: Float[Tensor, "gates hidden"],
    bias: Float[Tensor, " hidden"],
) -> Float[Tensor, "time rows hidden"]:
    """The states after each step, differentiable in every argument to any order.

    Args:
        gates: What the inputs contribute to the gates r, z and n, biases included.
        state: Before the first step.
        weight: W, the gates' rows in the same order.
        bias: b, of the part of n that the reset gate acts on.
    """
    return _GRU.apply(gates, state, weight, bias)  # type: ignore[no-untyped-call]


def gru_step(
    gates: Float[Tensor, "rows gates"], state: Float[Tensor, "rows hidden"], product: Tensor, bias: Tensor
) -> Float[Tensor, "rows hidden"]:
    """The state after one step, recorded operation by operation; `product` is W h, `[rows, 3·hidden]`."""
    size = state.shape[-1]
    reset, update = (gates[:, : 2 * size] + product[:, : 2 * size]).sigmoid().split(size, -1)
    new = (gates[:, 2 * size :] + reset * (product[:, 2 * size :] + bias)).tanh()
    return new + update * (state - new)


def gru_recorded(gates: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `gru_function` computes, recorded operation by operation."""
    states = []
    for own in gates.unbind(0):
        state = gru_step(own, state, state @ weight.mT, bias)
        states.append(state)
    return torch.stack(states)


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        time, rows, size = len(gates), *state.shape
        states = gates.new_empty(time + 1, rows, size)
        states[0] = state
        activity = gates.new_empty(time, 4, rows, size)  # r, z, n, q of each step
        product = gates.new_empty(rows, 2 * size)
        weight_rz, weight_n = weight[: 2 * size].mT, weight[2 * size :].mT
        for own, before, after, (r, z, n, q) in zip(
            gates.unbind(0), states[:-1].unbind(0), states[1:].unbind(0), map(torch.unbind, activity), strict=True
        ):
            torch.addmm(own[:, : 2 * size], before, weight_rz, out=product).sigmoid_()
            r.copy_(product[:, :size])
            z.copy_(product[:, size:])
            torch.addmm(bias, before, weight_n, out=q)
            # tanh(a) = 2 σ(2a) − 1: torch's tanh takes six times as long as its σ.
            torch.addcmul(own[:, 2 * size :], r, q, out=n).mul_(2).sigmoid_().mul_(2).sub_(1)
            torch.lerp(n, before, z, out=after)
        ctx.save_for_backward(gates, state, weight, bias, states, activity)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, ...]:
        *inputs, states, activity = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is asked for
            value = gru_recorded(*inputs)
            return torch.autograd.grad(value, inputs, cotangents, create_graph=True, materialize_grads=True)
        return _backward(inputs[2], states, activity, cotangents[0])


def _backward(weight: Tensor, states: Tensor, activity: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
    """The cotangents of the gates, the first state, the weights and the bias."""
    time, _, rows, size = activity.shape
    to_gates = activity.new_empty(time, rows, 3 * size)
    to_product = activity.new_empty(time, rows, size)
    weight_rz, weight_n = weight[: 2 * size], weight[2 * size :]
    delta, kept, other = activity.new_zeros(rows, size), activity.new_empty(rows, size), activity.new_empty(rows, size)
    for t in reversed(range(time)):
        r, z, n, q = activity[t].unbind()
        to_r, to_z, to_n = to_gates[t].split(size, -1)
        delta += cotangent[t]
        torch.mul(delta, z, out=kept)
        torch.ops.aten.tanh_backward.grad_input(torch.sub(delta, kept, out=other), n, grad_input=to_n)
        torch.sub(states[t], n, out=other).mul_(delta)
        torch.ops.aten.sigmoid_backward.grad_input(other, z, grad_input=to_z)
        torch.ops.aten.sigmoid_backward.grad_input(torch.mul(to_n, q, out=other), r, grad_input=to_r)
        torch.mul(to_n, r, out=to_product[t])
        torch.addmm(kept, to_gates[t, :, : 2 * size], weight_rz, out=delta).addmm_(to_product[t], weight_n)
    before, flat, products = states[:-1].flatten(0, 1), to_gates.flatten(0, 1), to_product.flatten(0, 1)
    to_weight = torch.cat([flat[:, : 2 * size].mT @ before, products.mT @ before])
    return to_gates, delta, to_weight, products.sum(0)
