"""What the commands on runs share: how runs are named on a command line, how groups are made, and tables of text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.data.load import Runs


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser of `python -m analysis <name>`."""
    return argparse.ArgumentParser(
        prog=f"python -m analysis {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_runs(to: argparse.ArgumentParser) -> None:
    """The arguments that say which runs."""
    to.add_argument("source", nargs="+", help="directories of runs, of single runs, or mongodb://host:27017/database")
    add_where(to)


def add_where(to: argparse.ArgumentParser) -> None:
    """The argument that chooses among them."""
    to.add_argument(
        "--where", metavar="EXPRESSION", help="e.g. 'experiment=maml_trpo,seed<3,inner_loop in func|higher'"
    )


def add_choice(to: argparse.ArgumentParser) -> None:
    """The arguments that say which of these runs count, and what makes a group."""
    to.add_argument(
        "--by", metavar="KEYS", help="settings that make a group, e.g. inner_loop,inner_lr; all that differ"
    )
    to.add_argument(
        "--status", default="COMPLETED", metavar="NAMES", help="which runs count (%(default)s); any for all"
    )
    to.add_argument(
        "--repeats", choices=("refuse", "last", "all"), default="refuse", help="several runs of one group and seed"
    )
    to.add_argument("--allow-different-tasks", action="store_true", help="compare runs that were evaluated on others")


def choice(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same as arguments of `Runs.curves` and its kin."""
    return {
        "by": arguments.by.split(",") if arguments.by else None,
        "status": None if arguments.status == "any" else tuple(arguments.status.split(",")),
        "repeats": arguments.repeats,
        "allow_different_tasks": arguments.allow_different_tasks,
    }


def load(source: Sequence[str], where: str | None) -> Runs:
    """`load_runs`, whose import takes longest."""
    from analysis.data.load import load_runs

    return load_runs(source, where)


def run(work: Callable[[], str]) -> int:
    """Prints what a command makes, or what it refuses. Returns the exit status."""
    try:
        print(work())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def text_table(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Aligned columns under a heading, numbers to the right.

    Args:
        rows: The heading, then the rows.
        width: Most characters of a line; columns that do not fit are left out, and the last line says which.
    """
    columns = [list(column) for column in zip(*rows, strict=True)]
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
        lines.append(
            f"not shown, as the line is full: {', '.join(column[0] for column in columns[shown:])} (--columns)"
        )
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "") or "0")
    except ValueError:
        return cell in ("–", "none")
    return True
