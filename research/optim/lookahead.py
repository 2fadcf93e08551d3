"""Lookahead (Zhang, Lucas, Hinton & Ba 2019, arXiv:1907.08610, algorithm 1) around any optimiser of torch.

    φ ← θ                                          slow weights, from the start
    repeat
        k times: θ ← base optimiser's step         fast weights, those that the model holds
        φ ← φ + α (θ − φ);  θ ← φ                  the sync

At a sync the state of the base optimiser is treated by `inner_state` (appendix of the paper):

- `"maintain"`: it stays as it is.
- `"reset"`: it is emptied, as in a new optimiser.
- `"pullback"`: s_slow ← s_slow + α (s − s_slow);  s ← s_slow, for every real or complex tensor s of the state, dense or
  sparse, except those that count steps. A tensor that the base optimiser has not made yet counts as zero: before the
  first step these are the momentum buffer of SGD and the moments of Adam.

Differs from the paper: a group of parameters may have its own k, α and `inner_state`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from research.optim.elements import pull
from research.optim.lookahead_settings import InnerState, check_settings

_SETTINGS = ("k", "alpha", "inner_state")
Closure = Callable[[], Any]
Group = dict[str, Any]

_COUNTERS = frozenset({"step", "mu_product", "eta", "mu"})
"""State of torch's optimisers that depends only on the number of steps: of all, of NAdam, and of ASGD the last two."""


class Lookahead(torch.optim.Optimizer):
    """Lookahead around `base_optimizer`, with which it shares the parameter groups and the state.

    It replaces the base optimiser everywhere: in learning-rate schedulers, gradient scalers and checkpoints. Each
    parameter group holds its own settings `lookahead_k`, `lookahead_alpha` and `lookahead_inner_state`, and in
    `lookahead_steps` the number of steps since its last sync. A checkpoint of the base optimiser alone can be loaded
    too: the current parameters are then the slow weights.

    Lookahead around Lookahead is allowed: both k count steps of the innermost optimiser, and a sync of the outer
    Lookahead restarts the cycle of the inner one. The settings of the outer Lookahead are `lookahead2_k` and so on.

    Attributes:
        base: The base optimiser.
        slow: The slow weights by parameter.
        slow_state: The slow copy of the base optimiser's state, by parameter and name; used by `"pullback"`.

    Args:
        base_optimizer: The optimiser of the fast steps.
        k: Fast steps between syncs, at least 1.
        alpha: Step size α of the slow weights, above 0 and at most 1; 1 with `"maintain"` is the base optimiser.
        inner_state: Treatment of the base optimiser's state at a sync, see the module.

    Raises:
        ValueError: A setting is out of range, a parameter is in the groups twice, or the base optimiser was made with
            `differentiable=True`.

    Example:
        >>> weight = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = Lookahead(torch.optim.SGD([weight], lr=0.25), k=2, alpha=0.5)
        >>> for _ in range(2):
        ...     weight.grad = torch.ones(1)
        ...     optimizer.step()
        >>> weight.detach()  # halfway from 1 to the fast weight 0.5
        tensor([0.7500])
    """

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        k: int = 5,
        alpha: float = 0.5,
        inner_state: InnerState = "maintain",
    ):
        check_settings({"k": k, "alpha": alpha, "inner_state": inner_state})
        if base_optimizer.defaults.get("differentiable"):
            raise ValueError(
                "differentiable=True: need a base optimizer without it, a sync works in place; "
                "research.optim.differentiable_lookahead.lookahead is the differentiable form"
            )
        self.base = base_optimizer
        self._depth: int = getattr(base_optimizer, "_depth", 0) + 1
        self.slow: dict[Tensor, Tensor] = {}
        self.slow_state: dict[Tensor, dict[str, Tensor]] = {}
        self._is_showing_slow = False
        settings = {"k": k, "alpha": alpha, "inner_state": inner_state, "steps": 0}
        # Optimizer.__init__ makes groups and state of its own; this is how unpickling makes an optimiser around others.
        defaults = {**base_optimizer.defaults, **{self._name(key): value for key, value in settings.items()}}
        super().__setstate__({"defaults": defaults})
        for group in self.param_groups:
            self._adopt(group)

    @property
    def param_groups(self) -> list[Group]:
        """The parameter groups of the base optimiser."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[Group]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:
        """The state of the base optimiser."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group, whose cycle starts now. Raises ValueError as the constructor does, and then adds nothing."""
        settings = {name: param_group.get(self._name(name), self.defaults[self._name(name)]) for name in _SETTINGS}
        check_settings(settings, self._name)
        self.base.add_param_group(param_group)
        self._adopt(self.param_groups[-1])

    def step(self, closure: Closure | None = None) -> Any:
        """One step of the base optimiser, and the sync of the groups for which it is the k-th.

        Args:
            closure: Evaluates the model again and returns the loss, for base optimisers that need it.

        Returns:
            The value that the base optimiser returns: the loss of the closure, or None.
        """
        if self._is_showing_slow:
            raise RuntimeError("step: the model holds the slow weights; leave slow_weights() first")
        loss = self.base.step() if closure is None else self.base.step(closure)
        steps, k = self._name("steps"), self._name("k")
        for group in self.param_groups:
            group[steps] += 1
            if group[steps] >= group[k]:
                self._sync(group)
                group[steps] = 0
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Resets the gradients of all parameters, as `torch.optim.Optimizer.zero_grad` does."""
        self.base.zero_grad(set_to_none)

    @contextmanager
    def slow_weights(self) -> Iterator[None]:
        """A context in which the model holds the slow weights, e.g. for an evaluation, instead of the fast ones."""
        if self._is_showing_slow:
            raise RuntimeError("slow_weights: the model holds the slow weights already")
        fast = [param for group in self.param_groups for param in group["params"]]
        kept = [param.detach().clone() for param in fast]  # copies outside of any graph
        self._is_showing_slow = True
        _copy(fast, self._slow_of(fast))
        try:
            yield
        finally:
            _copy(fast, kept)
            self._is_showing_slow = False

    def resync(self) -> None:
        """Restarts every cycle from the current parameters and state, e.g. after other code has written to them."""
        for group in self.param_groups:
            self._start_cycle(group)

    def state_dict(self) -> dict[str, Any]:
        """The `state_dict` of the base optimiser, with the slow weights under `"lookahead"`, indexed like its state."""
        for prepare in self._optimizer_state_dict_pre_hooks.values():
            prepare(self)
        params = self._params()
        slow_state = {index: self.slow_state[param] for index, param in enumerate(params)}
        own = {"slow": dict(enumerate(self._slow_of(params))), "slow_state": slow_state}
        saved = {**self.base.state_dict(), self._name(): own}
        for change in self._optimizer_state_dict_post_hooks.values():
            changed = change(self, saved)
            saved = saved if changed is None else changed
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a checkpoint of this optimiser, or starts a cycle from a checkpoint of the base optimiser.

        Load the model first: without slow weights in the checkpoint, the parameters become the slow weights.

        Raises:
            ValueError: The slow weights and the parameters differ in shape; nothing was loaded.
        """
        saved = dict(state_dict)
        for change in self._optimizer_load_state_dict_pre_hooks.values():
            changed = change(self, saved)
            saved = saved if changed is None else changed
        own = saved.get(self._name())
        if own is not None:
            self._check_slow(own["slow"])
        before = [{key: group[key] for key in map(self._name, _SETTINGS)} for group in self.param_groups]
        self.base.load_state_dict({key: value for key, value in saved.items() if key != self._name()})
        for group, settings in zip(self.param_groups, before, strict=True):
            group.update({**settings, self._name("steps"): 0, **group})
        if own is None:
            self.resync()
        else:
            self._load_own_state(own)
        for notify in self._optimizer_load_state_dict_post_hooks.values():
            notify(self)

    def __getstate__(self) -> dict[str, Any]:
        names = ("defaults", "base", "_depth", "slow", "slow_state", "_is_showing_slow")
        return {name: self.__dict__[name] for name in names}

    def _name(self, key: str = "") -> str:
        """The name of a setting, or of this optimiser, in the groups and checkpoints shared with the base optimiser."""
        own = "lookahead" if self._depth == 1 else f"lookahead{self._depth}"
        return f"{own}_{key}" if key else own

    def _adopt(self, group: Group) -> None:
        """Gives a group the settings that it lacks, and slow weights."""
        for key in ("steps", *_SETTINGS):
            group.setdefault(self._name(key), self.defaults[self._name(key)])
        check_settings({name: group[self._name(name)] for name in _SETTINGS}, self._name)
        for param in group["params"]:
            if param in self.slow:
                raise ValueError(
                    f"params: a parameter of shape {tuple(param.shape)} is in the groups twice; need each parameter "
                    "once, its slow weights would be synced twice"
                )
            self.slow[param] = param.detach().clone()  # separate memory, outside of any graph
        self._start_cycle(group)

    @torch.no_grad()
    def _sync(self, group: Group) -> None:
        fast, alpha = group["params"], group[self._name("alpha")]
        _pull(self._slow_of(fast), fast, alpha)
        inner_state = group[self._name("inner_state")]
        if inner_state == "pullback":
            self._pull_state(fast, alpha)
        elif inner_state == "reset":
            for param in fast:
                self.state.pop(param, None)
        if isinstance(self.base, Lookahead):
            self.base._start_cycle(group)

    def _pull_state(self, params: Sequence[Tensor], alpha: float) -> None:
        slow, fast = [], []
        for param in params:
            kept = self.slow_state[param]
            for key, value in interpolated(self.state.get(param, {})).items():
                kept[key] = kept[key].to(value) if key in kept else torch.zeros_like(value)
                slow.append(kept[key])
                fast.append(value)
        _pull(slow, fast, alpha)

    def _start_cycle(self, group: Group) -> None:
        _copy(self._slow_of(group["params"]), group["params"])
        for param in group["params"]:
            is_pulled = group[self._name("inner_state")] == "pullback"
            state = interpolated(self.state.get(param, {})) if is_pulled else {}
            self.slow_state[param] = {key: value.clone() for key, value in state.items()}
        group[self._name("steps")] = 0
        if isinstance(self.base, Lookahead):
            self.base._start_cycle(group)

    def _slow_of(self, params: Sequence[Tensor]) -> list[Tensor]:
        """The slow weights of parameters, on their current device and in their dtype, which may have changed."""
        for param in params:
            self.slow[param] = self.slow[param].to(param)
        return [self.slow[param] for param in params]

    def _load_own_state(self, own: dict[str, Any]) -> None:
        for index, param in enumerate(self._params()):
            self.slow[param] = own["slow"][index].to(param, copy=True)
            kept = own["slow_state"][index].items()
            self.slow_state[param] = {key: value.to(param.device, copy=True) for key, value in kept}

    def _check_slow(self, slow: dict[int, Tensor]) -> None:
        expected = [tuple(param.shape) for param in self._params()]
        given = [tuple(slow[index].shape) for index in sorted(slow)]
        if given != expected:
            raise ValueError(
                f"{self._name()}: the checkpoint's slow weights have shapes {given}, need {expected}; load one of the "
                "same model"
            )

    def _params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]


def lookahead_around(
    kind: Callable[..., torch.optim.Optimizer], k: int = 5, alpha: float = 0.5, inner_state: InnerState = "maintain"
) -> Callable[..., Lookahead]:
    """A replacement for the optimiser class `kind`, for libraries that make the optimiser themselves.

    `lookahead_around(torch.optim.Adam, k=10)(params, lr=1e-3)` is Lookahead around Adam. It can be pickled.

    Args:
        kind: The optimiser class.
        k: See `Lookahead`.
        alpha: See `Lookahead`.
        inner_state: See `Lookahead`.

    Raises:
        ValueError: A setting is out of range.

    Example:
        >>> weight = torch.zeros(1, requires_grad=True)
        >>> lookahead_around(torch.optim.Adam, k=10)([weight], lr=1e-3).param_groups[0]["lookahead_k"]
        10
    """
    check_settings({"k": k, "alpha": alpha, "inner_state": inner_state})
    return functools.partial(_make, kind, k, alpha, inner_state)


def _make(
    kind: Callable[..., torch.optim.Optimizer], k: int, alpha: float, inner_state: InnerState, *args: Any, **named: Any
) -> Lookahead:
    return Lookahead(kind(*args, **named), k, alpha, inner_state)


def interpolated(state: dict[str, Any]) -> dict[str, Tensor]:
    """The entries of a parameter's state that `"pullback"` acts on: real and complex tensors that do not count steps.

    Example:
        >>> interpolated({"step": torch.tensor(3.0), "exp_avg": torch.tensor([0.5])})
        {'exp_avg': tensor([0.5000])}
    """
    return {
        key: value
        for key, value in state.items()
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()) and key not in _COUNTERS
    }


def _pull(slow: list[Tensor], fast: list[Tensor], alpha: float) -> None:
    """slow ← slow + α (fast − slow);  fast ← slow."""
    if any(value.is_sparse for value in fast):  # the momentum of sparse gradients: lerp has no sparse kernel
        for then, now in zip(slow, fast, strict=True):
            then.copy_(now - (now - then) * (1 - alpha))
            now.copy_(then)
    elif slow and not pull(slow, fast, alpha):
        torch._foreach_lerp_(slow, fast, alpha)
        torch._foreach_copy_(fast, slow)


@torch.no_grad()
def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)
