"""A member that goes on from the checkpoint of another one, with other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from research.algorithms import AdoptsStates
from research.checkpoint import Checkpoint
from research.conversion import is_below

SLOT = frozenset({"seed"})
"""Settings that stay those of the member that goes on."""


def refuse_other_changes(config: Any, donor: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises ValueError if settings differ that cannot change while a run trains.

    Args:
        config: The Config class of the algorithm.
        donor: The settings of the donor, flat, with dotted keys.
        own: The settings with which the member goes on, likewise.
    """
    for key in sorted(donor.keys() | own.keys()):
        if donor.get(key) != own.get(key) and not allows(config, key):
            raise ValueError(
                f"{key}={own.get(key)!r}: the donor has {donor.get(key)!r}, and the setting cannot change while a run "
                f"trains; those that can are {', '.join(sorted(config.mutable_settings)) or 'none of this algorithm'}"
            )


def allows(config: Any, key: str) -> bool:
    """Returns whether a setting, by its dotted key, may differ between a donor and a member that adopts its state."""
    names: Iterable[str] = config.mutable_settings | config.resume_settings | SLOT
    return any(is_below(key, name) for name in names)


def adopted_state(
    build: Callable[[Any], Any], config: Any, donor: tuple[Checkpoint, Any], own: tuple[Checkpoint, Any]
) -> Any:
    """Returns the state with which a member goes on.

    Args:
        build: Function from settings to an algorithm.
        config: The settings with which the member goes on.
        donor: The checkpoint of the member whose state it takes over, and its settings.
        own: The last checkpoint of the member itself, and its settings.

    Raises:
        ValueError: The algorithm has no `adopt`, the checkpoints are of different iterations, or the state cannot be
            fitted to the settings.
    """
    algorithm = build(config)
    if not isinstance(algorithm, AdoptsStates):
        raise ValueError(f"{type(algorithm).__name__}: no setting of it may change while it trains (it has no `adopt`)")
    if donor[0].iteration != own[0].iteration:
        raise ValueError(
            f"{donor[0].path} is of iteration {donor[0].iteration}, {own[0].path} of {own[0].iteration}: a member goes "
            "on from a state of its own iteration"
        )
    (state, before), (last, settings) = donor, own
    return algorithm.adopt(state.restore(build(before).init()), before, last.restore(build(settings).init()))
