"""Search files: a sweep file whose grid is a space.

    experiment: lookahead_dqn
    named_configs: [cartpole]
    fixed: {num_iterations: 50, eval_interval: 5}        # in every trial
    space: {lr: {log: [1.0e-4, 1.0e-2]}, ...}            # see `space`
    objective: {metric: eval/score_after_0, direction: maximize, at: last}
    budget: {trials: 60, core_minutes: 60, until: 2026-12-31T12:00}
    method: {asha: {min_iterations: 5}}                  # or random, tpe: see `methods`
    seed: 0                                              # of the draws

`fixed.num_iterations`, or its default, is the length of a whole trial.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from research.conversion import ConfigError, flatten, from_mapping, overlap
from research.validation import suggestion
from slurm.errors import SlurmError
from slurm.search.methods import METHODS
from slurm.search.objective import Objective
from slurm.search.space import Spec, parse_space
from slurm.yaml_files import read_yaml

_LENGTH = "num_iterations"


@dataclass(frozen=True)
class Budget:
    """The end of a search: no slice begins once the time of either kind is used up.

    Attributes:
        trials: Number of trials. None begins after these; promotions go on.
        core_minutes: Processor time of all trials, in minutes.
        until: Date and time, ISO 8601; the local time without an offset.
    """

    trials: int | None = None
    core_minutes: float | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        if self.trials is None and self.core_minutes is None and self.until is None:
            raise ConfigError("budget={}: need at least one of trials, core_minutes, until")
        if self.trials is not None and self.trials < 1:
            raise ConfigError(f"budget.trials={self.trials}: need at least 1 trial")
        if self.core_minutes is not None and self.core_minutes <= 0:
            raise ConfigError(f"budget.core_minutes={self.core_minutes}: need a value above 0")
        if self.until is not None:
            self.deadline()

    def is_over(self, seconds: float) -> bool:
        """Returns whether the processor time of all trials, in seconds, or the date has used the budget up."""
        if self.core_minutes is not None and seconds >= 60 * self.core_minutes:
            return True
        deadline = self.deadline()
        return deadline is not None and time.time() >= deadline

    def deadline(self) -> float | None:
        """Returns `until` in seconds since the epoch; None without it."""
        if self.until is None:
            return None
        try:
            return datetime.datetime.fromisoformat(self.until).timestamp()
        except ValueError as error:
            raise ConfigError(f"budget.until={self.until!r}: need a date such as 2026-12-31T12:00") from error


@dataclass(frozen=True)
class Method:
    """A method and its settings.

    Attributes:
        name: One of `METHODS`.
        settings: An instance of the settings of that method.
    """

    name: str
    settings: Any


@dataclass(frozen=True)
class SearchFile:
    """Contents of a search file, see the module.

    Attributes:
        experiment: Name of the experiment, or path of a script.
        named_configs: Named configs of every trial.
        fixed: Settings of every trial, by dotted key.
        space: Settings that are searched, by dotted key.
        objective: The quantity to optimise.
        budget: The end of the search.
        method: The method.
        seed: Seed of all draws of the search.
    """

    experiment: str
    space: Mapping[str, Spec]
    objective: Objective
    budget: Budget
    method: Method
    named_configs: tuple[str, ...] = ()
    fixed: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed}: need at least 0")
        for key in self.space:
            if key in (_LENGTH, "seed"):
                raise ConfigError(f"space.{key}: cannot be searched; it is the same in all trials, or drawn: set it in "
                                  f"`fixed`")  # fmt: skip
            for other in self.fixed:
                if overlap(key, other):
                    raise ConfigError(f"space.{key}: is in fixed, too, as {other}; keep one")
        if self.objective.is_result and self.method.name not in ("random", "tpe"):
            raise ConfigError(f"objective.metric={self.objective.metric!r}: {self.method.name} stops trials early, "
                              "which have no result; need a metric")  # fmt: skip
        if self.method.name == "pbt":
            self._check_population()

    def _check_population(self) -> None:
        members, trials = self.method.settings.members, self.budget.trials
        if trials not in (None, members):
            raise ConfigError(f"budget.trials={trials}: the trials of pbt are its method.pbt.members={members}; need "
                              "as many, or leave it out")  # fmt: skip
        for key, value in flatten(self.method.settings.initial).items():
            if key not in self.space:
                raise ConfigError(f"method.pbt.initial.{key}: no such key in space; {suggestion(key, self.space)}")
            try:
                is_inside = self.space[key].clip(value) == value
            except (TypeError, ValueError, IndexError):  # of another type
                is_inside = False
            if not is_inside:
                raise ConfigError(f"method.pbt.initial.{key}={value!r}: need {self.space[key].describe()}, as in space")

    @property
    def initial(self) -> dict[str, Any]:
        """The settings with which all trials start, by dotted key, typed as values of the space; empty if all draw."""
        initial = flatten(self.method.settings.initial) if self.method.name == "pbt" else {}
        return {key: self.space[key].clip(value) for key, value in initial.items()}

    def apart_from_budget(self, other: SearchFile) -> bool:
        """Returns whether another file is the same but for the budget."""
        return replace(self, budget=other.budget) == other


@dataclass(frozen=True)
class _Plain:
    """The sections of a search file with their types."""

    experiment: str
    space: dict[str, Any]
    objective: Objective
    budget: Budget
    method: str | dict[str, Any]
    named_configs: tuple[str, ...] = ()
    fixed: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


def load_search(path: Path) -> SearchFile:
    """Reads a search file. Raises SlurmError, which names the file and the key."""
    try:
        plain = from_mapping(_Plain, read_yaml(path))
        space = parse_space(plain.space)
        if not space:
            raise ConfigError("space={}: need a setting to search")
        return SearchFile(
            plain.experiment, space, plain.objective, plain.budget, _method(plain.method), plain.named_configs,
            flatten(plain.fixed), plain.seed,
        )  # fmt: skip
    except ConfigError as error:
        raise SlurmError(f"{path}: {error}") from error


def _method(value: str | Mapping[str, Any]) -> Method:
    names = [value] if isinstance(value, str) else list(value)
    if len(names) != 1:
        raise ConfigError(f"method={value!r}: need one method, e.g. {{asha: {{min_iterations: 5}}}}")
    name = names[0]
    if name not in METHODS:
        raise ConfigError(f"method={name!r}: no such method; {suggestion(name, METHODS)}")
    settings = {} if isinstance(value, str) else value[name]
    if not isinstance(settings, Mapping):
        raise ConfigError(f"method.{name}={settings!r}: need keys and values")
    return Method(name, from_mapping(METHODS[name], settings, f"method.{name}"))
