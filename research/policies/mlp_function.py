"""A multilayer perceptron as one node of the autograd graph, with its first and second derivatives written out.

Most of the time of meta-learning is spent in products with the Hessian of a policy's loss. Recorded operation by
operation they are hundreds of small calls; as one node they are little more than the necessary matrix products:

    forward   a_0 = x,  a_l = φ(a_{l−1} W_lᵀ + b_l),  out = a_{L−1} W_Lᵀ + b_L
    backward  δ_L = ∂out,  s_l = δ_{l+1} W_{l+1} + ∂a_l,  δ_l = s_l ∘ φ'(a_l);  gives δ_lᵀ a_{l−1} and Σ δ_l
    backward of backward, for cotangents V_l and v_l of these two:
              p_l = a_{l−1} V_lᵀ + v_l + q_{l−1} W_lᵀ,  q_l = p_l ∘ φ'(a_l);  gives p_L for ∂out, q_l for ∂a_l,
              δ_lᵀ q_{l−1} for W_l,  δ_{l+1} V_{l+1} + p_l ∘ s_l ∘ φ''(a_l) for a_l

with φ' and φ'' in terms of a. The hidden layers a_l are outputs of the node, so that the contributions of a second
derivative to them are added to those of `out`, and one backward pass serves both (Pearlmutter 1994, "Fast exact
multiplication by the Hessian"). Derivatives of higher order exist, too: if a graph of the last two lines is needed,
they are recorded operation by operation.
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

Pairs = list[tuple[Tensor | None, Tensor | None]]


class Activation(NamedTuple):
    """φ, and its derivatives in terms of a = φ(z).

    Attributes:
        apply: z → φ(z).
        apply_numpy: φ of a NumPy array.
        pull: g, a → g ∘ φ'.
        bend: s, a → s ∘ ∂φ'/∂a; None if that is 0 everywhere.
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
    """Returns the output of the network, `[rows, out]`, differentiable in weights and biases to any order.

    All tensors may have a leading `[tasks]` axis, if each task has its own parameters.

    Args:
        inputs: `[rows, features]`; constants, they have no gradient.
        weights: `[out, in]` of each layer.
        biases: `[out]` of each layer.
        activation: The activation between the layers, a key of `DERIVATIVES`.
    """
    output, *_hidden = _MLP.apply(  # type: ignore[no-untyped-call]
        DERIVATIVES[activation], inputs, *weights, *biases
    )
    return cast(Tensor, output)


@torch.no_grad()
def mlp_output(inputs: Tensor, weights: Tensors, biases: Tensors, activation: type[nn.Module]) -> Tensor:
    """Returns the output of the network, without a graph, in as few calls as possible.

    Arguments as for `mlp_function`; all may have a leading `[tasks]` axis, if each task has its own parameters.
    """
    return _forward(DERIVATIVES[activation], inputs, weights, biases)[0]


def mlp_output_numpy(
    inputs: NDArray[Any], layers: Sequence[tuple[NDArray[Any], NDArray[Any]]], activation: type[nn.Module]
) -> NDArray[Any]:
    """Returns `mlp_output` of arrays, for a single row in a third of the time; `layers` are (weight, bias) pairs."""
    apply = DERIVATIVES[activation].apply_numpy
    *hidden, (last_weight, last_bias) = layers
    for weight, bias in hidden:
        inputs = apply(inputs @ weight.T + bias)
    return inputs @ last_weight.T + last_bias


def affine(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns inputs Wᵀ + b for `inputs [rows, in]`; all three may have a leading `[tasks]` axis."""
    if weight.ndim == 2:
        return torch.addmm(bias, inputs, weight.mT)
    return torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT)


def mlp_with_pullback(
    inputs: Tensor, weights: Tensors, biases: Tensors, activation: type[nn.Module]
) -> tuple[Tensor, Callable[[Tensor, Tensors, Tensors], None]]:
    """Returns the output of the network, and a function for the derivatives in weights and biases, without a graph.

    It is for losses whose derivative in the output is known: recording a small network takes about as long as computing
    it. The function takes that derivative, `[rows, out]`, and tensors like the weights and biases, which it overwrites
    with the derivatives. Other arguments as for `mlp_function`.
    """
    with torch.no_grad():
        output, hidden = _forward(DERIVATIVES[activation], inputs, weights, biases)

    @torch.no_grad()
    def pull(cotangent: Tensor, for_weights: Tensors, for_biases: Tensors) -> None:
        given = _Given(DERIVATIVES[activation], [cotangent, *[None] * len(hidden)], [inputs, *hidden], weights)
        deltas = cast(Tensors, [delta for _, delta in given.deltas()])
        for delta, a, for_weight, for_bias in zip(deltas, given.below, for_weights, for_biases, strict=True):
            if _is_narrow(a, delta):
                for_weight.copy_((a.mT @ delta).mT)
            else:
                torch.mm(delta.mT, a, out=for_weight)
            torch.sum(delta, 0, out=for_bias)

    return output, pull


def _forward(activation: Activation, inputs: Tensor, weights: Tensors, biases: Tensors) -> tuple[Tensor, list[Tensor]]:
    """Returns the output and the hidden layers."""
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
        given = _Given.of(activation, tensors)
        ctx.activation, ctx.bends = activation, None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.deltas = given.deltas()
        deltas = [delta for _, delta in ctx.deltas]
        weights = [_outer(delta, a) for delta, a in zip(deltas, given.below, strict=True)]
        return *weights, *(None if delta is None else delta.sum(-2) for delta in deltas)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        tensors = ctx.saved_tensors
        given = _Given.of(ctx.activation, tensors)
        layers = len(given.weights)
        if torch.is_grad_enabled():  # a third derivative needs the graph of these
            deltas = given.deltas()
            bends = given.bends(deltas)
        else:
            deltas = ctx.deltas
            bends = ctx.bends = ctx.bends or given.bends(deltas)
        for_weights = cotangents[:layers]
        pushed = given.pushed(for_weights, cotangents[layers:])
        needed = _needed(ctx, tensors)
        gradients = [pushed[-1][0], *(q for _, q in pushed[:-1]), None]
        for layer in range(layers):
            wanted = layer > 0 and needed[len(gradients)]
            gradients.append(_outer(deltas[layer][1], pushed[layer - 1][1]) if wanted else None)
        for layer, bend in enumerate(bends):
            if not needed[len(gradients)]:
                gradients.append(None)
                continue
            through_weight = _product(deltas[layer + 1][1], for_weights[layer + 1])
            gradients.append(_bent(through_weight, pushed[layer][0], bend))
        return None, *(gradient if wanted else None for gradient, wanted in zip(gradients, needed, strict=True))


class _Given(NamedTuple):
    """The arguments of the backward pass."""

    activation: Activation
    cotangents: Cotangents  # of out, a_1, ..
    below: Tensors  # the input of each layer: x, a_1, ..
    weights: Tensors

    @classmethod
    def of(cls, activation: Activation, tensors: Cotangents) -> _Given:
        layers = len(tensors) // 3
        inputs, *rest = cast(Tensors, tensors[layers:])
        return cls(activation, tensors[:layers], [inputs, *rest[layers:]], rest[:layers])

    def deltas(self) -> Pairs:
        """Returns s_l and δ_l of every layer; the last layer has no s."""
        deltas: Pairs = [(None, self.cotangents[0])]
        for weight, a, cotangent in zip(self.weights[:0:-1], self.below[:0:-1], self.cotangents[:0:-1], strict=True):
            s = _product(deltas[-1][1], weight, plus=cotangent)
            deltas.append((s, None if s is None else self.activation.pull(s, a)))
        return deltas[::-1]

    def bends(self, deltas: Pairs) -> list[Tensor | None]:
        """Returns s_l ∘ φ''(a_l) of every hidden layer."""
        bend, pairs = self.activation.bend, zip(deltas[:-1], self.below[1:], strict=True)
        return [None if bend is None or s is None else bend(s, a) for (s, _), a in pairs]

    def pushed(self, for_weights: Cotangents, for_biases: Cotangents) -> Pairs:
        """Returns p_l and q_l of every layer for cotangents of the gradients; the last layer has no q."""
        pushed: Pairs = []
        q: Tensor | None = None
        for layer, (a, weight) in enumerate(zip(self.below, self.weights, strict=True)):
            v_weight, v_bias = for_weights[layer], for_biases[layer]
            p = None if v_bias is None else v_bias.unsqueeze(-2).expand(*a.shape[:-1], -1)
            p = _product(a, None if v_weight is None else v_weight.mT, plus=p)
            p = _product(q, weight.mT, plus=p, into=v_weight is not None)
            last = layer == len(self.weights) - 1
            q = None if p is None or last else self.activation.pull(p, self.below[layer + 1])
            pushed.append((p, q))
        return pushed


def _product(
    left: Tensor | None, right: Tensor | None, plus: Tensor | None = None, into: bool = False
) -> Tensor | None:
    """Returns left right + plus; with `into` it may overwrite `plus`, which saves a copy."""
    if left is None or right is None:
        return plus
    if plus is None:
        return left @ right
    if left.ndim == 3:
        return plus.baddbmm_(left, right) if into else torch.baddbmm(plus, left, right)
    return plus.addmm_(left, right) if into else torch.addmm(plus, left, right)


def _outer(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    """Returns leftᵀ right, with the narrow factor first: the product is then several times faster."""
    if left is None or right is None:
        return None
    return (right.mT @ left).mT if _is_narrow(right, left) else left.mT @ right


def _is_narrow(right: Tensor, left: Tensor) -> bool:
    return right.shape[-1] < left.shape[-1]


def _bent(into: Tensor | None, p: Tensor | None, bend: Tensor | None) -> Tensor | None:
    """Returns into + p ∘ bend; overwrites `into`."""
    if p is None or bend is None:
        return into
    return p * bend if into is None else into.addcmul_(p, bend)


def _needed(ctx: Any, tensors: Cotangents) -> list[bool]:
    """Returns for which of the tensors the current backward pass uses a gradient; True in cases of doubt."""
    nodes = iter(ctx.next_functions)
    return [tensor is not None and _runs(next(nodes)[0]) for tensor in tensors]


def _runs(node: Any) -> bool:
    leaf = "torch::autograd::AccumulateGrad"
    return node is not None and (node.name() == leaf or torch._C._will_engine_execute_node(node))
