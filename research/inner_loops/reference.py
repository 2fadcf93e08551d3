"""A loss and its first two derivatives at one point, computed as no inner loop does.

The parameters are put into the module and stay there for both backward passes; an inner loop passes them to a call.
Code that reads a parameter later (a recomputed block) or from elsewhere (a list, a closure) so reads the right one.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from research.inner_loops.supported import twice_differentiable
from research.types import Loss, Params

_COARSE = (torch.float32, torch.float16, torch.bfloat16)


class Derivatives(NamedTuple):
    """A loss at one point.

    Attributes:
        value: L(θ), with its graph.
        gradient: ∇L(θ) by name, without a graph.
        product: ∇²L(θ) v by name; zeros without a direction v.
        again: The value of a second evaluation.
        changed: Names of the tensors of the module that the evaluations changed.
        drew: The part that drew global random numbers: `"model"`, `"loss"` or `""`.
        foreign: Shape of a parameter that the model used and that is not one of its own; None if there is none.
    """

    value: Tensor
    gradient: Params
    product: Params
    again: Tensor
    changed: list[str]
    drew: str
    foreign: tuple[int, ...] | None


def derivatives(
    model: nn.Module,
    theta: Params,
    loss: Loss,
    batch: Any,
    direction: Params | None = None,
    constants: contextlib.AbstractContextManager[Any] | None = None,
) -> Derivatives:
    """Returns the loss of one task and its derivatives at `theta`. Leaves the module and its tensors as they were.

    Args:
        model: The module. Its other tensors are copied in the dtype of `theta`.
        theta: The parameters.
        loss: The loss of one task.
        batch: The batch of one task.
        direction: The vector v by name; None for no second derivative.
        constants: A context for the evaluation of the loss, e.g. `Constants`.

    Example:
        >>> model, square = nn.Linear(1, 1, bias=False), lambda forward, x: forward(x).square().sum()
        >>> at, v = {"weight": torch.ones(1, 1)}, {"weight": torch.ones(1, 1)}
        >>> found = derivatives(model, at, square, torch.ones(2, 1), v)
        >>> found.value.item(), found.gradient["weight"].item(), found.product["weight"].item()
        (2.0, 4.0, 4.0)
    """
    leaves = {name: value.detach().requires_grad_() for name, value in theta.items()}
    like = next(iter(leaves.values()))
    forward, before = _Watched(model, like.device), random_states(like.device)
    with holding(model, leaves, like.dtype) as changed, twice_differentiable(model), torch.enable_grad():
        with constants or contextlib.nullcontext():
            value = loss(forward, batch)
        nothing = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        if written := changed():  # autograd may refuse to go back through it
            return Derivatives(value, nothing, nothing, value, written, "", None)
        gradient = _gradient(value, leaves, create_graph=direction is not None)
        terms = [(gradient[name] * (direction or {})[name]).sum() for name in leaves if gradient[name].requires_grad]
        product = _gradient(torch.stack(terms).sum(), leaves, create_graph=False) if terms else nothing
        gradient = {name: value.detach() for name, value in gradient.items()}  # a number, as the next value is
        again = loss(forward, batch).detach()
        drew = "" if random_states(like.device) == before else "model" if forward.drew else "loss"
        return Derivatives(value, gradient, product, again, changed(), drew, forward.foreign())


class _Watched:
    """A model as a function, which takes notes."""

    def __init__(self, model: nn.Module, device: torch.device):
        self.model, self.device = model, device
        self.outputs: list[Tensor] = []
        self.drew = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before = random_states(self.device)
        output = self.model(*args, **kwargs)
        self.outputs += [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
        self.drew |= random_states(self.device) != before
        return output

    def foreign(self) -> tuple[int, ...] | None:
        """Returns the shape of a parameter in the graph of the outputs that is not the model's."""
        own = {id(value) for _, value in _tensors(self.model)}
        leaves = (getattr(node, "variable", None) for node in graph(self.outputs))
        return next((tuple(p.shape) for p in leaves if isinstance(p, nn.Parameter) and id(p) not in own), None)


def _gradient(value: Tensor, leaves: Params, create_graph: bool) -> Params:
    found = torch.autograd.grad(
        value, list(leaves.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))


def graph(outputs: Iterable[Tensor]) -> Iterator[Any]:
    """Yields every node of the graph of some tensors once."""
    seen, nodes = set(), [output.grad_fn for output in outputs]
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [below for below, _ in node.next_functions]
            yield node


class Constants(TorchFunctionMode):
    """Keeps the values that a loss declares constant those of the first evaluation, as autograd takes them.

    Constant are `detach` and `item`, everything under `no_grad`, and the row `padding_idx` of an embedding. `.data`
    declares nothing.

    Attributes:
        coarse: Whether an evaluation rounded something to less than float64, too much for finite differences.

    Example:
        >>> constants, x = Constants(), torch.tensor(1.0)
        >>> with constants:
        ...     first = float(x.detach())
        >>> with constants.again():
        ...     float((x + 1).detach())
        1.0
    """

    _NAMES = frozenset({"detach", "item", "tolist", "numpy", "__float__", "__int__", "__bool__", "__index__"})

    def __init__(self) -> None:
        super().__init__()
        self.coarse = False
        self._kept: list[Any] = []
        self._next: int | None = None
        self._without_gradients = False  # by no_grad; the forward pass of an autograd.Function is not meant

    def again(self) -> Constants:
        """Returns this mode for another evaluation."""
        self._next = 0
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.coarse |= isinstance(result, Tensor) and result.requires_grad and result.dtype in _COARSE
        if func is torch._C._set_grad_enabled:
            self._without_gradients = not args[0]
        if func is F.embedding:
            row = args[2] if len(args) > 2 else kwargs.get("padding_idx")
            if row is not None:
                is_padding = (args[0] == row % len(args[1])).unsqueeze(-1)
                return torch.where(is_padding, self._first(result), result)
        constant = self._without_gradients or getattr(func, "__name__", "") in self._NAMES
        if not constant or result is None or any(result is arg for arg in args):
            return result
        return self._first(result)

    def _first(self, result: Any) -> Any:
        """Returns the result of the first evaluation."""
        if self._next is None:
            self._kept.append(pytree.tree_map_only(Tensor, lambda value: value.detach().clone(), result))
            return result
        self._next += 1
        return self._kept[self._next - 1]


@contextlib.contextmanager
def holding(model: nn.Module, params: Params, dtype: torch.dtype) -> Iterator[Callable[[], list[str]]]:
    """A context in which the module has `params`, and copies in `dtype` of all its other tensors.

    Its own tensors and attributes come back at the end, unchanged. The context gives a function that returns the names
    of the tensors that were changed or replaced since the start.
    """
    own = [(module, dict(module.__dict__)) for module in model.modules()]
    copies = {id(value): params[name] for name, value in model.named_parameters() if name in params}
    for _, value in _tensors(model):
        if id(value) not in copies:
            copy = as_dtype(value.detach(), dtype).clone()  # the module's own tensor is not written to
            is_parameter = isinstance(value, nn.Parameter)
            copies[id(value)] = nn.Parameter(copy, value.requires_grad) if is_parameter else copy
    for module, attributes in own:
        for place in ("_parameters", "_buffers"):
            module.__dict__[place] = {key: copies.get(id(value), value) for key, value in attributes[place].items()}
        module.__dict__.update({k: copies[id(v)] for k, v in attributes.items() if isinstance(v, Tensor)})
        if isinstance(module, nn.RNNBase):
            module.__dict__["_flat_weights"] = [getattr(module, name) for name in module._flat_weights_names]
    before = {name: value.detach().clone() for name, value in _tensors(model)}  # values alone

    def changed() -> list[str]:
        return [name for name, value in _tensors(model) if name in before and not _equal(before[name], value)]

    try:
        yield changed
    finally:
        for module, attributes in own:
            module.__dict__.clear()
            module.__dict__.update(attributes)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields every tensor that is an attribute of a module of the model, with its name."""
    for path, module in model.named_modules():
        for place in (module._parameters, module._buffers, module.__dict__):
            for key, value in place.items():
                if isinstance(value, Tensor):
                    yield f"{path}.{key}" if path else key, value


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())  # NaN is NaN


def as_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a real tensor in `dtype`, a complex one in its complex form, and any other as it is.

    Example:
        >>> as_dtype(torch.ones(1), torch.float64), as_dtype(torch.ones(1, dtype=torch.int64), torch.float64)
        (tensor([1.], dtype=torch.float64), tensor([1]))
    """
    if value.is_complex():
        return value.to(dtype.to_complex())
    return value.to(dtype) if value.is_floating_point() else value


def random_states(device: torch.device) -> list[Any]:
    """Returns the states of the global generators of torch (for the CPU and for `device`), NumPy and Python."""
    states: list[Any] = [torch.get_rng_state().numpy().tobytes(), random.getstate()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device).numpy().tobytes())
    _, keys, *position = np.random.get_state(legacy=True)  # noqa: NPY002
    return [*states, np.asarray(keys).tobytes(), position]


@contextlib.contextmanager
def kept_random_states(device: torch.device) -> Iterator[None]:
    """A context after which the global generators are in the states that they had before."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
