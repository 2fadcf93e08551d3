"""Sweep files: many configurations of one experiment.

    experiment: maml_trpo                  # experiments/maml_trpo.py, or the path of a script
    named_configs: [navigation_2d]
    fixed: {num_iterations: 200}           # in every configuration
    grid: {inner_lr: [0.1, 0.5]}           # every combination
    zip: {meta_batch_size: [20, 40], episodes_per_task: [40, 20]}      # the first of each, the second of each, ...
    list: [{gae_lambda: 1.0}, {gae_lambda: 0.9, discount: 0.95}]       # one mapping at a time
    random: {seed: 0, count: 20, draw: {max_kl: {log_uniform: [0.001, 0.1]}}}
    seeds: [1, 2, 3]                       # or a number: 3 means [0, 1, 2]
    then: [{command: evaluate, fixed: {num_adapt_steps: 5}}]           # on each run after it has completed

Every key but `experiment` is optional. The configurations are grid × zip × list × random × seeds. Keys may be dotted or
nested. Distributions: `uniform: [low, high]`, `log_uniform: [low, high]`, `integers: [low, high]` (both ends included)
and `choice: [...]`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from research import rng
from research.conversion import ConfigError, flatten, from_mapping, overlap
from research.validation import suggestion
from slurm.errors import SlurmError
from slurm.yaml_files import read_yaml

Keys = dict[str, Any]
Values = list[Any]
Command = Literal["evaluate", "render"]

MOST_RUNS = 100_000
"""Largest number of runs of a sweep. Each has a directory, and each configuration is checked before the submission."""


@dataclass(frozen=True)
class Stage:
    """A command that starts after a run has completed.

    Attributes:
        command: A command of the experiment that takes `run=<id>`.
        fixed: Settings of the command.
    """

    command: Command
    fixed: Keys = field(default_factory=dict)


@dataclass(frozen=True)
class Random:
    """Configurations drawn at random.

    Attributes:
        count: Number of configurations.
        draw: `{key.distribution: arguments}`, e.g. `{"max_kl.log_uniform": [0.001, 0.1]}`.
        seed: Seed of the draws, not of the runs. Each key has its own random stream: other keys and a larger count do
            not change its draws.
    """

    count: int
    draw: dict[str, Values]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"random.count={self.count}: need at least 1 configuration")
        if not self.draw:
            raise ConfigError("random.draw={}: need a key to draw, e.g. draw: {inner_lr: {uniform: [0.1, 0.5]}}")
        for path, arguments in self.draw.items():
            _check_distribution(path, arguments)


@dataclass(frozen=True)
class Sweep:
    """Contents of a sweep file, see the module, with dotted keys."""

    experiment: str
    named_configs: tuple[str, ...] = ()
    fixed: Keys = field(default_factory=dict)
    grid: dict[str, Values] = field(default_factory=dict)
    zip: dict[str, Values] = field(default_factory=dict)
    list: tuple[Keys, ...] = ()
    random: Random | None = None
    seeds: int | tuple[int, ...] | None = None
    then: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        for section, values in (("grid", self.grid), ("zip", self.zip)):
            for key, choices in values.items():
                if not choices:
                    raise ConfigError(f"{section}.{key}=[]: need at least one value")
        lengths = {key: len(values) for key, values in self.zip.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            raise ConfigError(f"zip: need lists of one length, and {shown}")
        if self.seeds is not None and not self.all_seeds:
            raise ConfigError(f"seeds={self.seeds!r}: need at least one seed")
        if isinstance(self.seeds, tuple) and len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds={list(self.seeds)}: need each seed once")
        self.sections()
        self._refuse_too_many()

    @property
    def all_seeds(self) -> Sequence[int]:
        """The seeds; empty without a section `seeds`."""
        return range(self.seeds) if isinstance(self.seeds, int) else tuple(self.seeds or ())

    def _refuse_too_many(self) -> None:
        """Raises ConfigError if the sweep has more runs than `MOST_RUNS`, without making the configurations."""
        factors = {f"grid.{key}": len(values) for key, values in self.grid.items()}
        factors |= {"zip": max(map(len, self.zip.values()), default=1), "list": len(self.list) or 1}
        factors |= {"random.count": self.random.count if self.random else 1}
        factors |= {"seeds": self.seeds if isinstance(self.seeds, int) else len(self.all_seeds) or 1}
        factors |= {"commands": 1 + len(self.then)}
        count = math.prod(factors.values())
        if count > MOST_RUNS:
            parts = " × ".join(f"{size} ({name})" for name, size in factors.items() if size > 1)
            raise ConfigError(
                f"{parts} = {count} runs: need at most {MOST_RUNS}; shorten the longest section, or divide the sweep"
            )

    def sections(self) -> dict[str, str]:
        """Returns the section of each key. Raises ConfigError if a key is in two sections."""
        places = [("fixed", key) for key in self.fixed] + [("grid", key) for key in self.grid]
        places += [("zip", key) for key in self.zip]
        places += [("list", key) for key in dict.fromkeys(key for row in self.list for key in row)]
        places += [("random", path.rpartition(".")[0]) for path in (self.random.draw if self.random else ())]
        places += [("seeds", "seed")] if self.seeds is not None else []
        found: dict[str, str] = {}
        for section, key in places:
            for other, there in found.items():
                if overlap(key, other):
                    raise ConfigError(f"{key}: is in {section} and, as {other}, in {there}; keep one")
            found[key] = section
        return found


def load_sweep(path: Path) -> Sweep:
    """Reads a sweep file. Raises SlurmError, which names the file and the key."""
    values = read_yaml(path)
    try:
        for section in ("fixed", "grid", "zip"):
            if isinstance(values.get(section), Mapping):
                values[section] = flatten(values[section])
        if isinstance(values.get("list"), list):
            values["list"] = [flatten(row) if isinstance(row, Mapping) else row for row in values["list"]]
        drawn = values.get("random")
        if isinstance(drawn, Mapping) and isinstance(drawn.get("draw"), Mapping):
            values["random"] = {**drawn, "draw": flatten(drawn["draw"])}
        return from_mapping(Sweep, values)
    except ConfigError as error:
        raise SlurmError(f"{path}: {error}") from error


def expand(sweep: Sweep) -> Iterator[Keys]:
    """Yields the settings of each configuration by dotted key; the last section varies fastest."""
    grid = [dict(zip(sweep.grid, row, strict=True)) for row in itertools.product(*sweep.grid.values())]
    steps = [dict(zip(sweep.zip, row, strict=True)) for row in zip(*sweep.zip.values(), strict=True)] or [{}]
    draws = list(_draw(sweep.random)) if sweep.random else [{}]
    seeds: list[Keys] = [{"seed": seed} for seed in sweep.all_seeds] or [{}]
    for rows in itertools.product(grid, steps, sweep.list or ({},), draws, seeds):
        yield {**sweep.fixed, **{key: value for row in rows for key, value in row.items()}}


def _draw(random: Random) -> Iterator[Keys]:
    for index in range(random.count):
        row = {}
        for path, arguments in random.draw.items():
            key, _, name = path.rpartition(".")
            row[key] = DISTRIBUTIONS[name](rng.generator(random.seed, f"sweep/{key}", index), arguments)
        yield row


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, Values], Any]] = {
    "uniform": lambda draw, ends: float(draw.uniform(*ends)),
    "log_uniform": lambda draw, ends: float(np.exp(draw.uniform(math.log(ends[0]), math.log(ends[1])))),
    "integers": lambda draw, ends: int(draw.integers(ends[0], ends[1], endpoint=True)),
    "choice": lambda draw, options: options[draw.integers(len(options))],
}
"""The distributions of `random.draw`, as functions of a generator and the arguments in the file."""


def _check_distribution(path: str, arguments: Values) -> None:
    key, _, name = path.rpartition(".")
    where = f"random.draw.{key or name}"
    if not key or name not in DISTRIBUTIONS:
        advice = suggestion(name, DISTRIBUTIONS)
        raise ConfigError(f"{where}: need one distribution, e.g. {{uniform: [0, 1]}}, got {name!r}; {advice}")
    if name == "choice":
        if not arguments:
            raise ConfigError(f"{where}: choice=[]: need at least one value")
        return
    kind = int if name == "integers" else (int, float)
    are_numbers = all(isinstance(end, kind) and not isinstance(end, bool) for end in arguments)
    if len(arguments) != 2 or not are_numbers or not arguments[0] <= arguments[1] < math.inf:
        numbers = "integers" if name == "integers" else "numbers"
        raise ConfigError(f"{where}: {name}={arguments}: need two {numbers}, [low, high], with low ≤ high")
    if name == "log_uniform" and arguments[0] <= 0:
        raise ConfigError(f"{where}: log_uniform={arguments}: need ends above 0")
