"""Common arguments and tables of the commands: the selection of runs, their groups, and text tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from research.terminal import printable

if TYPE_CHECKING:
    from analysis.data.load import Runs


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Returns a parser for `python -m analysis <name>`."""
    return argparse.ArgumentParser(
        prog=f"python -m analysis {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_runs(to: argparse.ArgumentParser) -> None:
    """Adds the arguments that select runs."""
    to.add_argument("source", nargs="+", help="directories of runs, of single runs, or mongodb://host:27017/database")
    add_where(to)


def add_where(to: argparse.ArgumentParser) -> None:
    """Adds the argument `--where`, a condition that runs must satisfy."""
    to.add_argument(
        "--where", metavar="EXPRESSION", help="e.g. 'experiment=maml_trpo,seed<3,inner_loop in func|higher'"
    )


def add_choice(to: argparse.ArgumentParser) -> None:
    """Adds the arguments that define groups and decide which runs count."""
    to.add_argument(
        "--by",
        metavar="KEYS",
        help="settings that define the groups, e.g. inner_loop,inner_lr (default: all settings that differ)",
    )
    to.add_argument(
        "--status", default="COMPLETED", metavar="NAMES", help="statuses of the runs that count, or any (%(default)s)"
    )
    to.add_argument(
        "--repeats",
        choices=("refuse", "last", "all"),
        default="refuse",
        help="what to do with several runs of one group and seed (%(default)s)",
    )
    to.add_argument(
        "--not-finite",
        choices=("count", "drop"),
        default="count",
        help="whether runs with a value that is not finite count, or are left out by name (%(default)s)",
    )
    to.add_argument(
        "--allow-different-tasks", action="store_true", help="compare runs that were evaluated on different tasks"
    )


def choice(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns these arguments as keyword arguments of `Runs.curves`, `adaptation_curves` and `scores`."""
    return {
        "by": arguments.by.split(",") if arguments.by else None,
        "status": None if arguments.status == "any" else tuple(arguments.status.split(",")),
        "repeats": arguments.repeats,
        "not_finite": arguments.not_finite,
        "allow_different_tasks": arguments.allow_different_tasks,
    }


def load(source: Sequence[str], where: str | None) -> Runs:
    """Calls `load_runs`, which is imported here because its import takes longest."""
    from analysis.data.load import load_runs

    return load_runs(source, where)


def run(work: Callable[[], str]) -> int:
    """Prints the result of a command, or the error that it raises. Returns the exit status."""
    try:
        print(readable(work()))
    except (ValueError, OSError) as error:
        print(f"error: {readable(str(error))}", file=sys.stderr)
        return 2
    return 0


def readable(text: str) -> str:
    """Returns a text without the control characters that names and settings of runs may contain."""
    return printable(text, keep="\n\t\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}")


def text_table(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Returns a table with aligned columns; columns of numbers are aligned to the right.

    Args:
        rows: The heading, then the rows.
        width: The maximum number of characters in a line. The last line names the columns that do not fit.
    """
    columns = [[readable(cell) for cell in column] for column in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    shown = len(columns)
    while width is not None and shown > 1 and sum(widths[:shown]) + 2 * (shown - 1) > width:
        shown -= 1
    aligned = []
    for column, size in zip(columns[:shown], widths, strict=False):
        is_numeric = all(_is_number(cell) for cell in column[1:])
        aligned.append([cell.rjust(size) if is_numeric else cell.ljust(size) for cell in column])
    lines = ["  ".join(row).rstrip() for row in zip(*aligned, strict=True)]
    if shown < len(columns):
        lines.append(f"not shown for lack of width: {', '.join(column[0] for column in columns[shown:])} (--columns)")
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "") or "0")
    except ValueError:
        return cell in ("–", "none")
    return True
