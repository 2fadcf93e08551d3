"""The settings of population-based training. To read them takes no library of numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from research.validation import at_least, choices, in_unit_interval

Selection = Literal["truncation", "tournament"]


@dataclass(frozen=True)
class ExploreConfig:
    """Settings of the changes.

    Attributes:
        factor: Factor of a perturbation, above 1.
        resample: Chance that a setting is drawn from the space.
        grow: Chance that a setting which can only grow does.
        growth: Factor of its growth, above 1.
        deepen: Chance that a list of widths grows by a layer and not by units.
    """

    factor: float = 1.2
    resample: float = 0.25
    grow: float = 0.25
    growth: float = 1.5
    deepen: float = 0.25

    def __post_init__(self) -> None:
        for name in ("factor", "growth"):
            if not getattr(self, name) > 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: need a value above 1")
        in_unit_interval(self, "resample", "grow", "deepen")


@dataclass(frozen=True)
class PopulationConfig(ExploreConfig):
    """Settings of population-based training, besides those of the changes.

    Attributes:
        members: Members of the population.
        interval: Iterations of a slice, after which the members are compared.
        exploit: `"truncation"` or `"tournament"`, see `research.population.selection`.
        share: Share of the members that are among the best, and among the worst; read by truncation.
        initial: Settings of the space with which all members start, by their dotted keys; others are drawn.
    """

    members: int = 8
    interval: int = 10
    exploit: Selection = "truncation"
    share: float = 0.25
    initial: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        choices(self)
        at_least(self, 2, "members")
        at_least(self, 1, "interval")
        if not 0 < self.share <= 0.5:
            raise ValueError(f"share={self.share!r}: need a value above 0, at most 0.5, or a member would be among the "
                             "best and the worst")  # fmt: skip
