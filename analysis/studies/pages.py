"""Pages of results: tables in Markdown, and how a command renews those that it wrote."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

END = "<!-- end -->"


def mark(command: str) -> str:
    """The line after which a command's tables stand; they end at `END`."""
    return f"<!-- written by {command} -->"


def renew(page: Path, command: str, tables: str | None) -> None:
    """Puts the tables between a command's two marks of a page. None leaves it as it is, once it is known to have them.

    Raises:
        ValueError: The page has no such marks.
    """
    start = mark(command)
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"{page}: the tables go between the lines {start!r} and {END!r}, which it does not have")
    if tables is not None:
        page.write_text(f"{before}{start}\n\n{tables}\n\n{END}{after}", encoding="utf-8")


def measure_and_renew(page: Path, command: str, measure: Callable[[], str]) -> int:
    """Renews the tables of a page with what a command measures, and prints them. Returns the exit status."""
    try:
        renew(page, command, None)  # before the minutes that the tables take
        tables = measure()
        renew(page, command, tables)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(tables)
    return 0


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in Markdown. The second row says how the columns are aligned."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
