"""`python -m analysis learning runs/1 runs/2 …`: how well and how fast runs learned, as a table, variant by variant.

Reads run records only (`run.json`, `config.json`, `metrics.jsonl`). Runs that differ in nothing but the seed are a
variant. Of each run two numbers count: the area under its learning curve, that is the mean of its evaluations weighed
by the training between them, and its best evaluation. Reported is the interquartile mean over runs, with a bootstrap
interval, and for every variant but the first the difference to it, as an interval too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.stats import bootstrap_interval, iqm

METRIC = "eval/score_after_0"


class Run(NamedTuple):
    """What counts of one run.

    Attributes:
        settings: All but the seed, as `key=value`.
        seed: Of the run.
        area: Mean of the learning curve.
        best: Its highest point.
    """

    settings: tuple[str, ...]
    seed: int
    area: float
    best: float


def load_run(directory: Path, metric: str = METRIC) -> Run:
    """A finished run.

    Raises:
        ValueError: There is no run record, the run has not finished, or has no such metric.
    """
    try:
        status = json.loads((directory / "run.json").read_text())["status"]
        config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    except FileNotFoundError as error:
        raise ValueError(f"{directory}: no run record there ({error.filename} is missing)") from error
    if status != "COMPLETED":
        raise ValueError(f"{directory}: its status is {status}; only COMPLETED runs count")
    points = [(row["step"], row["values"][metric]) for row in rows if metric in row["values"]]
    if not points:
        raise ValueError(f"{directory}: it recorded no {metric}; need eval_interval above 0")
    steps, values = np.array(points, np.float64).T
    seed = config.pop("seed")
    return Run(tuple(_flat(config)), seed, area(steps, values), float(values.max()))


def area(steps: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """The mean of a curve that has each value from the evaluation before (or the start) to its own step."""
    weights = np.diff(steps, prepend=0.0)
    return float((weights * values).sum() / weights.sum())


def table(runs: Sequence[Run]) -> str:
    """The variants as a Markdown table, the first run's first."""
    variants: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        variants.setdefault(run.settings, []).append(run)
    common = set.intersection(*(set(settings) for settings in variants))
    first = next(iter(variants.values()))
    lines = [
        "| variant | runs | area under the curve | best evaluation | area, less the first's |",
        "|---|---:|---:|---:|---:|",
    ]
    for settings, members in variants.items():
        name = " ".join(entry for entry in settings if entry not in common) or "the same"
        columns = [_statistic([getattr(run, key) for run in members]) for key in ("area", "best")]
        less = "–" if members is first else _difference([run.area for run in members], [run.area for run in first])
        lines.append(f"| {name} | {len(members)} | {columns[0]} | {columns[1]} | {less} |")
    return "\n".join(lines)


def _statistic(values: Sequence[float]) -> str:
    low, high = bootstrap_interval(values, statistic=iqm)
    return f"{iqm(values):.1f} [{low:.1f}, {high:.1f}]"


def _difference(values: Sequence[float], reference: Sequence[float], resamples: int = 10_000) -> str:
    """The 95 % bootstrap interval of the difference of interquartile means, both sides drawn anew."""
    draws = np.random.default_rng(0)
    sides = [np.asarray(side)[draws.integers(len(side), size=(resamples, len(side)))] for side in (values, reference)]
    low, high = np.quantile(iqm(sides[0]) - iqm(sides[1]), (0.025, 0.975))
    return f"{iqm(values) - iqm(reference):+.1f} [{low:+.1f}, {high:+.1f}]"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every setting as `path=value`, those about where and how a run is kept left out."""
    entries = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            entries += _flat(value, f"{prefix}{key}.")
        elif not (prefix == "" and key in ("runs_dir", "run", "checkpoint")):
            entries.append(f"{prefix}{key}={value}")
    return entries


def main(argv: Sequence[str]) -> int:
    """Prints the table. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m analysis learning", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="directories of finished runs; those of a baseline first")
    parser.add_argument("--metric", default=METRIC, help=f"what the curve is of; {METRIC} without")
    arguments = parser.parse_args(argv)
    try:
        print(table([load_run(directory, arguments.metric) for directory in arguments.runs]))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
