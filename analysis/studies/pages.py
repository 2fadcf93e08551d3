"""Writes tables in Markdown, and replaces the tables of a command in a page of results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

END = "<!-- end -->"


def mark(command: str) -> str:
    """Returns the line that precedes the tables of a command in a page; `END` follows them."""
    return f"<!-- written by {command} -->"


def renew(page: Path, command: str, tables: str | None) -> None:
    """Replaces the tables of a command in a page. With None it only checks that the page has a place for them.

    Raises:
        ValueError: The page lacks the lines that enclose the tables.
    """
    start = mark(command)
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"{page}: the tables go between the lines {start!r} and {END!r}, which the page lacks")
    if tables is not None:
        page.write_text(f"{before}{start}\n\n{tables}\n\n{END}{after}", encoding="utf-8")


def measure_and_renew(page: Path, command: str, measure: Callable[[], str]) -> int:
    """Calls `measure`, writes its tables to a page, and prints them. Returns the exit status."""
    try:
        renew(page, command, None)  # fails before the measurement, which may take minutes
        tables = measure()
        renew(page, command, tables)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(tables)
    return 0


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of cells as a Markdown table. The second row gives the alignment of the columns."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
