"""`python -m analysis table runs/ --where experiment=maml_trpo`: prints a line for each run.

Failed, stale and damaged runs are listed above the table. Without --columns the table has the settings in which the
runs differ, and the scores of the last evaluation.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

from analysis.commands import command_line

if TYPE_CHECKING:
    import pandas as pd

    from analysis.data.load import Runs


NOT_FINITE = "not finite"


def main(argv: Sequence[str]) -> int:
    """Prints the table. Returns the exit status."""
    parser = command_line.parser("table", __doc__)
    command_line.add_runs(parser)
    parser.add_argument("--columns", metavar="KEYS", help="e.g. seed,inner_lr,final.return_post,seconds")
    parser.add_argument("--sort", metavar="KEY", help="the column to sort by; -KEY sorts in descending order")
    parser.add_argument(
        "--width", type=int, help="maximum number of characters in a line (default: the width of the terminal)"
    )
    arguments = parser.parse_args(argv)
    return command_line.run(lambda: _table(arguments))


def _table(arguments: argparse.Namespace) -> str:
    runs = command_line.load(arguments.source, arguments.where)
    table = runs.table
    if arguments.sort:
        table = _sorted(table, arguments.sort)
    columns = _chosen(table, arguments.columns) if arguments.columns else usual(runs)
    width = arguments.width or (None if arguments.columns else shutil.get_terminal_size((160, 50)).columns)
    lost = {
        (str(run), f"final.{metric}")
        for run, metric in runs.metrics.loc[runs.metrics["value"].isna(), ["run", "metric"]]
        .drop_duplicates()
        .to_numpy()
    }
    return f"{runs.report()}\n\n{command_line.text_table(cells(table, columns, lost), width)}"


def usual(runs: Runs) -> list[str]:
    """Returns the columns that are shown by default."""
    from analysis.data.groups import differing

    table = runs.table
    scores = [name for name in table.columns if name.startswith("result.score_after_")]
    ends = [*scores[:1], *scores[-1:]] if len(scores) > 1 else scores
    own = ["experiment", *(["command"] if len(set(table["command"])) > 1 else []), "status", "seed"]
    return [*own, *(name for name in differing(table) if name not in own), *ends, "seconds", "started"]


def cells(table: pd.DataFrame, columns: Sequence[str], lost: Set[tuple[str, str]] = frozenset()) -> list[list[str]]:
    """Returns the heading and the rows as texts.

    Args:
        table: `Runs.table` or some of its rows.
        columns: The columns to show.
        lost: Runs and columns of metrics with values that are not finite; other empty cells were never recorded.
    """
    values = table[columns].to_numpy(object)
    rows = [
        [
            name,
            *(
                NOT_FINITE if is_lost(value, (name, column), lost) else cell(value, is_setting(column))
                for column, value in zip(columns, row, strict=True)
            ),
        ]
        for name, row in zip(table.index, values, strict=True)
    ]
    return [["run", *(name.removeprefix("config.").removeprefix("result.") for name in columns)], *rows]


def is_lost(value: Any, place: tuple[str, str], lost: Set[tuple[str, str]]) -> bool:
    """Whether a value was recorded and is not finite. In columns of results, a missing value is None."""
    return isinstance(value, float) and math.isnan(value) and (place in lost or place[1].startswith("result"))


def is_setting(column: str) -> bool:
    """Whether a column has settings, which are shown with all of their digits."""
    return column.startswith("config.") or column == "seed"


def cell(value: Any, exact: bool = False) -> str:
    """Returns a value as text: measured numbers with four significant digits, settings exactly, times to the minute."""
    import pandas as pd

    from analysis.data.identity import text

    if not isinstance(value, (tuple, list)) and pd.isna(value):
        return "–"
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, float) and not exact:
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return value if isinstance(value, str) else text(value)


def _chosen(table: pd.DataFrame, keys: str) -> list[str]:
    from analysis.data.where import column

    return [column(key.strip(), table.columns) for key in keys.split(",")]


def _sorted(table: pd.DataFrame, key: str) -> pd.DataFrame:
    (name,) = _chosen(table, key.removeprefix("-"))
    try:
        return table.sort_values(name, ascending=not key.startswith("-"), kind="stable", na_position="last")
    except TypeError as error:
        raise ValueError(f"--sort {key}: the values of this column cannot be ordered: {error}") from error
