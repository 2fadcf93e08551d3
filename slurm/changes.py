"""Settings of an algorithm that may change while it trains, as its Config names them. Plain, to be sent as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from research.conversion import is_below


class Changes(NamedTuple):
    """Names of settings that may change. A name stands for the settings below it, too.

    Attributes:
        mutable: All of them.
        growing: The ones among them that can only grow.
        deepening: Lists of widths among those that can get more layers.
    """

    mutable: list[str]
    growing: list[str]
    deepening: list[str]


def changes_of(config_class: Any) -> Changes:
    """Returns the names that a Config class has; none for a class without them."""
    names = ("mutable_settings", "growing_settings", "deepening_settings")
    return Changes(*(sorted(getattr(config_class, name, ())) for name in names))


def named(keys: Iterable[str], names: Iterable[str]) -> list[str]:
    """Returns the dotted keys that names stand for.

    >>> named(["lr", "policy.hidden_sizes", "policy_lr"], ["policy"])
    ['policy.hidden_sizes']
    """
    known = list(names)
    return [key for key in keys if any(is_below(key, name) for name in known)]
