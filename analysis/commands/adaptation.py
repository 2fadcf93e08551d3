"""`python -m analysis adaptation runs/1 runs/2 …`: prints adaptation curves as a table, and draws them.

    adaptation runs/1 runs/2 runs/3 --target=-40.4,-11.7 --picture curves.png     with published values
    adaptation runs --where experiment=maml_trpo --by inner_lr                    a group for each inner_lr

The score of a run is the mean over the tasks of its last evaluation. For a group of several runs the table has the
median, and the interquartile mean with its interval (docs/statistics.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis import stats
from analysis.commands import command_line
from analysis.studies.pages import markdown_table

if TYPE_CHECKING:
    import pandas as pd

    from analysis.data.load import Runs


def main(argv: Sequence[str]) -> int:
    """Prints the table and, if asked, draws the picture. Returns the exit status."""
    parser = command_line.parser("adaptation", __doc__)
    command_line.add_runs(parser)
    command_line.add_choice(parser)
    parser.add_argument("--target", default="", help="published values to compare with, e.g. --target=-40.4,-11.7")
    parser.add_argument("--picture", type=Path, help="the file to draw the curves to, e.g. curves.png")
    arguments = parser.parse_args(argv)
    return command_line.run(lambda: _adaptation(arguments))


def _adaptation(arguments: argparse.Namespace) -> str:
    target = [float(value) for value in arguments.target.split(",") if value]
    runs = command_line.load(arguments.source, arguments.where)
    curves = runs.adaptation_curves(**command_line.choice(arguments))
    label = _label(runs, curves)
    lines = [runs.report(), "", table(curves, label, target)]
    if arguments.picture:
        from analysis import plots

        figure = plots.plot_adaptation(curves, label=label, every_run=True, published=target, width=4.2)
        lines += ["", f"Picture: {plots.save(figure, arguments.picture)}"]
    return "\n".join(lines)


def _label(runs: Runs, curves: pd.DataFrame) -> str:
    """Returns the name of the score, which runs without a final evaluation do not record."""
    labels = runs.table.loc[curves["run"].unique()].get("result.label")
    return "score" if labels is None or labels.dropna().empty else _only("score", labels.dropna())


def table(curves: pd.DataFrame, label: str, target: Sequence[float] = ()) -> str:
    """Returns a Markdown table of the runs and, for each group of several, of median and interquartile mean.

    Args:
        curves: The frame of `Runs.adaptation_curves`.
        label: The name of the score.
        target: Published values, after 0, 1, … steps.

    Raises:
        ValueError: The runs differ in the unit of a step or in the number of steps.
    """
    unit = _only("unit of a step", curves["unit"])
    counts = (curves.groupby("run", sort=False).size() - 1).to_dict()
    if len(set(counts.values())) > 1:
        raise ValueError(f"adaptation: the runs have different numbers of {unit}, {counts}; choose with --where")
    scores = curves.pivot(index="run", columns="adapt_step", values="value").loc[list(counts)]
    seeds = curves.drop_duplicates("run").set_index("run")
    rows = [[f"{label}, run (seed)", *(f"after {step}" for step in scores)], ["---", *("---:" for _ in scores.columns)]]
    groups = seeds.groupby("group", sort=False)
    for group, members in groups:
        values = scores.loc[members.index]
        rows += [[f"{run} ({members.at[run, 'seed']})", *map(_cell, row)] for run, row in values.iterrows()]
        if len(members) > 1:  # one run has neither a median nor an interval
            rows += _statistics(values.to_numpy(), f"{group}: " if groups.ngroups > 1 else "")
    if target:
        rows.append(["published", *map(_cell, target)])
    lost = seeds.index[~np.isfinite(scores.loc[seeds.index]).all(axis=1)]
    notes = [curves.attrs["note"]] if curves.attrs.get("note") else []
    notes += [f"not finite: {len(lost)} of {len(seeds)} runs ({', '.join(lost)}): {stats.NOT_FINITE}"] * bool(len(lost))
    return "\n\n".join([markdown_table(rows), *notes])


def _statistics(scores: NDArray[np.float64], prefix: str) -> list[list[str]]:
    """Returns the rows of median, interquartile mean and interval for `scores [runs, steps + 1]`."""
    found = [stats.estimate(column, np.random.default_rng(0)) for column in scores.T]
    kind = stats.interval_name("iqm", len(scores))
    texts = [_cell(each.value) if np.isfinite(each.value) else each.interval for each in found]
    ends = [f"[{_cell(each.low)}, {_cell(each.high)}]" if each.has_interval else "–" for each in found]
    return [
        [f"**{prefix}median**", *(f"**{_cell(value)}**" for value in stats.trimmed_mean(scores.T, "median"))],
        [f"{prefix}IQM", *texts],
        [f"{prefix}{kind} of the IQM", *ends],
    ]


def _cell(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "diverged"


def _only(name: str, values: pd.Series) -> str:
    """Returns the common value of all runs.

    Raises:
        ValueError: The runs have different values.
    """
    found = [str(value) for value in values.unique()]
    if len(found) > 1:
        raise ValueError(f"adaptation: the runs differ in the {name}: {', '.join(found)}; choose with --where")
    return found[0]
