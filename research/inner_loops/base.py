"""Protocol and settings of inner loops, and the initialisation of their learning rates.

A trust region needs J v and Jᵀ u many times at the same parameters, J = ∂adapted/∂meta for each task. A linearisation
keeps the graphs that all products share.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from research.inner_loops.batched import task_losses
from research.inner_loops.supported import twice_differentiable, vmappable
from research.optim import linear_map
from research.optim.lookahead_settings import LookaheadConfig
from research.per_task import expand, num_tasks, per_task
from research.types import Forward, Loss, MetaParams, Params

LearnedRate = Literal["none", "scalar", "per_step", "per_parameter"]
Transform = Literal["none", "kronecker", "meta_curvature"]

LOOKAHEAD_ALPHA = "lookahead_alpha"
"""Name of Lookahead's α among the parameters of the update rule."""


@dataclass(frozen=True)
class InnerLoopConfig(LookaheadConfig):
    """Settings of an inner loop, the same for every backend, besides those of Lookahead around its optimiser.

    Attributes:
        inner_optimizer: `"sgd"`, `"adam"`, `"adamw"`; the `higher` backend has every optimiser registered with it.
        inner_lr: The learning rate, or one per step; later steps use the last one.
        learn_inner_lr: Which learning rates are meta-learned: `"none"`, one `"scalar"`, one `"per_step"`, or one
            `"per_parameter"` element (Meta-SGD, Li et al. 2017, arXiv:1707.09835).
        first_order: Whether the meta-gradient treats the inner gradients as constants (FOMAML).
        adapt_only: Names of the adapted parameters, as shell patterns (`"head.*"`); empty adapts all.
            (ANIL, Raghu et al. 2020, arXiv:1909.09157, adapts the head.)
        transform: The meta-learned transform of the gradient: `"none"`, or `"kronecker"` or `"meta_curvature"` with
            the `learn2learn` backend.
        learn_lookahead_alpha: Whether α is meta-learned. A learned α is not limited to (0, 1].

    Example:
        >>> InnerLoopConfig(inner_lr=(0.5, 0.1), learn_inner_lr="per_step").learned_keys
        ('learn_inner_lr',)
    """

    inner_optimizer: str = "sgd"
    inner_lr: float | tuple[float, ...] = 0.1
    learn_inner_lr: LearnedRate = "none"
    first_order: bool = False
    adapt_only: tuple[str, ...] = ()
    transform: Transform = "none"
    learn_lookahead_alpha: bool = False

    @property
    def learned_keys(self) -> tuple[str, ...]:
        """The settings that make parameters of the update rule meta-learned, by name."""
        constant = {"learn_inner_lr": "none", "transform": "none", "learn_lookahead_alpha": False}
        return tuple(key for key, value in constant.items() if getattr(self, key) != value)

    @property
    def is_plain_descent(self) -> bool:
        """Whether an inner step is θ − α ∘ ∇L, without moments and without Lookahead."""
        return self.inner_optimizer == "sgd" and not self.lookahead_k

    def learns(self, name: str) -> bool:
        """Returns whether the parameter `name` of the update rule is meta-learned; otherwise it is a constant."""
        if name == LOOKAHEAD_ALPHA:
            return self.learn_lookahead_alpha
        return name.startswith("transform.") or self.learn_inner_lr != "none"

    def __post_init__(self) -> None:
        rates = check_rates("inner_lr", self.inner_lr)
        if self.learn_inner_lr == "per_parameter" and len(rates) > 1:
            raise ValueError(
                f"inner_lr={self.inner_lr}: learn_inner_lr='per_parameter' starts from one rate, not one for each step"
            )
        LookaheadConfig.__post_init__(self)
        if self.learn_lookahead_alpha and not self.lookahead_k:
            raise ValueError("learn_lookahead_alpha=True: need lookahead_k of at least 1, without it there is no α")


def check_rates(name: str, given: float | tuple[float, ...]) -> tuple[float, ...]:
    """Returns the rates of a setting as a tuple. Raises ValueError if there is none, or one is not above 0.

    Example:
        >>> check_rates("inner_lr", 0.5)
        (0.5,)
    """
    rates = given if isinstance(given, tuple) else (given,)
    if not rates or any(not rate > 0 for rate in rates):
        raise ValueError(f"{name}={given}: need a rate above 0, or one above 0 for each inner step")
    return rates


class Linearized(NamedTuple):
    """An inner loop at one point.

    Attributes:
        adapted: The adapted parameters, `[tasks, ...]`, without a graph.
        jvp: Maps a tangent v of the meta-parameters, the same for all tasks, to J v, `[tasks, ...]` per parameter.
        vjp: Maps cotangents u of the adapted parameters, `[tasks, ...]`, to the sum of Jᵀ u over tasks.
    """

    adapted: Params
    jvp: Callable[[MetaParams], Params]
    vjp: Callable[[Params], MetaParams]


class Stages(NamedTuple):
    """The stages of an adaptation.

    Attributes:
        params: The parameters before each inner step, and those after the last one, `[tasks, ...]` each.
        outputs: The second results of the inner loss of each inner step, trees of tensors `[tasks, ...]`.
    """

    params: list[Params]
    outputs: list[Any]


LossWithOutput = Callable[[Forward, Any], tuple[Tensor, Any]]
"""`loss(forward, batch) -> (loss, output)`: an inner loss of one task, and what else its forward pass gives."""


def without_output(loss: LossWithOutput) -> Loss:
    """Returns the loss alone."""

    @functools.wraps(loss)
    def alone(forward: Forward, batch: Any) -> Tensor:
        return loss(forward, batch)[0]

    return alone


class InnerLoop(Protocol):
    """Adapts a model to each task of a batch; differentiable. A backend adds `adapt`, and whatever else it does better.

    Attributes:
        config: Settings of the inner loop.
    """

    config: InnerLoopConfig

    def init_update(self, model: nn.Module, params: Params, num_steps: int) -> Params:
        """Returns the initial parameters of the update rule, e.g. its learning rates."""
        return init_update(self.config, params, num_steps)

    def adapt(self, model: nn.Module, params: Params, update: Params, loss: Loss, batches: Sequence[Any]) -> Params:
        """Returns the parameters after one inner step on each batch.

        Args:
            model: The module; the values of its own parameters are not used.
            params: The initial parameters, without a task axis.
            update: The parameters of the update rule, see `init_update`.
            loss: The inner loss of one task.
            batches: One tree of tensors per inner step, every leaf `[tasks, ...]`. Repeat a batch for several steps on
                the same data.

        Returns:
            Every parameter of the model with a leading `[tasks]` axis, differentiable with respect to `params` and
            `update` (parameters outside `adapt_only` are expanded views).

        Raises:
            ValueError: The meta-gradients of a module of the model would be wrong, see `supported.check_model`.
        """

    def stages(
        self, model: nn.Module, params: Params, update: Params, loss: LossWithOutput, batches: Sequence[Any]
    ) -> Stages:
        """Returns the parameters that `adapt` passes through, and further results of the forward pass at each.

        Arguments as for `adapt`, but for the loss. All results are differentiable as the adapted parameters are.
        This makes every stage from the start, at the cost of K (K + 1) / 2 steps for K.

        Args:
            model: The module.
            params: The initial parameters.
            update: The parameters of the update rule.
            loss: The inner loss, with an output that is wanted at each stage.
            batches: One tree of tensors per inner step.
        """
        adapt = functools.partial(self.adapt, model, params, update, without_output(loss))
        later = [adapt(batches[: step + 1]) for step in range(len(batches))]
        stages = [expand(params, num_tasks(batches)), *later]

        def output(own: Params, batch: Any) -> Any:
            return loss(functools.partial(functional_call, model, own), batch)[1]

        with twice_differentiable(model):
            vmapped = vmappable(model)
            outputs = [per_task(output, *pair, vmapped=vmapped) for pair in zip(stages, batches, strict=False)]
        return Stages(stages, outputs)

    def linearize(self, model: nn.Module, meta: MetaParams, loss: Loss, batches: Sequence[Any]) -> Linearized:
        """Returns `adapt` at `meta` and its derivative as products with vectors. Keeps the graphs of all tasks.

        This is reverse mode for every `adapt`, see `research.optim.linear_map`.

        Example:
            >>> from research.inner_loops import make_inner_loop
            >>> inner_loop = make_inner_loop("func", InnerLoopConfig())
            >>> model, meta = nn.Linear(1, 1, bias=False), ({"weight": torch.zeros(1, 1)}, {"lr": torch.tensor(0.25)})
            >>> loss, batches = lambda forward, x: forward(x).square().sum(), [torch.ones(2, 1)]
            >>> result = InnerLoop.linearize(inner_loop, model, MetaParams(*meta), loss, batches)
            >>> tangent = MetaParams({"weight": torch.ones(1, 1)}, {"lr": torch.tensor(0.0)})
            >>> result.jvp(tangent)["weight"].flatten()  # 1 − 2α for each of two tasks
            tensor([0.5000, 0.5000])
        """

        def adapt(at: MetaParams) -> Params:
            return self.adapt(model, at.model, at.update, loss, batches)

        return Linearized(*linear_map.linearize(adapt, meta))

    def meta_gradient(
        self, model: nn.Module, meta: MetaParams, loss: Loss, batches: Sequence[Any], query: Any
    ) -> tuple[Tensor, MetaParams]:
        """Returns the loss on `query` after adaptation, a mean over tasks, and its gradient in the meta-parameters.

        The gradient of constants of the update rule may be 0. Neither has a graph.

        Args:
            model: The module.
            meta: The initial parameters, and those of the update rule.
            loss: The loss of one task, before and after adaptation.
            batches: One batch per inner step, every leaf `[tasks, ...]`; without any, the loss is that at `meta`.
            query: The batch after adaptation.
        """
        leaves = MetaParams(*({name: value.detach().requires_grad_() for name, value in part.items()} for part in meta))
        with torch.enable_grad():
            adapted = self.adapt(model, *leaves, loss, batches) if batches else expand(leaves.model, num_tasks([query]))
            value = task_losses(model, loss, adapted, query).mean()
            inputs = [*leaves.model.values(), *leaves.update.values()]
            found = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
        size = len(leaves.model)
        return value.detach(), MetaParams(
            dict(zip(leaves.model, found[:size], strict=True)), dict(zip(leaves.update, found[size:], strict=True))
        )

    def tasks_per_chunk(self, model: nn.Module, batches: Sequence[Any]) -> int:
        """Returns how many tasks to treat at once; larger batches run faster in chunks of this size on threads."""
        return 1


Backend = Callable[[InnerLoopConfig], InnerLoop]
"""The `make` of a backend's module. Raises ValueError for settings that the backend does not support."""


def init_update(config: InnerLoopConfig, params: Params, num_steps: int) -> Params:
    """Returns the initial parameters of the update rule: the learning rates, and α with Lookahead.

    Example:
        >>> config = InnerLoopConfig(inner_lr=0.5, lookahead_k=5, lookahead_alpha=0.75)
        >>> init_update(config, {"w": torch.zeros(2)}, num_steps=1)
        {'lr': tensor(0.5000), 'lookahead_alpha': tensor(0.7500)}
    """
    rates = init_rates(config, params, num_steps)
    if not config.lookahead_k:
        return rates
    like = next(iter(params.values()))
    return {**rates, LOOKAHEAD_ALPHA: torch.tensor(config.lookahead_alpha, dtype=like.dtype, device=like.device)}


def init_rates(config: InnerLoopConfig, params: Params, num_steps: int) -> Params:
    """Returns the initial learning rates.

    They are `{"lr": [] or [steps]}`; for Meta-SGD `{"lr.<name>": tensor}`, shaped as the parameters.

    Example:
        >>> params = {"w": torch.zeros(2)}
        >>> init_rates(InnerLoopConfig(inner_lr=0.5, learn_inner_lr="per_step"), params, num_steps=3)
        {'lr': tensor([0.5000, 0.5000, 0.5000])}
        >>> init_rates(InnerLoopConfig(inner_lr=0.5, learn_inner_lr="per_parameter"), params, num_steps=3)
        {'lr.w': tensor([0.5000, 0.5000])}
    """
    like = next(iter(params.values()))
    rates = config.inner_lr if isinstance(config.inner_lr, tuple) else (config.inner_lr,)
    if config.learn_inner_lr == "per_parameter":
        names = adapted_names(config, params)
        return {f"lr.{name}": torch.full_like(params[name], rates[0]) for name in names}
    if config.learn_inner_lr == "per_step":
        rates = rates + rates[-1:] * (num_steps - len(rates))
    rate = rates[0] if len(rates) == 1 and config.learn_inner_lr != "per_step" else rates
    return {"lr": torch.tensor(rate, dtype=like.dtype, device=like.device)}


def rate(update: Params, name: str, step: int) -> Tensor:
    """Returns the learning rate of parameter `name` at inner step `step`; later steps use the last rate.

    Example:
        >>> [float(rate({"lr": torch.tensor([0.5, 0.25])}, "w", step)) for step in range(3)]
        [0.5, 0.25, 0.25]
    """
    if "lr" not in update:
        return update[f"lr.{name}"]
    lr = update["lr"]
    return lr if lr.ndim == 0 else lr[min(step, len(lr) - 1)]


def add_rate_cotangent(update: Params, name: str, step: int, cotangent: Tensor) -> None:
    """Adds the cotangent `[tasks, ...]` of the rate of one parameter at one step: the transpose of `base.rate`.

    One number for all tasks is a sum of the sums of each: torch shares a sum of all elements out to its threads, and
    its last bit depends on their number.
    """
    if "lr" not in update:
        update[f"lr.{name}"] += cotangent.sum(0)
        return
    total = cotangent.flatten(1).sum(1).sum() if cotangent.ndim > 1 else cotangent.sum()
    if update["lr"].ndim == 0:
        update["lr"] += total
    else:
        update["lr"][min(step, len(update["lr"]) - 1)] += total


def adapted_names(config: InnerLoopConfig, params: Params) -> tuple[str, ...]:
    """Returns the names of the parameters that the inner loop adapts.

    Raises:
        ValueError: A pattern of `adapt_only` matches no parameter.

    Example:
        >>> params = {"body.weight": torch.zeros(1), "head.weight": torch.zeros(1)}
        >>> adapted_names(InnerLoopConfig(adapt_only=("head.*",)), params)
        ('head.weight',)
    """
    if not config.adapt_only:
        return tuple(params)
    for pattern in config.adapt_only:
        if not fnmatch.filter(params, pattern):
            raise ValueError(f"adapt_only: {pattern!r} matches no parameter; there are {', '.join(params)}")
    return tuple(name for name in params if any(fnmatch.fnmatch(name, pattern) for pattern in config.adapt_only))
