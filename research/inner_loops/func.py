"""The fast inner loop: autograd, over chunks of tasks at once or task by task.

`adapt` computes networks and losses that `batched.py` knows with the tasks as an axis of every tensor. With others, the
model is called by `functional_call`, vmapped where the batch of a task is small (kernel launches dominate) and looped
where it is large (memory traffic dominates). The numbers are the same. For plain gradient descent the derivative of the
whole inner loop has a closed form, with one Hessian-vector product per step: that of descent.py, which computes it for
compiled networks. Here autograd computes it for all others.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from research.criteria import ClosedForm
from research.inner_loops import flat_steps
from research.inner_loops.base import (
    LOOKAHEAD_ALPHA,
    Backend,
    InnerLoop,
    InnerLoopConfig,
    Linearized,
    LossWithOutput,
    Stages,
    adapted_names,
    add_rate_cotangent,
    rate,
)
from research.inner_loops.batched import batched_loss
from research.inner_loops.descent import Descent, Stage
from research.inner_loops.known import fingerprint
from research.inner_loops.supported import check_model, twice_differentiable, vmappable
from research.optim.differentiable import UPDATE_RULES, UpdateRule
from research.optim.differentiable_lookahead import lookahead
from research.parallel import chunks, parallel_map
from research.per_task import expand, num_tasks, per_task, take
from research.policies import mlp_kernel
from research.types import Loss, MetaParams, Params

_ROWS_PER_CHUNK = {"cpu": 2048, "cuda": 1 << 20}
"""Most batch rows of a vmapped chunk, about: what fits into the cache of a core, or fills a GPU."""

_WORK_OF_PART, _MOST_PARTS = 1 << 22, 4
"""Rows times parameters that are worth a thread in a compiled meta-gradient, some milliseconds, as Python takes half a
millisecond for each part and holds the GIL; and the most parts of a meta-batch."""

_LOOPED: set[Hashable] = set()
"""Fingerprints of the models and losses that torch.vmap could not batch: the attempt is not repeated."""


@dataclass(frozen=True)
class FuncInnerLoop(InnerLoop):
    """Inner loop on autograd.

    Attributes:
        config: Settings of every backend.
        chunk_size: Tasks that are vmapped together; None: chosen by the size of a task's batch.
    """

    config: InnerLoopConfig
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        if self.config.inner_optimizer not in UPDATE_RULES:
            raise ValueError(
                f"inner_optimizer={self.config.inner_optimizer!r}: inner_loop='func' has {', '.join(UPDATE_RULES)}; "
                "inner_loop='higher' takes any optimiser that higher has registered"
            )
        if self.config.transform != "none":
            raise ValueError(
                f"transform={self.config.transform!r}: only inner_loop='learn2learn' has gradient transforms"
            )
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"chunk_size={self.chunk_size}: need at least 1 task, or None to choose")

    def tasks_per_chunk(self, model: nn.Module, batches: Sequence[Any]) -> int:
        """See `InnerLoop.tasks_per_chunk`: the size of a vmap."""
        if not vmappable(model):
            return 1
        if self.chunk_size is not None:
            return self.chunk_size
        leaves = pytree.tree_leaves(list(batches))
        rows = min(leaf[0].numel() for leaf in leaves)
        return max(1, _ROWS_PER_CHUNK.get(leaves[0].device.type, 2048) // max(rows, 1))

    def adapt(self, model: nn.Module, params: Params, update: Params, loss: Loss, batches: Sequence[Any]) -> Params:
        losses = batched_loss(model, loss, params, batches)
        if losses is None or not batches:
            return self.stages(model, params, update, _with_no_output(loss), batches).params[-1]
        if losses.rows is not None:
            return flat_steps.adapt(self.config, losses, self._rule(update), params, update, batches)
        parts = [
            flat_steps.adapt(self.config, losses, self._rule(update), params, update, take(batches, chunk))
            for chunk in chunks(num_tasks(batches), self.tasks_per_chunk(model, batches))
        ]
        return parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in params}

    def stages(
        self, model: nn.Module, params: Params, update: Params, loss: LossWithOutput, batches: Sequence[Any]
    ) -> Stages:
        """See `InnerLoop.stages`: one pass, in which the outputs share the forward pass of the inner gradient."""
        check_model(model, second_order=not self.config.first_order)
        size = self.tasks_per_chunk(model, batches)
        parts = [
            self._stages_of_chunk(model, params, update, loss, take(batches, chunk))
            for chunk in chunks(num_tasks(batches), size)
        ]
        return parts[0] if len(parts) == 1 else pytree.tree_map(lambda *leaves: torch.cat(leaves), *parts)

    def _stages_of_chunk(
        self, model: nn.Module, params: Params, update: Params, loss: LossWithOutput, batches: Sequence[Any]
    ) -> Stages:
        names = adapted_names(self.config, params)
        rule = self._rule(update)
        tracked = torch.is_grad_enabled() and any(v.requires_grad for v in (*params.values(), *update.values()))
        create_graph = tracked and not self.config.first_order
        if not tracked:  # under no_grad a view of a parameter has requires_grad=True, but no gradient
            params = {name: value.detach() for name, value in params.items()}
        theta, state = expand(params, num_tasks(batches)), None
        found = Stages([theta], [])
        for step, batch in enumerate(batches):
            gradient, output = _gradient_and_output(model, theta, names, loss, batch, create_graph, keep_graph=tracked)
            before = {name: theta[name] for name in names}
            after, state = rule(before, gradient, state, functools.partial(rate, update, step=step))
            theta = {**theta, **after}
            found.params.append(theta)
            found.outputs.append(output if tracked else pytree.tree_map(lambda leaf: leaf.detach(), output))
        return found

    def _rule(self, update: Params) -> UpdateRule:
        config, rule = self.config, UPDATE_RULES[self.config.inner_optimizer]
        if not config.lookahead_k:
            return rule
        settings: dict[str, Any] = {"k": config.lookahead_k, "inner_state": config.lookahead_inner_state}
        return functools.partial(lookahead, rule=rule, alpha=update[LOOKAHEAD_ALPHA], **settings)

    def meta_gradient(
        self, model: nn.Module, meta: MetaParams, loss: Loss, batches: Sequence[Any], query: Any
    ) -> tuple[Tensor, MetaParams]:
        """See `InnerLoop.meta_gradient`: without autograd for plain gradient descent of compiled networks."""
        losses = batched_loss(model, loss, meta.model, [*batches, query]) if self.config.is_plain_descent else None
        if losses is None or losses.rows is None:
            return super().meta_gradient(model, meta, loss, batches, query)
        network, rows, total = losses.network, losses.rows, num_tasks([*batches, query])

        def part(tasks: slice) -> tuple[Tensor, MetaParams]:
            own, last = take((list(batches), query), tasks) if tasks != slice(0, total) else (batches, query)
            descent = Descent(self.config, network, meta, _stages(rows, own))
            outer = mlp_kernel.gradient(network, descent.params[-1], *rows(last))
            return outer.value, descent.pull(outer.gradient / total)

        parts = _parts(total, losses.loss.inputs(query).shape[:-1].numel() * network.num_parameters)
        num_threads = torch.get_num_threads()
        found = parallel_map(part, parts, num_threads) if len(parts) > 1 else [part(parts[0])]
        values, gradients = zip(*found, strict=True)
        return torch.cat(values).mean(), functools.reduce(_add, gradients)

    def linearize(self, model: nn.Module, meta: MetaParams, loss: Loss, batches: Sequence[Any]) -> Linearized:
        """See `InnerLoop.linearize`: the closed form of descent.py for plain gradient descent, else reverse mode."""
        if not self.config.is_plain_descent:
            return super().linearize(model, meta, loss, batches)
        check_model(model, second_order=not self.config.first_order)
        losses = batched_loss(model, loss, meta.model, batches) if batches else None
        if losses is not None and losses.rows is not None:
            return Descent(self.config, losses.network, meta, _stages(losses.rows, batches)).linearized()
        names = adapted_names(self.config, meta.model)
        update = {name: value.detach() for name, value in meta.update.items()}
        theta = expand({name: value.detach() for name, value in meta.model.items()}, num_tasks(batches))
        steps = []
        for k, batch in enumerate(batches):
            leaves = {name: value.detach().requires_grad_() for name, value in theta.items()}
            gradient = _gradient(model, leaves, tuple(leaves), loss, batch, create_graph=not self.config.first_order)
            steps.append(_Step(leaves, gradient))
            moved = {name: theta[name] - rate(update, name, k) * gradient[name].detach() for name in names}
            theta = {**theta, **moved}
        descent = _GradientDescent(steps, names, update)
        return Linearized(theta, descent.jvp, descent.vjp)


make: Backend = FuncInnerLoop


def _parts(total: int, work: int) -> list[slice]:
    """Returns parts of the tasks for threads. They depend on the work alone, so that sums do not depend on threads.

    Args:
        total: The number of tasks.
        work: Rows of all tasks times the parameters of the network.
    """
    count = min(total, _MOST_PARTS, max(1, round(work / _WORK_OF_PART)))
    return chunks(total, -(-total // count))


def _stages(rows: ClosedForm, batches: Sequence[Any]) -> list[Stage]:
    """Returns the stage of each batch; a batch of several steps becomes rows once."""
    found = {id(batch): Stage(*rows(batch)) for batch in batches}
    return [found[id(batch)] for batch in batches]


def _add(first: MetaParams, second: MetaParams) -> MetaParams:
    pairs = zip(first, second, strict=True)
    return MetaParams(*({name: value + right[name] for name, value in left.items()} for left, right in pairs))


class _Step(NamedTuple):
    """One step of gradient descent, for products with its Hessian. Every tensor is `[tasks, ...]`."""

    theta: Params  # leaves of the graph of the gradient
    gradient: Params  # without a graph if the inner loop is first order

    def hessian_product(self, vector: Params) -> Params:
        """Returns ∇²L · vector of each task; zero where the gradient is a constant."""
        pairs = [(gradient, vector[name]) for name, gradient in self.gradient.items() if gradient.requires_grad]
        if not pairs:
            return {name: torch.zeros_like(value) for name, value in vector.items()}
        gradients, vectors = zip(*pairs, strict=True)
        product = torch.autograd.grad(
            gradients,
            list(self.theta.values()),
            vectors,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(self.theta, product, strict=True))


class _GradientDescent(NamedTuple):
    """The steps of gradient descent, and products with its derivative: the equations of descent.py."""

    steps: list[_Step]
    names: tuple[str, ...]
    update: Params

    def jvp(self, tangent: MetaParams) -> Params:
        tasks = next(iter(self.steps[0].theta.values())).shape[0]
        vector = expand(tangent.model, tasks)
        for k, step in enumerate(self.steps):
            product = step.hessian_product(vector)
            for name in self.names:
                change = rate(self.update, name, k) * product[name]
                if tangent.update:
                    change = change + rate(tangent.update, name, k) * step.gradient[name].detach()
                vector[name] = vector[name] - change
        return vector

    def vjp(self, cotangent: Params) -> MetaParams:
        vector = cotangent
        update = {name: torch.zeros_like(value) for name, value in self.update.items()}
        for k, step in reversed(list(enumerate(self.steps))):
            scaled = {name: torch.zeros_like(value) for name, value in vector.items()}
            for name in self.names:
                scaled[name] = rate(self.update, name, k) * vector[name]
                add_rate_cotangent(update, name, k, -step.gradient[name].detach() * vector[name])
            product = step.hessian_product(scaled)
            vector = {name: vector[name] - product[name] for name in vector}
        return MetaParams({name: value.sum(0) for name, value in vector.items()}, update)


def _with_no_output(loss: Loss) -> LossWithOutput:
    return lambda forward, batch: (loss(forward, batch), ())


def _gradient(
    model: nn.Module, theta: Params, names: Sequence[str], loss: Loss, batch: Any, create_graph: bool
) -> Params:
    """Returns ∇L of every task in its own parameters, `[tasks, ...]`; zero for parameters without influence."""
    return _gradient_and_output(model, theta, names, _with_no_output(loss), batch, create_graph)[0]


def _gradient_and_output(
    model: nn.Module,
    theta: Params,
    names: Sequence[str],
    loss: LossWithOutput,
    batch: Any,
    create_graph: bool,
    keep_graph: bool = False,
) -> tuple[Params, Any]:
    """Returns `_gradient`, and the output of the loss; with `keep_graph` the output can be differentiated, too."""

    def task_loss(params: Params, task_batch: Any) -> tuple[Tensor, Any]:
        return loss(functools.partial(functional_call, model, params), task_batch)

    point = {name: value if value.requires_grad else value.detach().requires_grad_() for name, value in theta.items()}

    def gradient(vmapped: bool) -> tuple[Params, Any]:
        # The tasks share no parameter here, so the gradient of the sum has the gradient of each.
        losses, output = per_task(task_loss, point, batch, vmapped=vmapped)
        inputs = [point[name] for name in names]
        retain = create_graph or (keep_graph and bool(pytree.tree_leaves(output)))
        found = torch.autograd.grad(
            losses.sum(),
            inputs,
            retain_graph=retain,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(names, found, strict=True)), output

    with twice_differentiable(model), torch.enable_grad():
        is_looped = bool(_LOOPED) and fingerprint(model, loss) in _LOOPED
        if is_looped or not vmappable(model) or num_tasks([batch]) == 1:
            return gradient(vmapped=False)
        try:
            return gradient(vmapped=True)
        except RuntimeError as error:  # `if` on a tensor, .item(), masks, ...; an error of one task comes again
            looped = gradient(vmapped=False)
            _LOOPED.add(fingerprint(model, loss))
            _say_looped(str(error).splitlines()[0][:200])
            return looped


@functools.cache
def _say_looped(reason: str) -> None:
    """Logs once why a loss is computed task by task."""
    logging.getLogger(__name__).warning(
        "Tasks are computed one after the other, which is slower: torch.vmap cannot batch the model or the loss (%s)",
        reason,
    )
