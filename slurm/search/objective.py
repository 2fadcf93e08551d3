"""The objective of a search: a metric or a result in the record of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from research.conversion import ConfigError
from research.tracking import records
from research.validation import suggestion
from slurm.errors import SlurmError

RESULT = "result."


class NoValueError(SlurmError):
    """A record has no such metric or result. The message has the nearest name."""


@dataclass(frozen=True)
class Objective:
    """The quantity that a search optimises.

    Attributes:
        metric: Name of a metric, or `result.<key>` for a value of the run's result, `result.<key>.<index>` for an entry
            of a list there (-1 is the last one).
        direction: Whether larger or smaller values are better.
        at: The iteration that counts: `"last"`, `"best"` or a number, for the last point up to there.
        points: Number of consecutive points of the metric whose mean counts.
    """

    metric: str
    direction: Literal["maximize", "minimize"] = "maximize"
    at: int | Literal["last", "best"] = "last"
    points: int = 1

    def __post_init__(self) -> None:
        if not self.metric:
            raise ConfigError("objective.metric='': need the name of a metric")
        if isinstance(self.at, int) and self.at < 1:
            raise ConfigError(f"objective.at={self.at}: need an iteration of at least 1, last or best")
        if self.points < 1:
            raise ConfigError(f"objective.points={self.points}: need at least 1 point")
        if self.is_result and (self.at != "last" or self.points != 1):
            raise ConfigError(f"objective.at={self.at!r}: need last, and 1 point, for a result")

    @property
    def is_result(self) -> bool:
        """Whether it is a value of the result, which only a complete run has."""
        return self.metric.startswith(RESULT)

    @property
    def sign(self) -> int:
        """1 if larger values are better, and -1 otherwise."""
        return 1 if self.direction == "maximize" else -1


def value_of(objective: Objective, directory: Path, iteration: int, since: int = 0) -> float:
    """Returns the objective of a run as of an iteration; NaN if the record has null there, for NaN or an infinity.

    Args:
        objective: The objective.
        directory: Directory of the record.
        iteration: Last iteration that counts.
        since: Iteration after which points count; those up to there may belong to a state that was given up.

    Raises:
        NoValueError: The record has no such metric or result.
        RecordError: The record is damaged.
    """
    if objective.is_result:
        return _result(objective.metric, directory)
    last = min(iteration, objective.at) if isinstance(objective.at, int) else iteration
    points: list[float] = []
    names: dict[str, None] = {}
    for row in records.read_rows(directory):
        names |= dict.fromkeys(row["values"])
        if since < row["step"] <= last and objective.metric in row["values"]:
            points.append(_number(row["values"][objective.metric], objective.metric, directory))
    if objective.metric not in names:
        raise NoValueError(f"objective.metric={objective.metric!r}: {directory} has no such metric; "
                           f"{suggestion(objective.metric, names)}")  # fmt: skip
    if not points:
        raise NoValueError(
            f"objective.metric={objective.metric!r}: {directory} has no point of it in iterations {since + 1} to {last}"
        )
    if objective.at != "best":
        return _mean(points[-objective.points :])
    means = [_mean(points[end - objective.points : end]) for end in range(objective.points, len(points) + 1)]
    finite = [value for value in means or [_mean(points)] if math.isfinite(value)]
    return objective.sign * max((objective.sign * value for value in finite), default=math.nan)


def _result(metric: str, directory: Path) -> float:
    found: Any = records.read_run(directory).get("result")
    for word in metric.removeprefix(RESULT).split("."):
        try:
            found = found[int(word)] if isinstance(found, list) else found[word]
        except (KeyError, IndexError, ValueError, TypeError):
            keys = found if isinstance(found, dict) else range(len(found)) if isinstance(found, list) else ()
            raise NoValueError(f"objective.metric={metric!r}: the result of {directory} has no {word!r} there; "
                               f"{suggestion(word, [str(key) for key in keys])}") from None  # fmt: skip
    return _number(found, metric, directory)


def _number(value: Any, metric: str, directory: Path) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise NoValueError(f"objective.metric={metric!r}: is {value!r:.60} in {directory}; need a number")
    return float(value)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan
