"""The checks of `research.inner_loops.probe`: of a model and a loss, and of an inner loop on them.

Two derivatives that every inner loop builds on, ∇L·v and ∇²L v, are measured by central differences along one random
direction v. An inner loop is compared with gradient descent from these derivatives, task by task:

    θ_{k+1} = θ_k − α ∇L_k(θ_k),   Jᵀu = u_0,  u_k = u_{k+1} − α ∇²L_k(θ_k) u_{k+1}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from research.inner_loops.base import InnerLoop, InnerLoopConfig, adapted_names
from research.inner_loops.reference import Constants, Derivatives, derivatives, graph, holding
from research.types import Loss, Params

_STEPS = (1e-6, 1e-7, 1e-8)
"""Steps of the differences, relative to the parameters. A kink within a step spoils it, so one that agrees suffices."""
_TOLERANCE = 1e-4
"""Relative error of a derivative against differences. The wrong ones that are known are off by 3e-3 and more."""
_OMIT = "or make_inner_loop(..., probe=False) if it is meant"


class WrongError(ValueError):
    """The meta-gradients through a model and a loss would be wrong or not repeatable. Says why, and the fix."""


class Subject(NamedTuple):
    """A model and a loss at one point, and the settings of an inner loop.

    Attributes:
        model: The module.
        loss: The loss of one task.
        theta: The parameters.
        batches: The batches of two tasks, one for each inner step.
        config: The settings.
    """

    model: nn.Module
    loss: Loss
    theta: Params
    batches: Sequence[Any]
    config: InnerLoopConfig

    @property
    def name(self) -> str:
        """The names of the model's class and of the loss, for messages."""
        return f"{type(self.model).__name__} with the loss {getattr(self.loss, '__name__', type(self.loss).__name__)}"

    def at(self, theta: Params, task: int = 0, step: int = 0, **settings: Any) -> Derivatives:
        """Returns the derivatives of one task's loss at `theta`, see `derivatives`."""
        batch = pytree.tree_map(lambda leaf: leaf[task], self.batches[step])
        return derivatives(self.model, theta, self.loss, batch, **settings)

    def fails(self, problem: str) -> WrongError:
        """Returns the error that names the model and the loss."""
        return WrongError(f"{self.name} cannot be adapted: {problem}")


class Adaptation(NamedTuple):
    """Two tasks after gradient descent.

    Attributes:
        adapted: Their parameters, `[tasks, ...]`.
        cotangent: A vector u like them.
        pulled: Jᵀu, summed over tasks.
    """

    adapted: Params
    cotangent: Params
    pulled: Params


def check_function(subject: Subject, with_differences: bool) -> Derivatives:
    """Checks that the loss is a function of its arguments with right derivatives, and returns them.

    Args:
        subject: The model, the loss and a point.
        with_differences: Whether to measure the derivatives, which takes float64.

    Raises:
        WrongError: It is not, or they are wrong.
        FloatingPointError: The loss or its gradient is not finite, or the model rounds too much for differences.
    """
    direction = _like(subject.theta, seed=1)
    constants = Constants()
    found = _derivatives(subject, direction, constants)
    _check_repeats(subject, found, tolerance=1e-9 if with_differences else 1e-4)
    if found.foreign is not None:
        raise subject.fails(
            f"the model computes with a parameter of shape {found.foreign} that it has not registered, or reads from a "
            "list, so the inner loop does not adapt it; use nn.ModuleList or nn.ParameterList, or call "
            f"requires_grad_(False) on it if it is a constant, {_OMIT}"
        )
    if with_differences and constants.coarse:
        raise FloatingPointError("the model computes in less than float64")
    if with_differences:
        _check_derivatives(subject, found, direction, constants)
    return found


def _check_repeats(subject: Subject, found: Derivatives, tolerance: float) -> None:
    """Raises WrongError if another evaluation of the loss would be another one."""
    again = "so the same inner step never happens twice"
    if found.drew:
        raise subject.fails(
            f"the {found.drew} draws random numbers from a global generator, {again}; call eval(), or put them into "
            f"the batch, or draw them from a generator with a fixed seed, {_OMIT}"
        )
    if found.changed:
        raise subject.fails(
            f"evaluating it changes {', '.join(found.changed)}, {again}; write to no tensor of the model, or call "
            f"eval() if it does so in training mode, {_OMIT}"
        )
    if not all(bool(value.isfinite().all()) for value in (found.value, found.again, *found.gradient.values())):
        raise FloatingPointError("the loss or its gradient is not finite")
    if not torch.isclose(found.value, found.again, rtol=tolerance):
        raise subject.fails(
            f"a second evaluation gives {found.again.item():.6g} where the first gave {found.value.item():.6g}: the "
            f"model or the loss keeps something from call to call, {again}; remove that, {_OMIT}"
        )


def _derivatives(subject: Subject, direction: Params, constants: Constants) -> Derivatives:
    if subject.config.first_order:
        return subject.at(subject.theta, constants=constants)
    try:
        return subject.at(subject.theta, direction=direction, constants=constants)
    except RuntimeError as error:
        subject.at(subject.theta)  # if this fails as well, it is no matter of the second derivative
        raise subject.fails(
            f"it has no second derivative: {str(error).splitlines()[0]}; replace that operation, or set "
            "first_order=True"
        ) from error


def _check_derivatives(subject: Subject, found: Derivatives, direction: Params, constants: Constants) -> None:
    """Raises WrongError if a derivative differs from central differences at every step."""
    slopes, products = [], []
    for step in _STEPS:
        ahead, behind = (
            subject.at(_add(subject.theta, direction, sign * step), constants=constants.again()) for sign in (1, -1)
        )
        slope = (ahead.value - behind.value).detach() / (2 * step)  # a number
        product = {n: (ahead.gradient[n] - behind.gradient[n]) / (2 * step) for n in direction}
        terms = torch.stack([(found.gradient[name] * direction[name]).sum() for name in direction])
        slopes.append(abs(slope - terms.sum()) / (terms.abs().sum() + abs(slope) + 1e-7 * found.value.abs().detach()))
        scale = _norm(product) + _norm(found.product) + 1e-4 * _norm(found.gradient)
        products.append({n: _norm({n: product[n] - found.product[n]}) / scale for n in direction})
        if slopes[-1] <= _TOLERANCE and (subject.config.first_order or max(products[-1].values()) <= _TOLERANCE):
            return
    reasons = "; ".join(_suspects(found.value)) or "look for .data, and functions with a backward pass of their own"
    if min(slopes) > _TOLERANCE:
        raise subject.fails(
            f"its gradient is not the derivative of the loss (relative error {float(min(slopes)):.0e} against finite "
            f"differences): {reasons}; use detach() for constants that are meant, {_OMIT}"
        )
    best = min(products, key=lambda errors: max(errors.values()))
    names = ", ".join(name for name, error in best.items() if error > _TOLERANCE)
    raise subject.fails(
        f"its second derivative is wrong in {names} (relative error {float(max(best.values())):.0e} against finite "
        f"differences): {reasons}; use plain operations, or first_order=True, {_OMIT}"
    )


def _suspects(value: Tensor) -> Iterator[str]:
    """Yields the operations in the graph of a loss that are known for wrong derivatives."""
    for node in graph([value]):
        name, backward = type(node).__name__, getattr(getattr(node, "_forward_cls", None), "backward", None)
        if name.startswith("WeightNorm"):
            yield "the second derivative of torch._weight_norm is wrong"
        elif getattr(node, "_saved_scale_grad_by_freq", False):
            yield "scale_grad_by_freq scales gradients, but not their derivatives"
        elif getattr(getattr(backward, "__code__", None), "co_filename", "").endswith("autograd/function.py"):
            yield f"{name.removesuffix('Backward')} is once_differentiable"


def expected_adaptation(subject: Subject, rate: float) -> Adaptation:
    """Returns two tasks after gradient descent at a rate, by the equations of the module."""
    names, tasks = adapted_names(subject.config, subject.theta), []
    for task in range(2):
        points = [subject.theta]
        for step in range(len(subject.batches)):
            gradient = subject.at(points[-1], task, step).gradient
            points.append(_add(points[-1], {name: gradient[name] for name in names}, -rate))
        vector = cotangent = _like(points[-1], seed=2 + task)
        for step in reversed(range(0 if subject.config.first_order else len(subject.batches))):
            scaled = {n: rate * v if n in names else torch.zeros_like(v) for n, v in vector.items()}
            vector = _add(vector, subject.at(points[step], task, step, direction=scaled).product, -1)
        tasks.append((points[-1], cotangent, vector))
    adapted, cotangents, pulled = (
        {name: torch.stack([part[name] for part in parts]) for name in subject.theta}
        for parts in zip(*tasks, strict=True)
    )
    return Adaptation(adapted, cotangents, {name: value.sum(0) for name, value in pulled.items()})


def differences(subject: Subject, loop: InnerLoop, rate: float, expected: Adaptation) -> str:
    """Returns which results of an inner loop differ from the expected ones, in words; "" for none."""
    leaves = {name: value.detach().requires_grad_() for name, value in subject.theta.items()}
    like = next(iter(leaves.values()))
    with holding(subject.model, {}, like.dtype), torch.enable_grad():
        adapted = loop.adapt(subject.model, leaves, {"lr": torch.tensor(rate).to(like)}, subject.loss, subject.batches)
        total = torch.stack([(adapted[name] * expected.cotangent[name]).sum() for name in leaves]).sum()
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    pulled = dict(zip(leaves, found, strict=True))
    tolerance = 1e-6 if like.dtype == torch.float64 else 1e-2
    unmoved = {name: value.expand_as(adapted[name]) for name, value in subject.theta.items()}
    plain = {name: value.sum(0) for name, value in expected.cotangent.items()}
    for label, ours, theirs, start in (
        ("adapted parameters", adapted, expected.adapted, unmoved),
        ("meta-gradients", pulled, expected.pulled, plain),
    ):
        scale = tolerance * _norm(_add(theirs, start, -1)) + 1e-3 * tolerance * _norm(start)
        wrong = [name for name in leaves if _norm({name: (ours[name] - theirs[name]).detach()}) > scale]
        if wrong:
            return f"its {label} are wrong in {', '.join(wrong)}"
    return ""


def _like(params: Params, seed: int) -> Params:
    """Returns random tensors of the parameters' sizes: normal, with the root mean square of each, or 1 for zeros."""
    generator = torch.Generator().manual_seed(seed)
    draws = {name: torch.randn(value.shape, generator=generator, dtype=torch.float64) for name, value in params.items()}
    scales = {name: float(value.abs().square().mean().sqrt()) or 1.0 for name, value in params.items()}
    return {name: draws[name].to(value) * scales[name] for name, value in params.items()}


def moved(params: Params, dtype: torch.dtype) -> Params:
    """Returns a point near the parameters, in another dtype: away from zeros and kinks, where errors can hide."""
    own = {name: value.detach().to(dtype) for name, value in params.items()}  # a point of its own
    return _add(own, _like(own, seed=0), 0.01)


def _add(params: Params, other: Params, factor: float) -> Params:
    return {name: value + factor * other[name] if name in other else value for name, value in params.items()}


def _norm(params: Params) -> Tensor:
    return torch.stack([value.abs().square().sum() for value in params.values()]).sum().sqrt()
