"""elements.c: updates of all elements of tensors on the CPU, each in one pass over memory.

Whoever calls a function of it tells autograd which tensors it changes, by `increment_version`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from research import native

_SOURCE = Path(__file__).with_suffix(".c")
_INT, _POINTER, _DOUBLE = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
_TYPES = {
    "pull": (_INT, *[_POINTER] * 3, _DOUBLE),
    "adam": (_INT, _INT, *[_POINTER] * 4, _INT, *[_DOUBLE] * 6, _INT),
}


def pull(slow: Sequence[Tensor], fast: Sequence[Tensor], alpha: float) -> bool:
    """slow ← slow + α (fast − slow);  fast ← slow. Returns False, and changes nothing, if it cannot read the tensors.

    Args:
        slow: The tensors that move by α; at least one.
        fast: Tensors of the same shapes.
        alpha: α.
    """
    function = function_for("pull", *slow, *fast)
    if function is None:
        return False
    increment_version((*slow, *fast))
    array = _POINTER * len(slow)
    pointers = (array(*(tensor.data_ptr() for tensor in tensors)) for tensors in (slow, fast))
    function(len(slow), (_INT * len(slow))(*(tensor.numel() for tensor in slow)), *pointers, alpha)
    return True


def function_for(name: str, *tensors: Tensor) -> Any:
    """Returns a function of elements.c for plain contiguous tensors of one dtype on the CPU, or None."""
    dtype = tensors[0].dtype
    if torch.compiler.is_compiling() or not all(_is_plain(tensor) and tensor.dtype == dtype for tensor in tensors):
        return None
    functions = native.kernel(_SOURCE, dtype, "Optimisers compute in PyTorch")
    if functions is None:
        return None
    function = getattr(functions, name)
    function.argtypes, function.restype = _TYPES[name], None
    return function


def _is_plain(tensor: Tensor) -> bool:
    is_exact = type(tensor) is Tensor or type(tensor) is torch.nn.Parameter  # a subclass may compute otherwise
    return is_exact and tensor.is_cpu and tensor.layout is torch.strided and tensor.is_contiguous()
