"""The inner loop on `higher` (Grefenstette et al. 2019, arXiv:1910.01727): any optimiser, task by task.

The Adam of higher 0.2.1 adds ε before the bias correction where torch adds it after, omits the derivative in β₂ through
the correction, and ignores `maximize`; higher has no AdamW. Importing this module registers correct versions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from research.inner_loops.base import LOOKAHEAD_ALPHA, Backend, InnerLoop, InnerLoopConfig, adapted_names, rate
from research.inner_loops.supported import check_model, twice_differentiable
from research.optim.differentiable import AdamState, adam, adamw
from research.optim.differentiable_lookahead import interpolate
from research.optim.lookahead import Lookahead, interpolated
from research.per_task import num_tasks
from research.types import Forward, Loss, Params

with warnings.catch_warnings():
    # higher 0.2.1 compares an integer with `is` and has invalid escapes, deprecations before Python 3.12.
    warnings.simplefilter("ignore", SyntaxWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    import higher

Optimizer = Any
"""A torch.optim.Optimizer or higher's differentiable form of one."""

_FIXED_RATE = ("asgd", "rprop")
"""Optimisers whose differentiable form in higher takes the learning rate as a number only."""


@dataclass(frozen=True)
class HigherInnerLoop(InnerLoop):
    """Inner loop on `higher`.

    Attributes:
        config: Settings of every backend. `inner_optimizer` is the name, in lower case, of a class of torch.optim that
            is registered with higher; its other settings have torch's defaults.
    """

    config: InnerLoopConfig

    def __post_init__(self) -> None:
        if self.config.inner_optimizer not in registered_optimizers():
            raise ValueError(
                f"inner_optimizer={self.config.inner_optimizer!r}: inner_loop='higher' has "
                f"{', '.join(sorted(registered_optimizers()))}; others join with higher.register_optim"
            )
        if self.config.inner_optimizer in _FIXED_RATE and self.config.learn_inner_lr != "none":
            raise ValueError(
                f"learn_inner_lr={self.config.learn_inner_lr!r}: need 'none' with "
                f"inner_optimizer={self.config.inner_optimizer!r}, which is not differentiable in its rate"
            )
        if self.config.transform != "none":
            raise ValueError(f"transform={self.config.transform!r}: only inner_loop='learn2learn' has transforms")

    def adapt(self, model: nn.Module, params: Params, update: Params, loss: Loss, batches: Sequence[Any]) -> Params:
        check_model(model, second_order=not self.config.first_order)
        patched = _Patched(model, params)
        names = adapted_names(self.config, params)
        tracked = torch.is_grad_enabled() and any(t.requires_grad for t in (*params.values(), *update.values()))
        tasks = num_tasks(batches)
        make_optimizer = self._optimizer_factory([params[name] for name in names], tracked)

        def adapt_task(task: int) -> list[Tensor]:
            optimizer, theta = make_optimizer(), [_start(params[name], tracked) for name in names]
            for step, batch in enumerate(batches):
                forward = patched.forward({**params, **dict(zip(names, theta, strict=True))})
                value = loss(forward, pytree.tree_map(lambda leaf: leaf[task], batch))
                override = {"lr": [self._rate(update, name, step) for name in names]}
                if self.config.lookahead_k:
                    override[LOOKAHEAD_ALPHA] = [update[LOOKAHEAD_ALPHA]]
                theta = optimizer.step(value, params=theta, override=override)
            return theta

        with twice_differentiable(model), torch.enable_grad():
            adapted = [adapt_task(task) for task in range(tasks)]
        patched.forget()
        moved = {name: torch.stack(rows) for name, rows in zip(names, zip(*adapted, strict=True), strict=True)}
        moved = moved if tracked else {name: value.detach() for name, value in moved.items()}
        return {name: moved.get(name, value.expand(tasks, *value.shape)) for name, value in params.items()}

    def _rate(self, update: Params, name: str, step: int) -> Tensor | float:
        value = rate(update, name, step)
        return value.item() if self.config.inner_optimizer in _FIXED_RATE else value

    def _optimizer_factory(self, params: Sequence[Tensor], tracked: bool) -> Callable[[], Optimizer]:
        """Returns a factory of the differentiable inner optimiser, with a group, and so a rate, for each parameter."""
        shapes = [torch.zeros_like(param, requires_grad=True) for param in params]
        kind = registered_optimizers()[self.config.inner_optimizer]
        optimizer = kind([{"params": [shape]} for shape in shapes], lr=1.0)  # every step overrides the rate
        if self.config.lookahead_k:  # every step overrides α, too
            k, inner_state = self.config.lookahead_k, self.config.lookahead_inner_state
            optimizer = Lookahead(optimizer, k, inner_state=inner_state)

        def complete(gradients: Sequence[Tensor | None]) -> list[Tensor]:
            known = [torch.zeros_like(s) if g is None else g for s, g in zip(shapes, gradients, strict=True)]
            # First order: the adapted parameters still depend on the initial ones, but no inner gradient does.
            return [gradient.detach() for gradient in known] if self.config.first_order else known

        return lambda: higher.get_diff_optim(
            optimizer, shapes, grad_callback=complete, track_higher_grads=tracked, override={}
        )


make: Backend = HigherInnerLoop


def registered_optimizers() -> dict[str, Callable[..., torch.optim.Optimizer]]:
    """Returns the classes of torch.optim that higher can differentiate, by their names in lower case.

    Example:
        >>> {"sgd", "adam", "adamw"} <= registered_optimizers().keys()
        True
    """
    return {kind.__name__.lower(): kind for kind in higher.optim._opt_mapping if kind is not Lookahead}


class _Patched:
    """The stateless copy of a model that higher makes, called with parameters by name."""

    def __init__(self, model: nn.Module, params: Params):
        self._own = {name: value.detach() for name, value in model.named_parameters()}  # for names not in `params`
        unknown = params.keys() - self._own.keys()
        if unknown:
            raise ValueError(f"params: the model has no {', '.join(sorted(unknown))}; it has {', '.join(self._own)}")
        for path, module in model.named_modules():
            if module._forward_hooks or module._forward_pre_hooks:
                raise ValueError(
                    f"{path or 'model'}: {type(module).__name__} has forward hooks, which higher does not run; "
                    "remove them, or use inner_loop='func'"
                )
        # With tracking, higher would keep a list of all past parameters, which nothing reads.
        self._module = higher.monkeypatch(model, track_higher_grads=False)
        names = {id(value): name for name, value in model.named_parameters()}  # tied ones share a name
        self._slots = [
            (self._module.get_submodule(path)._parameters, slot, names[id(value)])
            for path, module in model.named_modules()
            for slot, value in module._parameters.items()
            if value is not None
        ]

    def forward(self, params: Params) -> Forward:
        """Returns the model with these parameters, as a function of its inputs."""
        ordered = [params.get(name, value) for name, value in self._own.items()]

        def call(*args: Any, **kwargs: Any) -> Any:
            # higher sets the parameters of a module when that module is called. A module that reads parameters of
            # another one before that would see those of the previous call.
            for slots, slot, name in self._slots:
                slots[slot] = params.get(name, self._own[name])
            return self._module(*args, params=ordered, **kwargs)

        return call

    def forget(self) -> None:
        """Releases the graph of the last parameters: the patched classes are reference cycles and keep them alive."""
        self._module.update_params(list(self._own.values()))


def _start(param: Tensor, tracked: bool) -> Tensor:
    """Returns a parameter to adapt as a new node, so that its gradient is that of the inner loss alone."""
    return param.view_as(param) if tracked and param.requires_grad else param.detach().requires_grad_()


class DifferentiableAdam(higher.optim.DifferentiableOptimizer):
    """torch.optim.Adam and AdamW for higher, differentiable in every setting.

    Raises:
        ValueError: The optimiser has `amsgrad=True`.
    """

    decoupled = False

    def _update(self, grouped_grads: Sequence[Sequence[Tensor | None]], **kwargs: Any) -> None:
        for group, states, grads in zip(self.param_groups, self.state, grouped_grads, strict=True):
            if group["amsgrad"]:
                raise ValueError("amsgrad=True: need False, its differentiable form is not implemented")
            for index, (param, grad) in enumerate(zip(group["params"], grads, strict=True)):
                if grad is not None:
                    group["params"][index], states[index] = self._step(group, param, grad, states[index])

    def _step(self, group: dict[str, Any], param: Tensor, grad: Tensor, state: Any) -> tuple[Tensor, Any]:
        rule = adamw if group.get("decoupled_weight_decay", self.decoupled) else adam
        beta1, beta2 = group["betas"]
        moments = None
        if state:  # also the state of a torch optimiser after some steps
            moments = AdamState(int(state["step"]), {"": state["exp_avg"]}, {"": state["exp_avg_sq"]})
        updated, moments = rule(
            {"": param},
            {"": -grad if group["maximize"] else grad},
            moments,
            group["lr"],
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )
        named = {"step": moments.step, "exp_avg": moments.exp_avg[""], "exp_avg_sq": moments.exp_avg_sq[""]}
        return updated[""], named


class DifferentiableAdamW(DifferentiableAdam):
    """torch.optim.AdamW for higher, for versions of torch whose parameter groups have no `decoupled_weight_decay`."""

    decoupled = True


def _quiet(kind: type[Any]) -> type[Any]:
    """Returns an optimiser of higher without the warning at every construction.

    RMSprop warns of its gradients, which tests show to be right, and Rprop that a sign has no derivative.
    """
    return type(kind.__name__, (kind,), {"__init__": higher.optim.DifferentiableOptimizer.__init__})


class DifferentiableLookahead(higher.optim.DifferentiableOptimizer):
    """`research.optim.Lookahead` for higher; differentiable in α, the setting `lookahead_alpha` of a group.

    It continues the cycle of the optimiser that it is made from.

    Raises:
        ValueError: The base optimiser is a Lookahead, or is not registered with higher.
    """

    def __init__(self, other: Lookahead, reference_params: Iterable[Tensor], *args: Any, **kwargs: Any):
        if isinstance(other.base, Lookahead):
            raise ValueError(
                "base_optimizer=Lookahead: need another one, higher's form of nested Lookahead is not implemented; "
                "inner_loop='func' can be built on research.optim.differentiable_lookahead, which nests"
            )
        params = list(reference_params)
        super().__init__(other, params, *args, **kwargs)
        self._base = higher.get_diff_optim(other.base, params)
        self._base.param_groups, self._base.state = self.param_groups, self.state
        # At the start of a cycle the slow weights are the parameters of the first step, with their graph.
        self._slow: list[list[Any]] = []  # None before that step
        self._slow_state: list[list[dict[str, Tensor]]] = []
        for group in other.param_groups:
            started = group["lookahead_steps"] > 0
            self._slow.append([other.slow[param] if started else None for param in group["params"]])
            self._slow_state.append([dict(other.slow_state[param]) for param in group["params"]])

    def _update(self, grouped_grads: Sequence[Sequence[Tensor | None]], **kwargs: Any) -> None:
        for index, group in enumerate(self.param_groups):
            pairs = zip(self._slow[index], group["params"], strict=True)
            self._slow[index] = [param if slow is None else slow for slow, param in pairs]
        self._base._update(grouped_grads, **kwargs)
        for index, group in enumerate(self.param_groups):
            group["lookahead_steps"] += 1
            if group["lookahead_steps"] >= group["lookahead_k"]:
                self._sync(index, group)
                group["lookahead_steps"] = 0

    def _sync(self, index: int, group: dict[str, Any]) -> None:
        alpha, states = group["lookahead_alpha"], self.state[index]
        for place, slow in enumerate(self._slow[index]):
            synced = interpolate(slow, group["params"][place], alpha)
            if not self._track_higher_grads:
                synced = synced.detach()  # nothing is differentiated, and the slow weights outlive every step
            self._slow[index][place] = group["params"][place] = synced
            if group["lookahead_inner_state"] == "reset":
                states.pop(place, None)
            elif group["lookahead_inner_state"] == "pullback":
                kept = self._slow_state[index][place]
                for key, value in interpolated(states.get(place, {})).items():
                    kept[key] = interpolate(kept.get(key, torch.zeros_like(value)), value, alpha)
                states[place].update(kept)


higher.register_optim(Lookahead, DifferentiableLookahead)
higher.register_optim(torch.optim.Adam, DifferentiableAdam)
higher.register_optim(torch.optim.AdamW, DifferentiableAdamW)
higher.register_optim(torch.optim.RMSprop, _quiet(higher.optim.DifferentiableRMSprop))
higher.register_optim(torch.optim.Rprop, _quiet(higher.optim.DifferentiableRprop))
