"""`python -m analysis search NAME`: prints the best trials of a search and the importances of its settings.

search cartpole                              the search cartpole-<n> in runs/, the last n
search cartpole-2 --pictures pictures/       also history.png, parallel.png and importances.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.commands import command_line

if TYPE_CHECKING:
    from analysis.data.searches import Search

_BEST = 10


def main(argv: Sequence[str]) -> int:
    """Prints the tables and, if asked, draws the pictures. Returns the exit status."""
    parser = command_line.parser("search", __doc__)
    parser.add_argument("name", nargs="?", help="name of the search (default: the last one)")
    parser.add_argument("--runs-dir", default="runs", help="the directory of runs (%(default)s)")
    parser.add_argument("--best", type=int, default=_BEST, metavar="N", help="number of trials to show (%(default)s)")
    parser.add_argument("--pictures", type=Path, metavar="DIRECTORY", help="the directory to draw pictures in")
    arguments = parser.parse_args(argv)
    return command_line.run(lambda: _search(arguments))


def _search(arguments: argparse.Namespace) -> str:
    from analysis.data.searches import load_search  # imports pandas and Optuna

    search = load_search(arguments.runs_dir, arguments.name)
    counts = search.trials["state"].value_counts()
    states = ", ".join(f"{counts[state]} {state}" for state in counts.index)
    minutes = search.trials["core_minutes"].sum()
    lines = [f"{search.name}: {search.direction} {search.metric}", f"{len(search.trials)} trials ({states}), "
             f"{minutes:.1f} core-minutes", "", _trials(search, arguments.best), "", _importances(search)]  # fmt: skip
    if arguments.pictures:
        lines += ["", *(f"Picture: {path}" for path in _draw(search, arguments.pictures))]
    return "\n".join(lines)


def _trials(search: Search, count: int) -> str:
    known = search.trials.dropna(subset=["value"])
    ascending = [False, search.direction == "minimize"]
    shown = known.sort_values(["iteration", "value"], ascending=ascending, kind="stable").head(count)
    columns = ["run", "iteration", "value", *search.dimensions]
    rows = [[str(trial), *map(_cell, row)] for trial, row in zip(shown.index, shown[columns].to_numpy(), strict=True)]
    return command_line.text_table([["trial", *columns], *rows])


def _importances(search: Search) -> str:
    found = search.importances()
    if found.empty:
        return "Importances need two trials with a value."
    rows = [[name, f"{value:.3f}"] for name, value in zip(found["dimension"], found["importance"], strict=True)]
    return command_line.text_table([["dimension", "importance"], *rows])


def _draw(search: Search, directory: Path) -> list[Path]:
    from analysis import plots

    directory.mkdir(parents=True, exist_ok=True)
    figures = {
        "history": plots.plot_history(search.history(), search.metric),
        "parallel": plots.plot_parallel(search.trials, search.dimensions, search.metric),
        "importances": plots.plot_importances(search.importances()),
    }
    return [plots.save(figure, directory / f"{name}.png") for name, figure in figures.items()]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.4g}"
    return str(value)
