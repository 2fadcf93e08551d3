"""`python -m analysis adaptation runs/1 runs/2 …`: adaptation curves of finished runs as one table, and as a picture.

Reads run records only (`run.json`, `config.json`). Each run counts once, with its mean over held-out tasks; what is
reported of several is the median and the interquartile mean over runs, with a bootstrap interval of the latter.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.plots import plot_runs
from analysis.stats import bootstrap_interval, iqm
from analysis.studies.pages import markdown_table


class FinishedRun(NamedTuple):
    """What the table needs of one run: `score [steps + 1]`, the mean over held-out tasks after each step."""

    name: str
    seed: int
    label: str
    score: NDArray[np.float64]
    unit: str = "gradient steps"


def load_run(directory: Path) -> FinishedRun:
    """The adaptation curve that a run recorded as its result.

    Raises:
        ValueError: There is no run record, or the run has not finished.
    """
    try:
        run: dict[str, Any] = json.loads((directory / "run.json").read_text())
        config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{directory}: no run record there ({error.filename} is missing)") from error
    if run["status"] != "COMPLETED":
        raise ValueError(f"{directory}: its status is {run['status']}; only COMPLETED runs have a result")
    result = run["result"]
    score = np.array(result["score"], np.float64)
    return FinishedRun(str(directory), config["seed"], result["label"], score, result.get("unit", "gradient steps"))


def table(runs: Sequence[FinishedRun], target: Sequence[float] = ()) -> str:
    """The runs and, of several, median and interquartile mean for each step of adaptation, as a Markdown table.

    Raises:
        ValueError: The runs differ in what they measured or in the number of steps.
    """
    kinds = {(run.label, run.unit, len(run.score)) for run in runs}
    if len(kinds) != 1:
        raise ValueError(f"the runs do not compare: they have (score, unit of a step, entries) {sorted(kinds)}")
    scores = np.stack([run.score for run in runs], -1)
    steps = range(len(scores))
    rows = [[f"{runs[0].label}, run (seed)", *(f"after {step}" for step in steps)], ["---", *("---:" for _ in steps)]]
    rows += [[f"{run.name} ({run.seed})", *(f"{value:.2f}" for value in run.score)] for run in runs]
    if len(runs) > 1:  # one run has neither a middle nor an interval
        low, high = bootstrap_interval(scores, statistic=iqm)
        rows.append(["**median**", *(f"**{value:.2f}**" for value in np.median(scores, -1))])
        rows.append(["IQM", *(f"{value:.2f}" for value in iqm(scores))])
        rows.append(["95 % interval of the IQM", *(f"[{a:.2f}, {b:.2f}]" for a, b in zip(low, high, strict=True))])
    if target:
        rows.append(["published", *(f"{value:.2f}" for value in target)])
    return markdown_table(rows)


def main(argv: Sequence[str]) -> int:
    """Prints the table and, if asked, draws the picture. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m analysis adaptation", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="directories of finished runs, e.g. runs/1")
    parser.add_argument("--target", default="", help="published values to compare with, e.g. --target=-40.4,-11.7")
    parser.add_argument("--picture", type=Path, help="where to write the curves as a picture")
    arguments = parser.parse_args(argv)
    try:
        target = [float(value) for value in arguments.target.split(",") if value]
        runs = [load_run(directory) for directory in arguments.runs]
        print(table(runs, target))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.picture:
        scores = np.stack([run.score for run in runs])
        plot_runs(runs[0].label, scores, arguments.picture, target, steps=runs[0].unit)
        print(f"\nPicture: {arguments.picture}")
    return 0
