"""A GRU with the projection of its inputs, as one node of the autograd graph that gru.c computes on a CPU.

The projected inputs, three numbers for each unit and step, are then never in memory, and the states of some rows stay
in the cache from step to step. Without a compiler, on other devices and for other dtypes, torch computes the same
(`gru_function`), up to rounding. Torch also records the graph of a gradient, where one is needed.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from research import native
from research.parallel import start_sharing
from research.policies.gru_function import gru_function, gru_recorded, input_product

_SOURCE = Path(__file__).with_name("gru.c")
_OTHERWISE = "The GRU is computed by torch"
_WORTH_A_THREAD = 2_000_000
"""Products with weights of the state, a third of all, that take a thread some ten times as long as to start."""


class GRUWeights(NamedTuple):
    """The parameters of a GRU; the gates are r, z and n.

    Attributes:
        weight_input: Weights of the features, `[3 · hidden, features]`.
        bias_input: Biases of the gates, `[3 · hidden]`.
        weight: Weights of the state, `[3 · hidden, hidden]`.
        bias: The bias where the reset gate acts, `[hidden]`.
        table: `[2 · pairs, 3 · hidden]`: embeddings of the pairs, and those that the reward multiplies; None without.
    """

    weight_input: Tensor
    bias_input: Tensor
    weight: Tensor
    bias: Tensor
    table: Tensor | None = None


def kernel(dtype: torch.dtype, device: torch.device) -> ctypes.CDLL | None:
    """Returns gru.c for this dtype, or None where torch computes."""
    loaded = native.kernel(_SOURCE, dtype, _OTHERWISE) if device.type == "cpu" else None
    if loaded is not None and not loaded.gru_block.argtypes:
        for function in (loaded.gru_width, loaded.gru_block):
            function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_int64]
    return loaded


def gru(
    features: Float[Tensor, "time rows features"],
    pair: Int[Tensor, "time rows"] | None,
    reward: Float[Tensor, "time rows"] | None,
    state: Float[Tensor, "rows hidden"],
    weights: GRUWeights,
    num_threads: int = 1,
) -> Float[Tensor, "time rows hidden"]:
    """Returns the states after each step, differentiable in the weights and the first state to any order.

    Args:
        features: The dense inputs; constants.
        pair: Index of the last observation and action together; None without a table.
        reward: Factor of the second half of the table; None without a table. Constants.
        state: The state before the first step.
        weights: The parameters.
        num_threads: Threads over the rows of a compiled forward pass; the states do not depend on it.
    """
    if kernel(features.dtype, features.device) is None or not _fit(features, pair, reward, state, weights):
        gates = project(features, pair, reward, weights)  # which also has an error for tensors that do not fit
        return gru_function(gates, state, weights.weight, weights.bias)
    keep = torch.is_grad_enabled()
    return _Kernel.apply(keep, num_threads, features, pair, reward, state, *weights)  # type: ignore[no-untyped-call]


def _fit(features: Tensor, pair: Tensor | None, reward: Tensor | None, state: Tensor, weights: GRUWeights) -> bool:
    """Returns whether gru.c can read the tensors: it takes their shapes, dtype and device from the features."""
    (time, rows, num_features), size = features.shape, state.shape[-1]
    shapes: list[tuple[int, ...]] = [(3 * size, num_features), (3 * size,), (3 * size, size), (size,), (rows, size)]
    leaves = [*weights[:4], state]
    if weights.table is not None:
        if pair is None or reward is None or pair.dtype != torch.int64 or not pair.is_cpu:
            return False
        shapes += [(time, rows), (time, rows), (len(weights.table) // 2 * 2, 3 * size)]
        leaves += [pair, reward, weights.table]
    alike = all(leaf is pair or (leaf.dtype == features.dtype and leaf.is_cpu) for leaf in leaves)
    return alike and all(leaf.shape == shape for leaf, shape in zip(leaves, shapes, strict=True))


def project(
    features: Float[Tensor, "time rows features"],
    pair: Int[Tensor, "time rows"] | None,
    reward: Float[Tensor, "time rows"] | None,
    weights: GRUWeights,
) -> Float[Tensor, "time rows gates"]:
    """Returns the projected inputs of the gates, `[time, rows, 3 · hidden]`, by torch."""
    return project_inputs(features, pair, reward, weights.weight_input, weights.bias_input, weights.table)


def project_inputs(
    features: Float[Tensor, "*axes features"],
    pair: Int[Tensor, "*axes"] | None,
    reward: Float[Tensor, "*axes"] | None,
    weight: Float[Tensor, "out features"],
    bias: Float[Tensor, " out"],
    table: Float[Tensor, "pairs out"] | None,
) -> Float[Tensor, "*axes out"]:
    """Returns weight · features + bias + P[pair] + reward · R[pair], with P and R the two halves of the table.

    Args:
        features: The dense inputs; constants.
        pair: Rows of P and R; None without a table.
        reward: Factor of R; None without a table. Constants.
        weight: Weights of the features.
        bias: The bias.
        table: P above R, or None.
    """
    projected = input_product(features, weight, bias)
    if table is None or pair is None or reward is None:
        return projected
    plain, weighted = table.split(len(table) // 2)
    projected = projected + F.embedding(pair, plain)
    return projected.addcmul_(reward.unsqueeze(-1), F.embedding(pair, weighted))


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        keep: bool,
        num_threads: int,
        features: Tensor,
        pair: Tensor | None,
        reward: Tensor | None,
        state: Tensor,
        *given: Tensor | None,
    ) -> Tensor:
        weights = _contiguous(given)
        inputs = [None if leaf is None else leaf.contiguous() for leaf in (features, pair, reward)]
        _check_pairs(inputs[1], weights.table)
        time, (rows, size) = len(features), state.shape
        functions = _library(features)
        width = functions.gru_width(size)
        states = features.new_empty(time + 1, rows, width)
        states[0, :, :size], states[0, :, size:] = state, 0
        gates = features.new_empty(time, rows, 4 * width) if keep and any(ctx.needs_input_grad) else None
        _forward(functions, _sequence(inputs, weights, states, gates), num_threads)
        ctx.save_for_backward(*inputs, state, *given, states, gates)  # not copies of the weights, which have no graph
        return states[1:, :, :size]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, state, weight_input, bias_input, weight, bias, table, states, gates = ctx.saved_tensors
        weights = GRUWeights(weight_input, bias_input, weight, bias, table)
        if torch.is_grad_enabled():  # a graph of the gradient is needed
            return None, None, None, None, None, *_recorded(inputs, state, weights, cotangents[0])
        weights = _contiguous(weights)
        found = GRUWeights(*(None if leaf is None else torch.empty_like(leaf) for leaf in weights))  # type: ignore[arg-type]
        first, cotangent = state.new_empty(state.shape), cotangents[0].contiguous()
        sequence = _sequence(inputs, weights, states, gates)
        _check(_library(state).gru_backward(ctypes.byref(sequence), ctypes.byref(_gradient(cotangent, first, found))))
        return None, None, None, None, None, first, *found


def _forward(functions: ctypes.CDLL, sequence: _Sequence, num_threads: int) -> None:
    """Runs a forward pass, whose blocks of rows are shared out to threads if it is long enough."""
    block = functions.gru_block(sequence.rows)
    blocks = -(-sequence.rows // block)
    work = sequence.time * sequence.rows * sequence.size**2
    parts = max(1, min(num_threads, blocks, work // _WORTH_A_THREAD))
    bounds = [min(sequence.rows, block * (blocks * part // parts)) for part in range(parts + 1)]

    def run(intervals: Iterator[tuple[int, int]]) -> None:
        for begin, end in intervals:
            own = _Sequence.from_buffer_copy(sequence)
            own.begin, own.end = begin, end
            _check(functions.gru_forward(ctypes.byref(own)))

    start_sharing(run, list(itertools.pairwise(bounds)), parts)()


def _contiguous(weights: Sequence[Tensor | None]) -> GRUWeights:
    return GRUWeights(*(None if leaf is None else leaf.contiguous() for leaf in weights))  # type: ignore[arg-type]


def _check_pairs(pair: Tensor | None, table: Tensor | None) -> None:
    """Raises IndexError if a pair is not in the table: C reads whatever memory is there."""
    if pair is None or table is None or not pair.numel():
        return
    least, most = (int(bound) for bound in pair.aminmax())
    if least < 0 or most >= len(table) // 2:
        raise IndexError(f"pair: got {least} to {most}, need 0 to {len(table) // 2 - 1}")


def _recorded(inputs: list[Any], state: Tensor, weights: GRUWeights, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    """Returns the gradients of the state and the weights, with a graph."""
    features, pair, reward = inputs
    output = gru_recorded(project(features, pair, reward, weights), state, weights.weight, weights.bias)
    leaves = (state, *weights)
    wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    found = iter(torch.autograd.grad(output, wanted, cotangent, create_graph=True))
    return tuple(next(found) if leaf is not None and leaf.requires_grad else None for leaf in leaves)


_NUMBERS = ("time", "rows", "size", "features", "pairs", "begin", "end")
_INPUTS = ("feature", "pair", "reward", "weight_input", "bias_input", "table", "weight", "bias", "state", "gate")
_GRADIENTS = ("state", "first", "weight_input", "bias_input", "table", "weight", "bias")


class _Sequence(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int64) for name in _NUMBERS), *((name, ctypes.c_void_p) for name in _INPUTS)]


class _Gradient(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _GRADIENTS]


def _sequence(inputs: list[Any], weights: GRUWeights, states: Tensor, gates: Tensor | None) -> _Sequence:
    features, pair, reward = inputs
    time, rows, num_features = features.shape
    pairs = 0 if weights.table is None or pair is None else len(weights.table) // 2
    parameters = (weights.weight_input, weights.bias_input, weights.table, weights.weight, weights.bias)
    pointers = (_pointer(leaf) for leaf in (features, pair, reward, *parameters, states, gates))
    return _Sequence(time, rows, len(weights.bias), num_features, pairs, 0, rows, *pointers)


def _gradient(cotangent: Tensor, first: Tensor, found: GRUWeights) -> _Gradient:
    leaves = (cotangent, first, found.weight_input, found.bias_input, found.table, found.weight, found.bias)
    return _Gradient(*map(_pointer, leaves))


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _library(tensor: Tensor) -> ctypes.CDLL:
    loaded = kernel(tensor.dtype, tensor.device)
    assert loaded is not None  # checked by `gru`
    return loaded


def _check(status: int) -> None:
    if status:
        raise MemoryError("gru.c: not enough memory for its weights and a block of rows")
