"""Two linear layers on the same memory as one node of the autograd graph, which linear.c computes on a CPU.

Products with five or six outputs take a BLAS several times as long as their arithmetic. Torch computes the same without
a compiler, on other devices and for other dtypes, and where a gradient of the gradient is needed.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from research import native

_SOURCE = Path(__file__).with_name("linear.c")
_MOST = 64
"""Outputs up to which the compiled form is used: a BLAS is as fast from some number on."""

Layer = tuple[Tensor, Tensor]
"""Weights `[output, memory]` and biases `[output]`."""


def linear_pair(
    memory: Float[Tensor, "*batch memory"], first: Layer, second: Layer
) -> tuple[Float[Tensor, "*batch first"], Float[Tensor, "*batch second"]]:
    """Returns the outputs of two linear layers on the same memory, by one product."""
    if not _fit(memory, *first, *second):
        weight, bias = (torch.cat(pair) for pair in zip(first, second, strict=True))
        one, other = F.linear(memory, weight, bias).split((len(first[1]), len(second[1])), -1)
        return one, other
    one, other = _Pair.apply(memory, *first, *second)  # type: ignore[no-untyped-call]
    return one, other


def _fit(memory: Tensor, *parameters: Tensor) -> bool:
    """Returns whether linear.c can read the tensors: it takes their dtype from the memory."""
    weight, bias, other_weight, other_bias = parameters
    alike = all(leaf.dtype == memory.dtype and leaf.is_cpu for leaf in (memory, *parameters))
    fit = all(w.shape == (*b.shape, memory.shape[-1]) for w, b in ((weight, bias), (other_weight, other_bias)))
    few = 0 < len(bias) + len(other_bias) <= _MOST
    return alike and fit and few and _load(memory) is not None


def _load(memory: Tensor) -> Any:
    loaded = native.kernel(_SOURCE, memory.dtype, "Linear heads are computed by torch") if memory.is_cpu else None
    if loaded is not None and not loaded.linear_width.argtypes:
        loaded.linear_width.restype, loaded.linear_width.argtypes = ctypes.c_int64, [ctypes.c_int64]
    return loaded


class _Pair(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, memory: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        functions, parameters = _load(memory), [leaf.contiguous() for leaf in given]
        rows = _rows(memory, functions.linear_width(memory.shape[-1]))
        outputs = [memory.new_empty(*memory.shape[:-1], len(bias)) for bias in parameters[1::2]]
        _call(functions.linear_forward, rows, memory.shape[-1], parameters, output=outputs)
        ctx.save_for_backward(memory, *given)
        return outputs[0], outputs[1]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, ...]:
        memory, *given = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is needed
            return _recorded(memory, given, cotangents)
        functions, parameters = _load(memory), [leaf.contiguous() for leaf in given]
        size, width = memory.shape[-1], functions.linear_width(memory.shape[-1])
        rows = _rows(memory, width)
        found = [torch.empty_like(leaf) for leaf in parameters]
        to_memory = memory.new_empty(*memory.shape[:-1], width)
        given_back = [cotangent.contiguous() for cotangent in cotangents]
        _call(functions.linear_backward, rows, size, parameters, None, given_back, to_memory, found)
        return to_memory[..., :size], *found


def _recorded(memory: Tensor, given: list[Tensor], cotangents: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Returns the gradients with a graph."""
    to_memory = cotangents[0] @ given[0] + cotangents[1] @ given[2]
    flat = memory.flatten(0, -2)
    found = []
    for cotangent in cotangents:
        own = cotangent.flatten(0, -2)
        found += [own.mT @ flat, own.sum(0)]
    return to_memory, *found


def _rows(memory: Tensor, width: int) -> Tensor:
    """Returns the memory as `[rows, memory]` whose rows can be read in whole vectors, `width` numbers."""
    size = memory.shape[-1]
    rows = memory.reshape(-1, size)
    inside = rows.storage_offset() + (len(rows) - 1) * rows.stride(0) + width
    held = rows.untyped_storage().nbytes() // rows.element_size()
    if rows.stride(-1) == 1 and rows.stride(0) >= width and inside <= held:
        return rows
    return F.pad(rows, (0, width - size)).contiguous()


class _Job(ctypes.Structure):
    """The struct `linear_pair` of linear.c, where the fields are explained."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "size", "memory_row")),
        ("outputs", ctypes.c_int64 * 2),
        ("memory", ctypes.c_void_p),
        *((name, ctypes.c_void_p * 2) for name in ("weight", "bias", "output", "cotangent")),
        ("to_memory", ctypes.c_void_p),
        *((name, ctypes.c_void_p * 2) for name in ("to_weight", "to_bias")),
    ]


def _call(
    function: Any,
    rows: Tensor,
    size: int,
    parameters: list[Tensor],
    output: list[Tensor] | None = None,
    cotangent: list[Tensor] | None = None,
    to_memory: Tensor | None = None,
    found: list[Tensor] | None = None,
) -> None:
    def pair(tensors: list[Tensor] | None) -> Any:
        return (ctypes.c_void_p * 2)(*(tensor.data_ptr() for tensor in tensors or ()))

    outputs = (ctypes.c_int64 * 2)(*(len(bias) for bias in parameters[1::2]))
    pairs = (pair(tensors) for tensors in (parameters[0::2], parameters[1::2], output, cotangent))
    gradients = (pair(found and found[0::2]), pair(found and found[1::2]))
    pointer = None if to_memory is None else to_memory.data_ptr()
    job = _Job(len(rows), size, rows.stride(0), outputs, rows.data_ptr(), *pairs, pointer, *gradients)
    if function(ctypes.byref(job)):
        raise MemoryError("linear.c: not enough memory for its weights and a block of rows")
