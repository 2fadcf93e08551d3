"""The differences between two records of a case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from golden_records import DIGITS, ITERATIONS, Entry, Record

BY_POSITION = ("state",)
"""Sections whose entries are compared in their order, so that a new name alone is no difference."""

LEAST_SCALE = 1e-3
"""Smaller numbers are compared as if they were that large: some are zero but for rounding errors."""


class Difference(NamedTuple):
    """A number that is not the same in two records, or an entry that one of them lacks.

    Attributes:
        where: The section, the entry and the place in it.
        iteration: Of training, from 1; one more than the last for the evaluation after it, 0 if it belongs to none.
        old: The number or the shape of the entry; None if there is none.
        new: Likewise.
        relative: |old − new| / the largest number of the row; None where these are no two finite numbers.
    """

    where: str
    iteration: int
    old: Any
    new: Any
    relative: float | None

    def __str__(self) -> str:
        relative = "" if self.relative is None else f"  ({self.relative:.1e})"
        return f"{self.where}: {_text(self.old)} → {_text(self.new)}{relative}"


def changes(old: Record, new: Record, tolerance: float) -> list[Difference]:
    """The differences beyond rounding errors, those of early iterations first."""
    found = [each for each in differences(old, new) if each.relative is None or each.relative > tolerance]
    return sorted(found, key=lambda each: each.iteration)


def differences(old: Record, new: Record) -> Iterator[Difference]:
    """All differences, however small."""
    for section in dict.fromkeys([*old, *new]):
        before, after = old.get(section, []), new.get(section, [])
        if section in BY_POSITION and len(before) == len(after):
            pairs = list(zip(before, after, strict=True))
        else:
            ours, theirs = ({entry.name: entry for entry in entries} for entries in (before, after))
            pairs = [(ours.get(name), theirs.get(name)) for name in dict.fromkeys([*ours, *theirs])]
        for pair in pairs:
            yield from _between(section, *pair)


def _between(section: str, old: Entry | None, new: Entry | None) -> Iterator[Difference]:
    where = f"{section} › {(new or old).name}"
    if old is None or new is None or _shape(old) != _shape(new):
        yield Difference(where, 0, old and _shape(old), new and _shape(new), None)
        return
    for row, (before, after) in enumerate(zip(old.rows, new.rows, strict=True)):
        scale = max([LEAST_SCALE, *(abs(value) for value in before if isinstance(value, float))])
        for column, (ours, theirs) in enumerate(zip(before, after, strict=True)):
            if ours != theirs:
                finite = isinstance(ours, float) and isinstance(theirs, float)
                place, iteration = _place(section, row, column, len(before))
                yield Difference(where + place, iteration, ours, theirs, abs(ours - theirs) / scale if finite else None)


def _place(section: str, row: int, column: int, width: int) -> tuple[str, int]:
    """The place of a number in its entry, in words, and its iteration."""
    if section == "metrics":
        return f", iteration {column + 1}", column + 1
    if section == "evaluation":
        return f", step {row}, task {column}", ITERATIONS + 1
    part = "" if width == 1 else (", norm", ", product")[column]
    return (f"{part}, iteration {row + 1}", row + 1) if section == "state" else (part, 0)


def _shape(entry: Entry) -> str:
    return f"{entry.kind} {[len(row) for row in entry.rows]}".strip()


def _text(value: Any) -> str:
    return "nothing" if value is None else f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)
