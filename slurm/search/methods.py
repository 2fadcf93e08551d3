"""The methods of a search, by name: their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from research.conversion import ConfigError
from research.population.settings import PopulationConfig


@dataclass(frozen=True)
class RandomSettings:
    """Every trial is drawn at random and trained in full."""


@dataclass(frozen=True)
class TpeSettings:
    """Trials are chosen by Optuna's TPE (Bergstra et al. 2011) and trained in full.

    Attributes:
        startup: Trials at the beginning that are drawn at random: those that the method `random` has.
    """

    startup: int = 10

    def __post_init__(self) -> None:
        if self.startup < 1:
            raise ConfigError(f"method.tpe.startup={self.startup}: need at least 1 trial")


@dataclass(frozen=True)
class AshaSettings:
    """Trials are drawn at random; the best of each rung train on (asynchronous successive halving, see `asha`).

    Attributes:
        min_iterations: Iterations of the first rung.
        reduction: η: one of η trials of a rung is promoted to the next, which is η times as long.
    """

    min_iterations: int
    reduction: int = 3

    def __post_init__(self) -> None:
        if self.min_iterations < 1:
            raise ConfigError(f"method.asha.min_iterations={self.min_iterations}: need at least 1 iteration")
        if self.reduction < 2:
            raise ConfigError(f"method.asha.reduction={self.reduction}: need at least 2")


METHODS: dict[str, type[Any]] = {
    "random": RandomSettings,
    "tpe": TpeSettings,
    "asha": AshaSettings,
    "pbt": PopulationConfig,
}
"""The settings of each method."""
