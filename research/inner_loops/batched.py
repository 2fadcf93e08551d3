"""Losses of many tasks at once, for networks and losses whose form is known: without vmap and calls of modules.

A network is a chain of linear layers with one activation, alone or as the mean or the logits of a policy. A loss reads
it at the inputs of the batch and nowhere else (`OUTPUT_LOSSES`). The parameters of all tasks are then one tensor,
`[tasks, parameters]`, and an inner step (flat_steps.py) is a few operations for any number of tasks and layers. The
gradient of a loss that declares its closed form (research/criteria.py) is one node of the graph, which mlp.c computes,
and so is its derivative, a product with the Hessian. Other losses are recorded, with the network as one node. The
numbers are those of the task by task form up to rounding, and so are derivatives of any order.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from research.criteria import Rows, closed_form_of
from research.distributions import Categorical
from research.estimators import low_variance_curvature
from research.inner_loops.supported import vmappable
from research.losses import (
    dice,
    loaded_dice,
    mean_squared_error,
    policy_gradient,
    reinforce,
    squared_error,
    surrogate,
)
from research.optim.flat import flatten
from research.per_task import per_task
from research.policies import mlp_kernel
from research.policies.mlp import CategoricalMLP, GaussianMLP
from research.policies.mlp_function import mlp_function
from research.policies.mlp_network import Network, Vectors, network_of
from research.types import Loss, Params


class OutputLoss(NamedTuple):
    """A loss that reads its model once, at the inputs of the batch.

    Attributes:
        inputs: The inputs in a batch.
        of_outputs: `(outputs, batch, task_axes) -> losses`, of one task (0) or of each task (1).
        of_policy: Whether the outputs are a distribution.
    """

    inputs: Callable[[Any], Tensor]
    of_outputs: Callable[[Any, Any, int], Tensor]
    of_policy: bool = True


_OBSERVATION = operator.attrgetter("observation")

OUTPUT_LOSSES: dict[Loss, OutputLoss] = {
    squared_error: OutputLoss(operator.attrgetter("inputs"), mean_squared_error, of_policy=False),
    reinforce: OutputLoss(_OBSERVATION, policy_gradient),
    low_variance_curvature: OutputLoss(_OBSERVATION, surrogate),
    dice: OutputLoss(_OBSERVATION, loaded_dice),
}
"""The losses that depend on the model through its outputs at the inputs of the batch alone."""


class BatchedLoss(NamedTuple):
    """The loss of every task, see `batched_loss`.

    Attributes:
        network: The network of the model.
        outputs: Maps the output of the last layer and the named parameters to the output of the model.
        loss: The loss.
        rows: Maps a batch to the rows of a criterion, for mlp.c; None if it is not to be used.
    """

    network: Network
    outputs: Callable[[Tensor, Params], Any]
    loss: OutputLoss
    rows: Callable[[Any], Rows] | None

    def recorded(self, theta: Vectors, batch: Any) -> Tensor:
        """Returns the losses `[tasks]` for parameters `[tasks, parameters]`, recorded operation by operation."""
        params, inputs = self.network.named(theta), self.loss.inputs(batch)
        weights, biases = ([params[pair[side]] for pair in self.network.layers] for side in (0, 1))
        last = mlp_function(inputs.flatten(1, -2), weights, biases, self.network.activation)
        return self.loss.of_outputs(self.outputs(last.unflatten(1, inputs.shape[1:-1]), params), batch, 1)

    def values(self, theta: Vectors, batch: Any) -> Tensor:
        """Returns the losses `[tasks]`, differentiable."""
        if self.rows is None:
            return self.recorded(theta, batch)
        value: Tensor = _Value.apply(self, batch, theta)  # type: ignore[no-untyped-call]
        return value

    def gradient(self, theta: Vectors, batch: Any, create_graph: bool) -> Vectors:
        """Returns the gradient of each task's loss, `[tasks, parameters]`; differentiable with `create_graph`."""
        if self.rows is None:
            return self.recorded_gradient(theta, batch, create_graph)
        point = theta if create_graph else theta.detach()  # without a graph, nothing is kept for it
        with torch.set_grad_enabled(create_graph):
            gradient: Tensor = _Gradient.apply(self, batch, point)  # type: ignore[no-untyped-call]
        return gradient

    def recorded_gradient(self, theta: Vectors, batch: Any, create_graph: bool) -> Vectors:
        """Returns `gradient` of the recorded losses."""
        with torch.enable_grad():
            point = theta if theta.requires_grad else theta.detach().requires_grad_()
            # The tasks share no parameter here, so the gradient of the sum has the gradient of each.
            return torch.autograd.grad(self.recorded(point, batch).sum(), point, create_graph=create_graph)[0]

    def reads(self, params: Params, batch: Any) -> bool:
        """Returns whether the form applies to these tensors, plain ones with constant inputs `[tasks, ..., in]`."""
        inputs, wrapped = self.loss.inputs(batch), torch._C._functorch.is_functorch_wrapped_tensor
        if inputs.requires_grad or inputs.ndim < 3 or inputs.dtype != next(iter(params.values())).dtype:
            return False
        return not wrapped(inputs) and not any(map(wrapped, params.values()))


def batched_loss(model: nn.Module, loss: Loss, params: Params, batches: Sequence[Any]) -> BatchedLoss | None:
    """Returns the loss of many tasks at once, or None if the model, the loss or the tensors are not of a known form.

    Args:
        model: The module.
        loss: The loss of one task.
        params: The parameters that the module would be called with, for one task or for each.
        batches: The batches, every leaf `[tasks, ...]`.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
        >>> params = dict(model.named_parameters())
        >>> batched_loss(model, squared_error, params, []).network.sizes
        [1, 4, 1]
        >>> batched_loss(model, lambda forward, batch: forward(batch).mean(), params, []) is None
        True
    """
    known = OUTPUT_LOSSES.get(loss) if getattr(loss, "__hash__", None) else None
    network = None if known is None else network_of(model)
    if known is None or network is None or params.keys() != set(network.names):
        return None
    if known.of_policy != (network.log_std is not None or network.is_categorical):
        return None
    is_compiled = mlp_kernel.serves(network, params) and _are_constants(batches, next(iter(params.values())).dtype)
    losses = BatchedLoss(network, _outputs(model), known, closed_form_of(loss) if is_compiled else None)
    return losses if all(losses.reads(params, batch) for batch in batches) else None


def task_losses(model: nn.Module, loss: Loss, params: Params, batch: Any) -> Tensor:
    """Returns the loss of each task with its own parameters `[tasks, ...]`, `[tasks]`; differentiable.

    Arguments as for `batched_loss`, and one batch. Other models and losses are vmapped if their modules can be, else
    looped.
    """
    losses = batched_loss(model, loss, params, [batch])
    if losses is not None:
        return losses.values(flatten((params[name] for name in losses.network.names), 1), batch)

    def one(own: Params, examples: Any) -> Tensor:
        return loss(functools.partial(functional_call, model, own), examples)

    result: Tensor = per_task(one, params, batch, vmapped=vmappable(model))
    return result


def _are_constants(batches: Sequence[Any], dtype: torch.dtype) -> bool:
    """Returns whether no tensor of the batches has a gradient, and all have a dtype that mlp.c reads."""
    leaves: list[Tensor] = pytree.tree_leaves(list(batches))
    return not any(leaf.requires_grad or (leaf.is_floating_point() and leaf.dtype != dtype) for leaf in leaves)


def _outputs(model: nn.Module) -> Callable[[Tensor, Params], Any]:
    if isinstance(model, GaussianMLP):
        return lambda mean, params: model.distribution(mean, params["log_std"])
    if isinstance(model, CategoricalMLP):
        return lambda logits, params: Categorical(logits)
    return lambda last, params: last


class _Gradient(torch.autograd.Function):
    """θ → ∇L of each task."""

    @staticmethod
    def forward(ctx: Any, losses: BatchedLoss, batch: Any, theta: Tensor) -> Tensor:
        assert losses.rows is not None
        rows, keep = losses.rows(batch), ctx.needs_input_grad[2]
        ctx.losses, ctx.batch, ctx.rows = losses, batch, rows
        found = mlp_kernel.gradient(losses.network, shared(theta), rows.inputs, rows.criterion, keep)
        ctx.kept = found.kept
        ctx.save_for_backward(theta)
        return found.gradient

    @staticmethod
    def backward(ctx: Any, vectors: Tensor) -> Any:
        (theta,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative needs the graph of the second
            point = theta if theta.requires_grad else theta.detach().requires_grad_()
            gradient = ctx.losses.recorded_gradient(point, ctx.batch, create_graph=True)
            return None, None, *torch.autograd.grad(gradient, point, vectors, create_graph=True)
        network, (inputs, criterion) = ctx.losses.network, ctx.rows
        return None, None, mlp_kernel.hessian_product(network, shared(theta), inputs, criterion, vectors, ctx.kept)


class _Value(torch.autograd.Function):
    """θ → L of each task; its gradient is computed along with it."""

    @staticmethod
    def forward(ctx: Any, losses: BatchedLoss, batch: Any, theta: Tensor) -> Tensor:
        assert losses.rows is not None
        ctx.losses, ctx.batch = losses, batch
        if not ctx.needs_input_grad[2]:
            rows = losses.rows(batch)
            outputs, _ = mlp_kernel.forward(losses.network, shared(theta), rows.inputs)
            return mlp_kernel.value(losses.network, shared(theta), outputs, rows.criterion)
        found = mlp_kernel.gradient(losses.network, shared(theta), *losses.rows(batch))
        ctx.save_for_backward(theta, found.gradient)
        return found.value

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        theta, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():
            gradient = ctx.losses.gradient(theta, ctx.batch, create_graph=True)
        return None, None, cotangent.unsqueeze(1) * gradient


def shared(theta: Tensor) -> Tensor:
    """Returns one vector if it is that of all tasks: its weights are then loaded once."""
    return theta[0] if theta.stride(0) == 0 else theta
