"""A check of meta-gradients before a module or a loss that the library does not know is adapted for the first time.

Two evaluations show whether the loss is a function of its arguments: it draws no global random numbers, changes no
tensor of the module, and has the same value twice. Finite differences in float64 show whether its derivatives are
right, and plain gradient descent, task by task, whether those of the inner loop are (`research.inner_loops.checks`).

It takes about as long as 40 inner steps of one task. The module and the global generators stay as they were.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from research.inner_loops.base import (
    InnerLoop,
    InnerLoopConfig,
    Linearized,
    LossWithOutput,
    Stages,
    check_rates,
    without_output,
)
from research.inner_loops.checks import Subject, WrongError, check_function, differences, expected_adaptation, moved
from research.inner_loops.known import fingerprint, is_known
from research.inner_loops.reference import as_dtype, kept_random_states
from research.inner_loops.supported import check_model
from research.per_task import num_tasks
from research.types import Loss, MetaParams, Params

_LOCK = threading.RLock()  # a loss may hold an inner loop of its own


@dataclass(frozen=True)
class Probed(InnerLoop):
    """An inner loop that checks a model and a loss before it uses them for the first time.

    Attributes:
        config: Settings of the inner loop.
        loop: The inner loop.
        names: The backends: its own, then those that an error may recommend.
        make: Makes the inner loop of a backend, without this check.
    """

    config: InnerLoopConfig
    loop: InnerLoop
    names: Sequence[str]
    make: Callable[[str, InnerLoopConfig], InnerLoop]
    _passed: set[Hashable] = field(default_factory=set, repr=False, compare=False)

    def init_update(self, model: nn.Module, params: Params, num_steps: int) -> Params:
        """Returns the initial parameters of the update rule, see `InnerLoop.init_update`."""
        return self.loop.init_update(model, params, num_steps)

    def adapt(self, model: nn.Module, params: Params, update: Params, loss: Loss, batches: Sequence[Any]) -> Params:
        """Returns the adapted parameters, see `InnerLoop.adapt`. Raises WrongError for what the check finds."""
        self._check_once(model, params, loss, batches)
        return self.loop.adapt(model, params, update, loss, batches)

    def stages(
        self, model: nn.Module, params: Params, update: Params, loss: LossWithOutput, batches: Sequence[Any]
    ) -> Stages:
        """Returns the stages of an adaptation, see `InnerLoop.stages`. Raises WrongError as `adapt` does."""
        self._check_once(model, params, without_output(loss), batches)
        return self.loop.stages(model, params, update, loss, batches)

    def linearize(self, model: nn.Module, meta: MetaParams, loss: Loss, batches: Sequence[Any]) -> Linearized:
        """Returns the adaptation and its products, see `InnerLoop.linearize`. Raises WrongError as `adapt` does."""
        self._check_once(model, meta.model, loss, batches)
        return self.loop.linearize(model, meta, loss, batches)

    def meta_gradient(
        self, model: nn.Module, meta: MetaParams, loss: Loss, batches: Sequence[Any], query: Any
    ) -> tuple[Tensor, MetaParams]:
        """Returns a loss and its gradient, see `InnerLoop.meta_gradient`. Raises WrongError as `adapt` does."""
        self._check_once(model, meta.model, loss, batches)
        return self.loop.meta_gradient(model, meta, loss, batches, query)

    def tasks_per_chunk(self, model: nn.Module, batches: Sequence[Any]) -> int:
        """Returns how many tasks to treat at once, see `InnerLoop.tasks_per_chunk`."""
        return self.loop.tasks_per_chunk(model, batches)

    def _check_once(self, model: nn.Module, params: Params, loss: Loss, batches: Sequence[Any]) -> None:
        if is_known(model, loss) or not batches or not params.keys() <= dict(model.named_parameters()).keys():
            return
        key = (fingerprint(model, loss), self.loop.tasks_per_chunk(model, batches) > 1)
        with _LOCK:  # the global generators are those of all threads
            if key not in self._passed:
                check_model(model, second_order=not self.config.first_order)  # its messages name modules
                self._check(model, params, loss, batches)
                self._passed.add(key)

    def _check(self, model: nn.Module, params: Params, loss: Loss, batches: Sequence[Any]) -> None:
        """Checks in float64, or, without differences, in the dtype of the parameters if the model takes no other."""
        like, tasks = next(iter(params.values())), num_tasks(batches)
        pair = [0, min(1, tasks - 1)]
        failed = ""
        for dtype in dict.fromkeys((torch.float64, like.dtype)):
            some = pytree.tree_map(lambda leaf, dtype=dtype: as_dtype(leaf.detach()[pair], dtype), list(batches[:2]))
            subject = Subject(model, loss, moved(params, dtype), some, self.config)
            try:
                with kept_random_states(like.device):
                    found = check_function(subject, with_differences=dtype == torch.float64)
                    self._check_backend(subject, _rate(self.config, subject.theta, found.gradient))
                return
            except WrongError:
                raise
            except Exception as error:  # of the model or the loss, which the inner loop will then raise
                failed = failed or f"{type(error).__name__}: {error}".splitlines()[0]
        logging.getLogger(__name__).warning("The meta-gradients of %s were not checked: %s", subject.name, failed)

    def _check_backend(self, subject: Subject, rate: float) -> None:
        adapt_only, first_order = self.config.adapt_only, self.config.first_order
        config = InnerLoopConfig(inner_lr=rate, adapt_only=adapt_only, first_order=first_order)
        expected = expected_adaptation(subject, rate)
        own, *others = self.names

        def problem(name: str) -> str:
            try:
                return differences(subject, self.make(name, config), rate, expected)
            except ValueError as error:  # a refusal of the backend
                if name == own:
                    raise WrongError(str(error)) from error
                return str(error)
            except (ModuleNotFoundError, RuntimeError) as error:  # e.g. a derivative without a batching rule
                return f"it fails, {str(error).splitlines()[0][:200]}"

        wrong = problem(own)
        if wrong:
            right = [f"inner_loop={name!r}" for name in others if not problem(name)]
            advice = f"use {' or '.join(right)}, right here" if right else "change the model or the loss"
            raise subject.fails(
                f"with inner_loop={own!r} {wrong}; {advice}, or look for modules in lists and closures, recomputed "
                "blocks (checkpoint) and functions without a right batching rule (F.embedding with padding_idx)"
            )


def _rate(config: InnerLoopConfig, theta: Params, gradient: Params) -> float:
    """Returns the first rate of the settings, or less, so that a step moves the parameters by a tenth at most."""
    length, step = (float(torch.cat([v.flatten() for v in p.values()]).norm()) for p in (theta, gradient))
    return min(check_rates("inner_lr", config.inner_lr)[0], 0.1 * length / step if step else 1.0)
