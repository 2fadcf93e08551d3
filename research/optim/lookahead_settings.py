"""The settings of Lookahead and their checks, for the optimiser, its pure function and the algorithms that use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from research.validation import at_least, choices, one_of, positive_fraction

InnerState = Literal["maintain", "reset", "pullback"]
"""Treatment of the other optimiser's state at a sync, see `research.optim.lookahead`."""


@dataclass(frozen=True)
class LookaheadConfig:
    """Settings of Lookahead around another optimiser, as algorithms have them.

    Attributes:
        lookahead_k: Steps between two syncs; 0 for no Lookahead.
        lookahead_alpha: Step size α of the slow weights, above 0 and at most 1.
        lookahead_inner_state: Treatment of the other optimiser's state at a sync: `"maintain"`, `"reset"` or
            `"pullback"`, see `research.optim.lookahead`.
    """

    lookahead_k: int = 0
    lookahead_alpha: float = 0.5
    lookahead_inner_state: InnerState = "maintain"

    def __post_init__(self) -> None:
        at_least(self, 0, "lookahead_k")
        positive_fraction(self, "lookahead_alpha")
        choices(self)


def check_settings(settings: dict[str, Any], named: Callable[[str], str] = str) -> None:
    """Checks `k`, `alpha` and `inner_state`.

    Args:
        settings: The values by these names.
        named: Maps a name to that of the setting in a message.

    Raises:
        ValueError: A value is out of range.
    """
    given = {named(key): value for key, value in settings.items()}
    if isinstance(settings["k"], bool) or not isinstance(settings["k"], int):
        raise ValueError(f"{named('k')}={settings['k']!r}: need a whole number of steps, at least 1")
    at_least(given, 1, named("k"))
    positive_fraction(given, named("alpha"))
    one_of(given, named("inner_state"), get_args(InnerState))
