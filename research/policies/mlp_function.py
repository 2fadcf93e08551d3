"""A multilayer perceptron as one node of the autograd graph, with its first and second derivatives written out.

Products with the Hessian of a policy's loss are where meta-learning spends its time. Recorded operation by operation
they are hundreds of small calls; as one node they are little more than the matrix products that any method needs:

    forward   a_0 = x,  a_l = φ(a_{l−1} W_lᵀ + b_l),  out = a_{L−1} W_Lᵀ + b_L
    backward  δ_L = ∂out,  s_l = δ_{l+1} W_{l+1} + ∂a_l,  δ_l = s_l ∘ φ'(a_l);  gives δ_lᵀ a_{l−1} and Σ δ_l
    backward of backward, for cotangents V_l and v_l of these two:
              p_l = a_{l−1} V_lᵀ + v_l + q_{l−1} W_lᵀ,  q_l = p_l ∘ φ'(a_l);  gives p_L for ∂out, q_l for ∂a_l,
              δ_lᵀ q_{l−1} for W_l,  δ_{l+1} V_{l+1} + p_l ∘ s_l ∘ φ''(a_l) for a_l

with φ' and φ'' in terms of a. The hidden layers a_l are outputs of the node, so what a second derivative adds to them
meets what comes from `out`, and one backward pass serves both (Pearlmutter 1994, "Fast exact multiplication by the
Hessian"). Higher derivatives exist as well: where a graph is asked for, the last lines are recorded as they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Tensors = Sequence[Tensor]
Cotangents = Sequence[Tensor | None]
"""None stands for zero."""


class Activation(NamedTuple):
    """φ, and its derivatives in terms of a = φ(z).

    Attributes:
        apply: z → φ(z).
        apply_numpy: The same for arrays of NumPy.
        pull: g, a → g ∘ φ'.
        bend: s, a → s ∘ ∂φ'/∂a; None where that is zero.
    """

    apply: Callable[[Tensor], Tensor]
    apply_numpy: Callable[[NDArray[Any]], NDArray[Any]]
    pull: Callable[[Tensor, Tensor], Tensor]
    bend: Callable[[Tensor, Tensor], Tensor] | None = None


DERIVATIVES: dict[type[nn.Module], Activation] = {
    nn.Tanh: Activation(torch.tanh, np.tanh, torch.ops.aten.tanh_backward, lambda s, a: (s * a).mul_(-2)),
    nn.ReLU: Activation(
        torch.relu, lambda z: np.maximum(z, 0), lambda g, a: torch.ops.aten.threshold_backward(g, a, 0)
    ),
}


def mlp_function(inputs: Tensor, weights: Tensors, biases: Tensors, activation: type[nn.Module]) -> Tensor:
    """The network's output for `inputs [rows, features]`, differentiable in `weights` and `biases` to any order.

    Args:
        inputs: Constants: no gradient reaches them.
        weights: `[out, in]` of each layer.
        biases: `[out]` of each layer.
        activation: Between the layers; a key of `DERIVATIVES`.
    """
    output, *_hidden = _MLP.apply(  # type: ignore[no-untyped-call]
        DERIVATIVES[activation], inputs, *weights, *biases
    )
    return cast(Tensor, output)


@torch.no_grad()
def mlp_output(inputs: Tensor, weights: Tensors, biases: Tensors, activation: type[nn.Module]) -> Tensor:
    """The network's output, without a graph and in as few calls as it takes.

    Arguments as for `mlp_function`; all may have a leading `[tasks]` axis, and then each task has its own parameters.
    """
    return _forward(DERIVATIVES[activation], inputs, weights, biases)[0]


def mlp_output_numpy(
    inputs: NDArray[Any], layers: Sequence[tuple[NDArray[Any], NDArray[Any]]], activation: type[nn.Module]
) -> NDArray[Any]:
    """`mlp_output` for arrays; for a single row it takes a third of the time. `layers` are (weight, bias) pairs."""
    apply = DERIVATIVES[activation].apply_numpy
    *hidden, (last_weight, last_bias) = layers
    for weight, bias in hidden:
        inputs = apply(inputs @ weight.T + bias)
    return inputs @ last_weight.T + last_bias


def affine(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """inputs Wᵀ + b for `inputs [rows, in]`; with a leading `[tasks]` axis on all three, as one batched product."""
    if weight.ndim == 2:
        return torch.addmm(bias, inputs, weight.mT)
    return torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT)


def mlp_with_pullback(
    inputs: Tensor, weights: Tensors, biases: Tensors, activation: type[nn.Module]
) -> tuple[Tensor, Callable[[Tensor, Tensors, Tensors], None]]:
    """The network's output, and a function from the loss's derivative in it to those in W_1.., b_1.., without a graph.

    For a loss whose derivative in the output is known: a small network takes about as long to record as to compute.
    Arguments as for `mlp_function`; the function writes the derivatives into tensors like the weights and the biases.
    """
    with torch.no_grad():
        output, hidden = _forward(DERIVATIVES[activation], inputs, weights, biases)

    @torch.no_grad()
    def pull(cotangent: Tensor, for_weights: Tensors, for_biases: Tensors) -> None:
        given = _Given([cotangent, *[None] * len(hidden)], [inputs, *hidden], weights)
        deltas = cast(Tensors, [delta for _, delta in _deltas(DERIVATIVES[activation], given)])
        for delta, a, for_weight, for_bias in zip(deltas, given.below, for_weights, for_biases, strict=True):
            if _is_narrow(a, delta):
                for_weight.copy_((a.mT @ delta).mT)
            else:
                torch.mm(delta.mT, a, out=for_weight)
            torch.sum(delta, 0, out=for_bias)

    return output, pull


def _forward(activation: Activation, inputs: Tensor, weights: Tensors, biases: Tensors) -> tuple[Tensor, list[Tensor]]:
    """The output and the hidden layers."""
    hidden: list[Tensor] = []
    output = inputs
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        output = affine(output, weight, bias)
        if layer < len(weights) - 1:
            output = activation.apply(output)
            hidden.append(output)
    return output, hidden


class _MLP(torch.autograd.Function):
    """x, W.., b.. → out, a_1, a_2, ..."""

    @staticmethod
    def forward(ctx: Any, activation: Activation, inputs: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        layers = len(parameters) // 2
        weights, biases = parameters[:layers], parameters[layers:]
        output, hidden = _forward(activation, inputs, weights, biases)
        ctx.activation = activation
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs, *weights, *hidden)
        return output, *hidden

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        gradients = _MLPBackward.apply(  # type: ignore[no-untyped-call]
            ctx.activation, *cotangents, *ctx.saved_tensors
        )
        return None, None, *gradients


class _MLPBackward(torch.autograd.Function):
    """∂out, ∂a_1, .., x, W.., a_1, .. → gradients for W.., b.."""

    @staticmethod
    def forward(ctx: Any, activation: Activation, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        given = _Given.of(tensors)
        ctx.activation, ctx.bends = activation, None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.deltas = _deltas(activation, given)
        return tuple(_gradients(ctx.deltas, given))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        activation, tensors = ctx.activation, ctx.saved_tensors
        given = _Given.of(tensors)
        layers = len(given.weights)
        if torch.is_grad_enabled():  # a third derivative has to see how these came about
            deltas = _deltas(activation, given)
            bends = _bends(activation, given, deltas)
        else:
            deltas = ctx.deltas
            bends = ctx.bends = ctx.bends or _bends(activation, given, deltas)
        for_weights, for_biases = cotangents[:layers], cotangents[layers:]
        pushed = _pushed(activation, given, for_weights, for_biases)
        wanted = _wanted(ctx, tensors)
        gradients = [pushed[-1].p, *(q for _, q in pushed[:-1]), None]
        for layer in range(layers):
            needed = layer > 0 and wanted[len(gradients)]
            gradients.append(_outer(deltas[layer].delta, pushed[layer - 1].q) if needed else None)
        for layer, bend in enumerate(bends):
            if not wanted[len(gradients)]:
                gradients.append(None)
                continue
            through_weight = _product(deltas[layer + 1].delta, for_weights[layer + 1])
            gradients.append(_bent(through_weight, pushed[layer].p, bend))
        return None, *(gradient if needed else None for gradient, needed in zip(gradients, wanted, strict=True))


class _Given(NamedTuple):
    """The inputs of the backward pass."""

    cotangents: Cotangents  # for out, a_1, ..
    below: Tensors  # what enters each layer: x, a_1, ..
    weights: Tensors

    @classmethod
    def of(cls, tensors: Cotangents) -> _Given:
        layers = len(tensors) // 3
        inputs, *rest = cast(Tensors, tensors[layers:])
        return cls(tensors[:layers], [inputs, *rest[layers:]], rest[:layers])


class _Delta(NamedTuple):
    """s_l and δ_l of one layer; the last layer has no s."""

    s: Tensor | None
    delta: Tensor | None


class _Pushed(NamedTuple):
    """p_l and q_l of one layer; the last layer has no q."""

    p: Tensor | None
    q: Tensor | None


def _deltas(activation: Activation, given: _Given) -> list[_Delta]:
    """Those of every layer, in the order of the layers."""
    deltas = [_Delta(None, given.cotangents[0])]
    for weight, a, cotangent in zip(given.weights[:0:-1], given.below[:0:-1], given.cotangents[:0:-1], strict=True):
        s = _product(deltas[-1].delta, weight, plus=cotangent)
        deltas.append(_Delta(s, None if s is None else activation.pull(s, a)))
    return deltas[::-1]


def _gradients(deltas: Sequence[_Delta], given: _Given) -> list[Tensor | None]:
    """For W.., then for b..; None where nothing depends on them."""
    by_layer = [delta for _, delta in deltas]
    weights = [_outer(delta, a) for delta, a in zip(by_layer, given.below, strict=True)]
    return weights + [None if delta is None else delta.sum(0) for delta in by_layer]


def _bends(activation: Activation, given: _Given, deltas: Sequence[_Delta]) -> list[Tensor | None]:
    """s_l ∘ φ''(a_l) of every hidden layer."""
    bend = activation.bend
    return [
        None if bend is None or s is None else bend(s, a)
        for (s, _), a in zip(deltas[:-1], given.below[1:], strict=True)
    ]


def _pushed(activation: Activation, given: _Given, for_weights: Cotangents, for_biases: Cotangents) -> list[_Pushed]:
    """p and q of every layer for cotangents of the gradients."""
    pushed = [_Pushed(None, None)]
    for layer, (a, weight) in enumerate(zip(given.below, given.weights, strict=True)):
        v_weight, v_bias = for_weights[layer], for_biases[layer]
        p = None if v_bias is None else v_bias.expand(len(a), -1)
        p = _product(a, None if v_weight is None else v_weight.mT, plus=p)
        p = _product(pushed[-1].q, weight.mT, plus=p, into=v_weight is not None)
        last = layer == len(given.weights) - 1
        pushed.append(_Pushed(p, None if p is None or last else activation.pull(p, given.below[layer + 1])))
    return pushed[1:]


def _product(
    left: Tensor | None, right: Tensor | None, plus: Tensor | None = None, into: bool = False
) -> Tensor | None:
    """left right + plus; `into` allows to overwrite `plus`, which spares a copy."""
    if left is None or right is None:
        return plus
    if plus is None:
        return left @ right
    return plus.addmm_(left, right) if into else torch.addmm(plus, left, right)


def _outer(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    """leftᵀ right. With the narrow one in front the product is several times faster."""
    if left is None or right is None:
        return None
    return (right.mT @ left).mT if _is_narrow(right, left) else left.mT @ right


def _is_narrow(right: Tensor, left: Tensor) -> bool:
    return right.shape[1] < left.shape[1]


def _bent(into: Tensor | None, p: Tensor | None, bend: Tensor | None) -> Tensor | None:
    """p ∘ bend, added to what is there."""
    if p is None or bend is None:
        return into
    return p * bend if into is None else into.addcmul_(p, bend)


def _wanted(ctx: Any, tensors: Cotangents) -> list[bool]:
    """For which of the tensors that came in the running backward pass will use a gradient, as far as can be told."""
    nodes = iter(ctx.next_functions)
    return [tensor is not None and _runs(next(nodes)[0]) for tensor in tensors]


def _runs(node: Any) -> bool:
    leaf = "torch::autograd::AccumulateGrad"
    return node is not None and (node.name() == leaf or torch._C._will_engine_execute_node(node))
