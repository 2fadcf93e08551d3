"""A pretended GPU: tensors that say `device="gpu:0"`, hold their numbers on the CPU, and are as strict as CUDA.

It refuses NumPy's access to such a tensor, operations that mix it with tensors of the CPU (of more than 0 dimensions,
and other than as an index), and generators of the CPU. It counts the waits of the host (a number, a copy to the CPU, a
shape that depends on data) and the operations that are not reproducible on CUDA, by the function of research/ that
makes them.

    python tests/support/pretended_gpu.py maml_trpo/meta_sgd_func rl2/ppo_tabular

runs these golden cases on it and writes, as JSON, waits and operations of each, and how much its record differs from
that on the CPU. The backend belongs to the process; that is why this is a program.
"""

from __future__ import annotations

import collections
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "gpu"
RESEARCH = str(Path(__file__).parents[2] / "research")

# From the documentation of torch.use_deterministic_algorithms.
NOT_REPRODUCIBLE = ("aten::cumsum", "aten::scatter_add", "aten::index_add", "aten::bincount", "aten::histc")
NOT_REPRODUCIBLE += ("aten::put_", "aten::scatter_reduce", "aten::cumprod", "aten::embedding_dense_backward")
WAITS = ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select")
INDEXING = ("aten::index.", "aten::index_put", "aten::_index_put", "aten::_unsafe_index")
"""Operations whose indices may be on the CPU."""

waits: collections.Counter[str] = collections.Counter()
irreproducible: collections.Counter[str] = collections.Counter()


def line() -> str:
    """The line of research/ that is being executed."""
    frame: Any = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(RESEARCH):
        frame = frame.f_back
    return f"{frame.f_code.co_filename[len(RESEARCH) + 1 :]} {frame.f_code.co_name}" if frame else "elsewhere"


class DeviceTensor(torch.Tensor):
    """Numbers on the CPU, everything else on the pretended device."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> DeviceTensor:
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})

    def tolist(self) -> Any:
        waits[line()] += 1
        return self.inner.tolist()

    def numpy(self, *args: Any, **settings: Any) -> Any:
        raise TypeError(f"can't convert a tensor of the device to numpy: {line()}")

    __array__ = numpy

    def new_tensor(self, data: Any, **settings: Any) -> torch.Tensor:
        """As torch.tensor below: torch itself switches the dispatch to Python off meanwhile."""
        return torch.tensor(data, **{"dtype": self.dtype, "device": self.device, **settings})

    def __repr__(self) -> str:
        return f"DeviceTensor({tuple(self.shape)})"


class DeviceGenerator(torch.Generator):
    """A generator that says it is on the device, with the numbers of the CPU's."""

    device = property(lambda self: torch.device(NAME, 0))  # type: ignore[assignment]
    made: ClassVar[dict[int, DeviceGenerator]] = {}  # by address: an operation gets another Python object

    def __init__(self) -> None:
        self.made[self._cdata] = self


class Generator(torch.Generator):
    """Makes a generator of the CPU or of the device."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
        return DeviceGenerator() if is_here(device) else torch._C.Generator(device)


class Device(TorchDispatchMode):
    """The context in which tensors are made on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


def is_here(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Computes an operation on the CPU, with the result on the device if an argument is."""
    name, (flat, spec) = func.name(), pytree.tree_flatten((args, kwargs))
    if name == "aten::copy_":
        source = args[1]
        func(*(_unwrapped(arg) for arg in args))
        if isinstance(source, DeviceTensor) and not isinstance(args[0], DeviceTensor):
            waits[line()] += 1
        return args[0]
    if name == "aten::_to_copy":
        return _moved(func, args, kwargs)
    if not any(isinstance(arg, DeviceTensor) for arg in flat) and not is_here(kwargs.get("device")):
        return func(*args, **kwargs)
    _check(name, flat)
    _count(name, flat)
    inner_args, inner_kwargs = pytree.tree_unflatten([_unwrapped(arg) for arg in flat], spec)
    inner_kwargs.pop("pin_memory", None)
    if name == "aten::_efficientzerotensor":  # has no memory, which only keys above this one know
        return DeviceTensor(torch.zeros(inner_args[0], dtype=inner_kwargs.get("dtype")))
    result = func(*inner_args, **inner_kwargs)
    wrapped = pytree.tree_map_only(torch.Tensor, DeviceTensor, result)
    if any(returned.alias_info is not None for returned in func._schema.returns):
        return return_and_correct_aliasing(func, args, kwargs, wrapped)
    return wrapped


def _unwrapped(arg: Any) -> Any:
    if isinstance(arg, torch.device):
        return torch.device("cpu")
    return arg.inner if isinstance(arg, DeviceTensor) else arg


def _moved(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    target = kwargs.get("device")
    stays = is_here(target) if target is not None else isinstance(args[0], DeviceTensor)
    if isinstance(args[0], DeviceTensor) and not stays:
        waits[line()] += 1
    settings = {key: torch.device("cpu") if key == "device" and value else value for key, value in kwargs.items()}
    inner = func(_unwrapped(args[0]), *args[1:], **settings)
    return DeviceTensor(inner) if stays else inner


def _check(name: str, flat: list[Any]) -> None:
    for arg in flat:
        elsewhere = isinstance(arg, torch.Tensor) and not isinstance(arg, DeviceTensor)
        if elsewhere and arg.ndim > 0 and not name.startswith(INDEXING):
            raise RuntimeError(f"expected all tensors to be on the same device, {NAME} and cpu: {name} at {line()}")
        if isinstance(arg, torch._C.Generator) and arg._cdata not in DeviceGenerator.made:
            raise RuntimeError(f"expected a generator of {NAME}, not of the CPU: {name} at {line()}")


def _count(name: str, flat: list[Any]) -> None:
    by_mask = name.startswith("aten::index.") and any(
        isinstance(arg, torch.Tensor) and arg.dtype == torch.bool for arg in flat[1:]
    )
    if name.startswith(WAITS) or by_mask:
        waits[line()] += 1
    if name.startswith(NOT_REPRODUCIBLE):
        irreproducible[f"{name.removeprefix('aten::')} {line()}"] += 1


def install() -> None:
    """Registers the device. torch.tensor and torch.as_tensor make a tensor on the CPU and move it, as for CUDA."""
    _setup_privateuseone_for_python_backend(NAME)

    def moving(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @functools.wraps(make)
        def moved(data: Any, *, device: Any = None, **settings: Any) -> torch.Tensor:
            if not is_here(device):
                return make(data, **settings, **({} if device is None else {"device": device}))
            if isinstance(data, DeviceTensor):
                return data.to(settings.get("dtype", data.dtype))
            return make(data, **settings).to(device)

        return moved

    torch.tensor, torch.as_tensor = moving(torch.tensor), moving(torch.as_tensor)
    torch.Generator = Generator  # type: ignore[misc]


def run(case: str) -> dict[str, Any]:
    """Waits, irreproducible operations, and differences from the CPU, of a golden case."""
    import golden_cases
    import golden_records

    algorithm, name = case.split("/")
    settings = golden_cases.ALGORITHM_CASES[algorithm][name]
    expected = golden_records.record_algorithm(algorithm, settings)
    for counter in (waits, irreproducible):
        counter.clear()
    with Device():
        found = golden_records.record_algorithm(algorithm, settings | {"device": NAME})
    return {
        "waits": dict(waits),
        "irreproducible": dict(irreproducible),
        "difference": max(differences(found, expected), default=0.0),
    }


def differences(found: Any, expected: Any) -> Iterator[float]:
    """Differences of the numbers of two records, relative to those of at least 1e-6; infinite for other values."""
    for section, entries in expected.items():
        for ours, theirs in zip(found[section], entries, strict=True):
            assert ours.name == theirs.name, (ours.name, theirs.name)
            for own_row, row in zip(ours.rows, theirs.rows, strict=True):
                scale = max([1e-6, *(abs(value) for value in row if isinstance(value, float))])
                for a, b in zip(own_row, row, strict=True):
                    if a != b:
                        yield abs(a - b) / scale if isinstance(a, float) and isinstance(b, float) else float("inf")


if __name__ == "__main__":
    install()
    sys.stdout.write(json.dumps({case: run(case) for case in sys.argv[1:]}))
