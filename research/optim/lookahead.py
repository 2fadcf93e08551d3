"""Lookahead (Zhang, Lucas, Hinton & Ba 2019, arXiv:1907.08610, algorithm 1) around any optimiser of torch.

    φ ← θ                                          slow weights, from the start
    repeat
        k times: θ ← base optimiser's step         fast weights, those that the model holds
        φ ← φ + α (θ − φ);  θ ← φ                  the sync

and what becomes of the base optimiser's state at the sync, `inner_state` (appendix there):

- `"maintain"`: it stays as it is.
- `"reset"`: it is emptied, as if the optimiser had just been made.
- `"pullback"`: s_slow ← s_slow + α (s − s_slow);  s ← s_slow, for every floating tensor s of the state but those that
  count steps. A tensor that the base optimiser has not made yet counts as zero: so does the momentum buffer of SGD, and
  so do the moments of Adam, before the first step.

Differs from the paper: a group of parameters may have its own k, α and `inner_state`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from research.validation import at_least, one_of, share

InnerState = Literal["maintain", "reset", "pullback"]
Closure = Callable[[], Any]
Group = dict[str, Any]

_COUNTERS = frozenset({"step", "mu_product", "eta", "mu"})
"""State of torch's optimisers that only the number of steps decides: of all, of NAdam, and of ASGD the last two."""


@dataclass(frozen=True)
class LookaheadConfig:
    """Settings of Lookahead around another optimiser, as algorithms have them.

    Attributes:
        lookahead_k: Steps between two syncs; 0 for no Lookahead.
        lookahead_alpha: Step size α of the slow weights, above 0 and at most 1.
        lookahead_inner_state: Treatment of the other optimiser's state at a sync: `"maintain"`, `"reset"` or
            `"pullback"`, see the module.
    """

    lookahead_k: int = 0
    lookahead_alpha: float = 0.5
    lookahead_inner_state: InnerState = "maintain"

    def __post_init__(self) -> None:
        at_least(self, 0, "lookahead_k")
        share(self, "lookahead_alpha")
        one_of(self, "lookahead_inner_state", get_args(InnerState))


class Lookahead(torch.optim.Optimizer):
    """Lookahead around `base_optimizer`, whose parameter groups and state are also those of this optimiser.

    It takes the base optimiser's place everywhere: in learning-rate schedulers, gradient scalers, checkpoints. Each
    parameter group holds its settings as `lookahead_k`, `lookahead_alpha` and `lookahead_inner_state`, where they can
    be given for a group alone, and in `lookahead_steps` the steps since its last sync. A checkpoint of the base
    optimiser alone can be loaded too: the slow weights are then the parameters as they are.

    Lookahead around Lookahead is allowed: k of both counts steps of the innermost optimiser, and a sync of the outer
    one starts the inner one's cycle anew. The settings of the outer one are `lookahead2_k` and so on.

    Attributes:
        base: The base optimiser.
        slow: The slow weights by parameter.
        slow_state: What the base optimiser's state is pulled back to, by parameter and name; filled with `"pullback"`.

    Args:
        base_optimizer: Makes the fast steps.
        k: Fast steps between syncs, at least 1.
        alpha: α, above 0 and at most 1; 1 with `"maintain"` is the base optimiser itself.
        inner_state: What becomes of the base optimiser's state at a sync, see the module.

    Raises:
        ValueError: A setting is out of range, a parameter is in the groups twice, or the base optimiser was made with
            `differentiable=True`.
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
        """The base optimiser's."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[Group]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:
        """The base optimiser's."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group, whose cycle starts now. Raises ValueError as the constructor does; nothing is added then."""
        settings = {name: param_group.get(self._name(name), self.defaults[self._name(name)]) for name in _SETTINGS}
        check_settings(settings, self._name)
        self.base.add_param_group(param_group)
        self._adopt(self.param_groups[-1])

    def step(self, closure: Closure | None = None) -> Any:
        """One step of the base optimiser, and the sync of the groups for which it is the k-th.

        Args:
            closure: Evaluates the model anew and returns the loss, for base optimisers that want it.

        Returns:
            What the base optimiser returns, the loss of the closure.
        """
        if self._is_showing_slow:
            raise RuntimeError("step: the model holds the slow weights; leave slow_weights() first")
        closure = self._before_step(closure)
        loss = self.base.step() if closure is None else self.base.step(closure)
        steps, k = self._name("steps"), self._name("k")
        for group in self.param_groups:
            group[steps] += 1
            if group[steps] >= group[k]:
                self._sync(group)
                group[steps] = 0
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """See `torch.optim.Optimizer.zero_grad`."""
        self.base.zero_grad(set_to_none)

    @contextmanager
    def slow_weights(self) -> Iterator[None]:
        """Inside, the model holds the slow weights, e.g. for an evaluation; afterwards the fast ones again."""
        if self._is_showing_slow:
            raise RuntimeError("slow_weights: the model holds the slow weights already")
        fast = [param for group in self.param_groups for param in group["params"]]
        kept = [param.detach().clone() for param in fast]  # a copy to put back, no part of any graph
        self._is_showing_slow = True
        _copy(fast, self._slow_of(fast))
        try:
            yield
        finally:
            _copy(fast, kept)
            self._is_showing_slow = False

    def resync(self) -> None:
        """Starts every cycle anew from the parameters and the state as they are, e.g. after they were written to."""
        for group in self.param_groups:
            self._start_cycle(group)

    def state_dict(self) -> dict[str, Any]:
        """The base optimiser's, with the slow weights under `"lookahead"`, indexed as its state is."""
        for prepare in self._optimizer_state_dict_pre_hooks.values():
            prepare(self)
        saved = {**self.base.state_dict(), self._name(): self._own_state()}
        for change in self._optimizer_state_dict_post_hooks.values():
            changed = change(self, saved)
            saved = saved if changed is None else changed
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint of this optimiser, or starts a cycle from one of the base optimiser.

        Load the model before: without slow weights in the checkpoint they are those that the model holds.

        Raises:
            ValueError: The slow weights are not those of such parameters; nothing was loaded.
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
        """How a setting, or this optimiser, is called in what it shares with the base optimiser."""
        own = "lookahead" if self._depth == 1 else f"lookahead{self._depth}"
        return f"{own}_{key}" if key else own

    def _adopt(self, group: Group) -> None:
        """Gives a group its settings, where it has none of its own, and slow weights."""
        for key in ("steps", *_SETTINGS):
            group.setdefault(self._name(key), self.defaults[self._name(key)])
        check_settings({name: group[self._name(name)] for name in _SETTINGS}, self._name)
        for param in group["params"]:
            if param in self.slow:
                raise ValueError(
                    f"params: a parameter of shape {tuple(param.shape)} is in the groups twice; need each parameter "
                    "once, its slow weights would be synced twice"
                )
            self.slow[param] = param.detach().clone()  # its own memory, outside of any graph
        self._start_cycle(group)

    def _before_step(self, closure: Closure | None) -> Closure | None:
        """Called before every step; may put another closure in place of the given one."""
        return closure

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
        """Slow weights, where their parameters are now: a model may move to another device or another dtype."""
        for param in params:
            self.slow[param] = self.slow[param].to(param)
        return [self.slow[param] for param in params]

    def _own_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the base optimiser's state."""
        params = self._params()
        return {
            "slow": dict(enumerate(self._slow_of(params))),
            "slow_state": {index: self.slow_state[param] for index, param in enumerate(params)},
        }

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


_SETTINGS = ("k", "alpha", "inner_state")


def check_settings(settings: dict[str, Any], named: Callable[[str], str] = str) -> None:
    """Raises ValueError unless `k`, `alpha` and `inner_state` are in range. `named` gives the names of the message."""
    given = {named(key): value for key, value in settings.items()}
    if isinstance(settings["k"], bool) or not isinstance(settings["k"], int):
        raise ValueError(f"{named('k')}={settings['k']!r}: need a whole number of steps, at least 1")
    at_least(given, 1, named("k"))
    share(given, named("alpha"))
    one_of(given, named("inner_state"), get_args(InnerState))


def lookahead_around(
    kind: Callable[..., torch.optim.Optimizer], k: int = 5, alpha: float = 0.5, inner_state: InnerState = "maintain"
) -> Callable[..., Lookahead]:
    """A function to use in place of the optimiser class `kind`, where a library makes the optimiser itself.

    `lookahead_around(torch.optim.Adam, k=10)(params, lr=1e-3)` is Lookahead around Adam. It can be pickled.
    """
    check_settings({"k": k, "alpha": alpha, "inner_state": inner_state})
    return functools.partial(_make, kind, k, alpha, inner_state)


def _make(
    kind: Callable[..., torch.optim.Optimizer], k: int, alpha: float, inner_state: InnerState, *args: Any, **named: Any
) -> Lookahead:
    return Lookahead(kind(*args, **named), k, alpha, inner_state)


def interpolated(state: dict[str, Any]) -> dict[str, Tensor]:
    """What of a parameter's state is pulled back: every floating tensor that does not count steps."""
    return {
        key: value
        for key, value in state.items()
        if isinstance(value, Tensor) and value.is_floating_point() and key not in _COUNTERS
    }


def _pull(slow: list[Tensor], fast: list[Tensor], alpha: float) -> None:
    """slow ← slow + α (fast − slow);  fast ← slow."""
    if slow:
        torch._foreach_lerp_(slow, fast, alpha)
        torch._foreach_copy_(fast, slow)


@torch.no_grad()
def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)
