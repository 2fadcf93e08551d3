"""Networks and optimisers of an algorithm that goes on from a state which was trained with other settings.

The settings that may change are `mutable_settings` of a Config. Sizes can only grow, see `research.policies.net2net`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import Tensor, nn

from research import rng
from research.optim.differentiable import AdamState
from research.optim.lookahead import interpolated
from research.policies.changes import Change, unchanged
from research.policies.net2net import net2net
from research.types import Params

T = TypeVar("T")


def grown(before: T, after: T, make: Callable[[T], nn.Module], params: Params, seed: int, iteration: int) -> Change:
    """Returns the map from the parameters of a network to those with other settings, a pure function of the arguments.

    Args:
        before: The settings of the network that was trained.
        after: The settings that it shall have.
        make: Function from settings to a network. The values of its parameters are not read.
        params: The parameters.
        seed: Seed of the run, for the units that are copied.
        iteration: Finished iterations, likewise.

    Raises:
        ValueError: A size is smaller than before, or something else than sizes and the activation changes.
    """
    if before == after:
        return unchanged(params)
    return net2net(make(before), make(after), params, rng.generator(seed, "units", iteration))


def carried_moments(optimizer: AdamState, change: Change) -> AdamState:
    """Returns Adam's state of the parameters after a change."""
    return AdamState(optimizer.step, change.gradients(optimizer.exp_avg), change.squares(optimizer.exp_avg_sq))


def carried_optimizer(
    saved: dict[str, Any], carry: Callable[[str, Any], Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Returns the `state_dict` of an optimiser for one flat tensor after a change, perhaps with Lookahead around it.

    Args:
        saved: The `state_dict` before.
        carry: Function from the kind of a flat tensor (`"params"`, `"gradients"` or `"squares"`) and the tensor to the
            tensor after the change.
        settings: The settings of the parameter group that may change, e.g. `lr`.
    """
    kinds = {"exp_avg": "gradients", "exp_avg_sq": "squares", "momentum_buffer": "gradients"}

    def of_state(state: dict[str, Any]) -> dict[str, Any]:
        return {key: carry(kinds[key], value) if key in kinds else value for key, value in state.items()}

    new = dict(saved)
    new["state"] = {index: of_state(state) for index, state in saved["state"].items()}
    new["param_groups"] = [group | {key: settings[key] for key in settings.keys() & group.keys()}
                           for group in saved["param_groups"]]  # fmt: skip
    if "lookahead" in saved:
        own = saved["lookahead"]
        new["lookahead"] = {
            "slow": {index: carry("params", value) for index, value in own["slow"].items()},
            "slow_state": {index: of_state(state) for index, state in own["slow_state"].items()},
        }
        before, after = (groups["param_groups"][0]["lookahead_inner_state"] for groups in (saved, new))
        if before != after:
            new["lookahead"]["slow_state"] = _slow_state(new["state"], own["slow_state"], after)
    return new


def _slow_state(state: dict[int, Any], indices: Iterable[int], treatment: str) -> dict[int, dict[str, Tensor]]:
    """Returns the slow copy of an optimiser's state as another `lookahead_inner_state` begins with it.

    With `"pullback"` it is the state itself: without a copy, the first sync would pull the moments towards 0.
    """
    kept = {index: interpolated(state.get(index, {})) if treatment == "pullback" else {} for index in indices}
    return {index: {key: value.clone() for key, value in own.items()} for index, own in kept.items()}
