"""Lookahead as a pure function around a rule of `differentiable.py`: differentiable with respect to every setting.

    θ, s ← rule(θ, g, s)                                                       s: the rule's own state
    after every k-th step:  φ ← φ + α (θ − φ);  θ ← φ

and then s stays (`"maintain"`), is emptied (`"reset"`), or is pulled back (`"pullback"`): s_slow ← s_slow +
α (s − s_slow), s ← s_slow, where a tensor that does not exist yet counts as zero. The numbers are those of
`research.optim.Lookahead` (Zhang, Lucas, Hinton & Ba 2019, arXiv:1907.08610, algorithm 1).

α acts at syncs only: parameters in mid-cycle depend on it through the earlier syncs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from research.optim.differentiable import LearningRate, Scalar, UpdateRule, sgd
from research.optim.lookahead_settings import InnerState, check_settings
from research.types import Params


class LookaheadState(NamedTuple):
    """The state between two steps.

    Attributes:
        steps: Fast steps since the last sync.
        slow: The slow weights φ by name.
        rule: The state of the fast rule; None before its first step, and after a reset.
        slow_rule: The slow copy of that state; None for zeros, and without `"pullback"`.
    """

    steps: int
    slow: Params
    rule: Any
    slow_rule: Any


def lookahead(
    params: Params,
    grads: Params,
    state: LookaheadState | None,
    lr: LearningRate,
    *,
    rule: UpdateRule = sgd,
    k: int = 5,
    alpha: Scalar = 0.5,
    inner_state: InnerState = "maintain",
    **settings: Any,
) -> tuple[Params, LookaheadState]:
    """Returns the parameters and the state after one fast step, and after the sync if it is the k-th step.

    Args:
        params: The parameters θ.
        grads: Their gradients, under the same names.
        state: The state that the previous step returned; None at the first step, where φ is θ.
        lr: The learning rate of the rule, see `LearningRate`.
        rule: The fast rule, e.g. `adam`; or another Lookahead, whose cycle restarts at a sync of this one.
        k: Fast steps between syncs, at least 1.
        alpha: α, above 0 and at most 1 where it is a number; a tensor, e.g. a learned one, is not checked.
        inner_state: Treatment of the rule's state at a sync, see the module.
        **settings: Settings of the rule, e.g. `momentum`, numbers or tensors.

    Raises:
        ValueError: A setting is out of range, or `params` and `grads` differ in their names.

    Example:
        >>> params, state, gradient = {"w": torch.tensor(1.0)}, None, {"w": torch.tensor(1.0)}
        >>> for _ in range(2):
        ...     params, state = lookahead(params, gradient, state, lr=0.25, k=2, alpha=0.5)
        >>> params  # halfway from 1 to the fast weight 0.5
        {'w': tensor(0.7500)}
    """
    check_settings({"k": k, "alpha": 1.0 if isinstance(alpha, Tensor) else alpha, "inner_state": inner_state})
    state = state or LookaheadState(0, params, None, None)
    fast, rule_state = rule(params, grads, state.rule, lr, **settings)
    state = state._replace(steps=state.steps + 1, rule=rule_state)
    return (fast, state) if state.steps < k else sync(fast, state, alpha, inner_state)


def sync(fast: Params, state: LookaheadState, alpha: Scalar, inner_state: InnerState) -> tuple[Params, LookaheadState]:
    """Returns the parameters and the state after the sync of the fast and the slow weights."""
    slow = {name: interpolate(state.slow[name], value, alpha) for name, value in fast.items()}
    rule, slow_rule = state.rule, None
    if inner_state == "reset":
        rule = None
    elif inner_state == "pullback":
        slow_rule = _pull(state.slow_rule, _innermost(rule), alpha)
        rule = _replace_innermost(rule, slow_rule)
    return slow, LookaheadState(0, slow, _start_cycle(rule, slow), slow_rule)


def interpolate(slow: Tensor, fast: Tensor, alpha: Scalar) -> Tensor:
    """Returns slow + α (fast − slow); at α = 1 exactly `fast`, with the derivative fast − slow with respect to α.

    Example:
        >>> interpolate(torch.tensor(1.0), torch.tensor(0.0), 0.25)
        tensor(0.7500)
    """
    return fast - (1 - alpha) * (fast - slow)


def _pull(slow: Any, fast: Any, alpha: Scalar) -> Any:
    """The state of a rule with interpolated tensors and unchanged counters."""
    if slow is None:
        slow = pytree.tree_map_only(Tensor, torch.zeros_like, fast)
    return pytree.tree_map(
        lambda then, now: interpolate(then, now, alpha) if isinstance(now, Tensor) else now, slow, fast
    )


def _start_cycle(rule: Any, params: Params) -> Any:
    """The state of a rule; if the rule is a Lookahead, with a cycle that starts from `params`."""
    if not isinstance(rule, LookaheadState):
        return rule
    return LookaheadState(0, params, _start_cycle(rule.rule, params), slow_rule=_innermost(rule))


def _innermost(rule: Any) -> Any:
    """The state of the innermost rule, below all Lookaheads."""
    return _innermost(rule.rule) if isinstance(rule, LookaheadState) else rule


def _replace_innermost(rule: Any, state: Any) -> Any:
    if not isinstance(rule, LookaheadState):
        return state
    return rule._replace(rule=_replace_innermost(rule.rule, state))
