"""Multilayer perceptrons in C: values, gradients and curvature products of criteria, for many tasks in one call.

`network_of` (mlp_network.py) says whether a model is such a network, and `serves` whether the compiled functions take
its parameters: the one place that decides between them and torch. Parameters are flat vectors, in the order of the
model's named parameters; `[parameters]` is shared by all tasks, `[tasks, parameters]` has one vector for each. The
calls do not hold the GIL, and a result does not depend on the other tasks of a call.

Nothing here is recorded by autograd. The torch form of the same equations is `mlp_function`.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from research import native
from research.criteria import Criterion, Kind
from research.policies.mlp_network import Network, Vectors
from research.types import Params

_SOURCE = Path(__file__).with_name("mlp.c")
_ACTIVATIONS: dict[type[nn.Module], int] = {nn.Tanh: 0, nn.ReLU: 1}
_GAUSSIAN, _CATEGORICAL, _NO_DISTRIBUTION = range(3)
_READS = {
    Kind.LOG_PROB: ("target",),
    Kind.RATIO: ("target", "log_prob"),
    Kind.CLIPPED: ("target", "log_prob"),
    Kind.KL: ("old", "old_log_std"),
    Kind.SQUARED: ("target",),
}
_MATHS = ("-Wl,--no-as-needed", "-lm")

Products = Float[Tensor, "tasks parameters"]


class _Network(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("layers", "activation", "distribution", "parameters", "log_std")),
        *((name, ctypes.c_void_p) for name in ("sizes", "weights", "biases")),
        ("min_log_std", ctypes.c_double),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("tasks", "rows", "stride")),
        *((name, ctypes.c_void_p) for name in ("input", "parameters")),
    ]


class _Criterion(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("weight", "target", "log_prob", "old", "old_log_std")),
        ("clip", ctypes.c_double),
    ]


def serves(network: Network, params: Params) -> bool:
    """Returns whether the compiled functions take these parameters, which may lead with a `[tasks]` axis."""
    if params.keys() != set(network.names):
        return False
    like = next(iter(params.values()))
    pairs = zip(network.names, network.shapes, strict=True)
    fit = all(params[name].shape[-len(shape) :] == shape for name, shape in pairs)
    alike = all(value.dtype == like.dtype and value.device.type == "cpu" for value in params.values())
    return fit and alike and _load(like.dtype) is not None


class Kept(NamedTuple):
    """The blocks of rows of a pass, for products at the same parameters and rows.

    Attributes:
        blocks: The hidden layers and outputs, `[tasks, numbers]`.
        has_cotangents: Whether their cotangents are there, too, as Hessian products need them.
    """

    blocks: Tensor
    has_cotangents: bool


class Gradient(NamedTuple):
    """A criterion and its gradient; `kept` is None unless it was asked for.

    Attributes:
        value: `[tasks]`.
        gradient: `[tasks, parameters]`.
        kept: For `hessian_product`.
    """

    value: Tensor
    gradient: Tensor
    kept: Kept | None


def forward(
    network: Network, parameters: Vectors, inputs: Float[Tensor, "tasks rows features"], keep: bool = False
) -> tuple[Float[Tensor, "tasks rows out"], Kept | None]:
    """Returns the outputs, and with `keep` the blocks for `fisher_product`."""
    call = _Call(network, parameters, inputs)
    outputs = inputs.new_empty(call.tasks, call.rows, network.sizes[-1])
    kept = call.room(has_cotangents=False) if keep else None
    call("mlp_forward", outputs, kept and kept.blocks)
    return outputs, kept


def value(
    network: Network, parameters: Vectors, outputs: Float[Tensor, "tasks rows out"], criterion: Criterion
) -> Float[Tensor, " tasks"]:
    """Returns the criterion of given outputs. Of the parameters only the log standard deviation is read."""
    call = _Call(network, parameters, outputs, criterion, on_outputs=True)
    found = outputs.new_empty(call.tasks)
    call("mlp_value", *call.criterion, outputs.contiguous(), found)
    return found


def gradient(
    network: Network,
    parameters: Vectors,
    inputs: Float[Tensor, "tasks rows features"],
    criterion: Criterion,
    keep: bool = False,
) -> Gradient:
    """Returns the criterion of the outputs and its gradient in the parameters, and with `keep` the blocks."""
    call = _Call(network, parameters, inputs, criterion)
    found, vectors = inputs.new_empty(call.tasks), inputs.new_empty(call.tasks, network.num_parameters)
    kept = call.room(has_cotangents=True) if keep else None
    call("mlp_gradient", *call.criterion, found, vectors, kept and kept.blocks)
    return Gradient(found, vectors, kept)


def hessian_product(
    network: Network,
    parameters: Vectors,
    inputs: Float[Tensor, "tasks rows features"],
    criterion: Criterion,
    vectors: Vectors,
    kept: Kept | None = None,
    further: Criterion | None = None,
) -> Products:
    """Returns the Hessian of the criterion in the parameters times vectors, plus the gradient of a further criterion.

    One backward pass gives both. `kept` has the blocks of `gradient`.
    """
    if kept is not None and not kept.has_cotangents:
        raise ValueError(
            "kept: a Hessian product needs the blocks of `gradient`, those of `forward` have no cotangents"
        )
    return _product(_Call(network, parameters, inputs, criterion), vectors, kept, False, further)


def fisher_product(
    network: Network,
    parameters: Vectors,
    inputs: Float[Tensor, "tasks rows features"],
    weight: Float[Tensor, "tasks rows"],
    vectors: Vectors,
    kept: Kept | None = None,
) -> Products:
    """Returns Σ w JᵀMJ times vectors, with J the derivative of a row's output, and of log σ, in the parameters.

    M is the Fisher information of the distribution; without a distribution it is 2, the Hessian of a squared error.

    Args:
        network: The network.
        parameters: Its parameters.
        inputs: Its inputs.
        weight: w of each row.
        vectors: The vectors, one for each task, or one for all.
        kept: The blocks of `forward`, if it kept them.
    """
    if kept is not None and kept.has_cotangents:
        raise ValueError(
            "kept: a Fisher product needs the blocks of `forward`, those of `gradient` have another layout"
        )
    call = _Call(network, parameters, inputs, Criterion(Kind.SQUARED, weight), reads=())
    return _product(call, vectors, kept, gauss_newton=True)


def _product(
    call: _Call, vectors: Vectors, kept: Kept | None, gauss_newton: bool, further: Criterion | None = None
) -> Products:
    vectors = call.vectors(vectors, "vectors")
    found = vectors.new_empty(call.tasks, call.network.num_parameters)
    stride = ctypes.c_int64(vectors.shape[-1] if vectors.ndim == 2 else 0)
    more = further and call.structure(further)
    blocks, kind = kept and kept.blocks, ctypes.c_int64(gauss_newton)
    call("mlp_product", *call.criterion, more, vectors, stride, found, blocks, kind)
    return found


class _Call:
    """The arguments that all functions share, checked and contiguous.

    Args:
        network: The network.
        parameters: Its parameters, `[parameters]` or `[tasks, parameters]`.
        inputs: `[tasks, rows, features]`.
        criterion: The criterion, if the function has one.
        reads: The fields of the criterion that the function reads besides the weight; None: those of its kind.
        on_outputs: Whether `inputs` are outputs of the network.

    Raises:
        ValueError: Shapes or dtypes do not fit together.
    """

    def __init__(
        self,
        network: Network,
        parameters: Vectors,
        inputs: Tensor,
        criterion: Criterion | None = None,
        reads: tuple[str, ...] | None = None,
        on_outputs: bool = False,
    ):
        features = network.sizes[-1 if on_outputs else 0]
        self.network, self.dtype = network, inputs.dtype
        if inputs.ndim != 3 or inputs.shape[2] != features or not inputs.is_cpu:
            raise ValueError(f"inputs: {_described(inputs)}, need [tasks, rows, {features}] on cpu")
        self.tasks, self.rows, _ = inputs.shape
        parameters = self.vectors(parameters, "parameters")
        stride = parameters.shape[-1] if parameters.ndim == 2 else 0
        self._alive = [inputs.contiguous(), parameters]
        self._batch = _Batch(self.tasks, self.rows, stride, *(tensor.data_ptr() for tensor in self._alive))
        self.criterion: tuple[Any, ...] = ()
        if criterion is not None:
            self.criterion = (self.structure(criterion, reads),)

    def __call__(self, name: str, *arguments: Any) -> None:
        """Calls a function of mlp.c; tensors are passed as addresses, None as a null pointer."""
        given = [ctypes.c_void_p(each.data_ptr()) if isinstance(each, Tensor) else each for each in arguments]
        function = getattr(_load(self.dtype), name)
        failure = function(ctypes.byref(_struct(self.network)), ctypes.byref(self._batch), *given)
        if failure == -1:
            raise MemoryError(f"{name}: no memory for the blocks of a network of {self.network.num_parameters} numbers")
        if failure:
            raise IndexError(f"target: need actions from 0 to {self.network.sizes[-1] - 1}")

    def room(self, has_cotangents: bool) -> Kept:
        """Returns memory for the blocks of all tasks."""
        numbers = _load(self.dtype).mlp_kept(
            ctypes.byref(_struct(self.network)), ctypes.c_int64(self.rows), ctypes.c_int64(has_cotangents)
        )
        return Kept(torch.empty(self.tasks, numbers, dtype=self.dtype), has_cotangents)

    def vectors(self, given: Vectors, name: str) -> Vectors:
        """Returns contiguous vectors of parameters. Raises ValueError if there is not one for each task, or for all."""
        size = self.network.num_parameters
        if given.shape not in ((size,), (self.tasks, size)) or given.dtype != self.dtype or not given.is_cpu:
            raise ValueError(
                f"{name}: {_described(given)}, need ({size},) or ({self.tasks}, {size}) {self.dtype} on cpu"
            )
        return given.contiguous()

    def structure(self, given: Criterion, reads: tuple[str, ...] | None = None) -> Any:
        """Returns the address of a criterion, checked. `reads` as for the class."""
        reads = _READS[given.kind] if reads is None else reads
        network, rows = self.network, (self.tasks, self.rows)
        outputs = network.sizes[-1]
        if network.log_std is None and not network.is_categorical and given.kind != Kind.SQUARED:
            raise ValueError(f"kind={given.kind.name}: the network has no distribution, need SQUARED")
        if network.is_categorical and given.kind == Kind.SQUARED and "target" in reads:
            raise ValueError("kind=SQUARED: the network is categorical, need a criterion of its distribution")
        shapes = {
            "weight": rows,
            "target": rows if network.is_categorical else (*rows, outputs),
            "log_prob": rows,
            "old": (*rows, outputs),
            "old_log_std": (self.tasks, outputs),
        }
        addresses: dict[str, int] = {}
        for name in ("weight", *reads):
            if name == "old_log_std" and network.is_categorical:
                continue
            dtype = torch.int64 if name == "target" and network.is_categorical else self.dtype
            tensor: Tensor | None = getattr(given, name)
            if tensor is None or tensor.shape != shapes[name] or tensor.dtype != dtype or not tensor.is_cpu:
                found = None if tensor is None else _described(tensor)
                raise ValueError(f"{name}: {found}, {given.kind.name} needs {shapes[name]} {dtype} on cpu")
            self._alive.append(tensor.contiguous())
            addresses[name] = self._alive[-1].data_ptr()
        return ctypes.byref(_Criterion(kind=given.kind, clip=given.clip_eps, **addresses))


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"


@functools.lru_cache(maxsize=64)
def _struct(network: Network) -> _Network:
    many = ctypes.c_int64 * len(network.layers)
    weights, biases = (many(*(network.starts[pair[side]] for pair in network.layers)) for side in (0, 1))
    sizes = (ctypes.c_int64 * (len(network.layers) + 1))(*network.sizes)
    has_log_std = network.log_std is not None
    distribution = _GAUSSIAN if has_log_std else _CATEGORICAL if network.is_categorical else _NO_DISTRIBUTION
    struct = _Network(
        *(len(network.layers), _ACTIVATIONS[network.activation], distribution, network.num_parameters),
        network.starts[network.log_std] if network.log_std is not None else -1,
        *(ctypes.cast(array, ctypes.c_void_p) for array in (sizes, weights, biases)),
        network.min_log_std,
    )
    struct.arrays = (sizes, weights, biases)  # as long as the struct
    return struct


@functools.cache
def _load(dtype: torch.dtype) -> Any:
    """Returns the compiled functions for numbers of a dtype, or None; the reason is logged once."""
    loaded = native.kernel(_SOURCE, dtype, "Perceptrons are computed with torch", _MATHS)
    if loaded is not None:
        loaded.mlp_kept.restype = ctypes.c_int64
    return loaded
