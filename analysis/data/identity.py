"""Exact identity of settings and of runs. Nothing is identified by a printed form that rounds.

Settings are equal if their values are: 0.9999999 and 1.0 are two settings, 1 and 1.0 are one. `text` is the name of a
value in labels and tables, and different values have different names: a float is written with all of its digits, a text
that reads like a number or a word (`007`, `1e-3`, `none`) in quotes. `read` is its inverse.

A run is identified by its unique id and its content, see `distinct`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.data.from_files import Directory
from analysis.data.records import Points, Record, Source, parse_time

_WORDS = {"true": True, "false": False, "none": None, "null": None, "nan": None}
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf)", re.ASCII)
_EXACT = 10**16
"""Whole numbers below are written with all of their digits, and every one of them is exact as a float."""

Pair = tuple[Source, Record]


def is_missing(value: Any) -> bool:
    """Whether a value is None or NaN: the run has no such setting, or null was recorded."""
    return value is None or (isinstance(value, (float, np.floating)) and bool(np.isnan(value)))


def key(value: Any) -> Hashable:
    """Returns a value for sets and dictionaries: equal exactly if two settings are the same.

    Example:
        >>> key(1) == key(1.0), key(1) == key("1"), key(True) == key(1), key(1.0) == key(0.9999999)
        (True, False, False, False)
    """
    if is_missing(value):
        return None
    if isinstance(value, (bool, np.bool_)):
        return "bool", bool(value)
    if isinstance(value, (int, float, np.integer, np.floating)):
        return "number", value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (tuple, list)):
        return "list", tuple(map(key, value))
    if isinstance(value, str):
        return "text", value
    return type(value).__name__, str(value)


def text(value: Any) -> str:
    """Returns the name of a value in labels. Values with the same name have the same `key`.

    Example:
        >>> [text(value) for value in (1.0, 0.9999999, 1e-3, "func", "1e-3", None, (64, 64), True)]
        ['1', '0.9999999', '0.001', 'func', '"1e-3"', 'none', '[64, 64]', 'true']
    """
    if is_missing(value):
        return "none"
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, (int, float, np.integer, np.floating)):
        return _number(value.item() if isinstance(value, np.generic) else value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(text, value))}]"
    return _quoted(value) if isinstance(value, str) else str(value)


def read(written: str) -> Any:
    """Returns the value that a text denotes: a word, number or list; other text denotes itself.

    Example:
        >>> [read(one) for one in ("3", "1e-3", "true", "none", "[64, 64]", "func", '"007"', "2024_01_05")]
        [3, 0.001, True, None, [64, 64], 'func', '007', '2024_01_05']
    """
    if is_quoted(written):
        return written[1:-1]
    if written.lower() in _WORDS:
        return _WORDS[written.lower()]
    if _NUMBER.fullmatch(written):
        return int(written) if written.lstrip("+-").isdigit() else float(written)
    if written[:1] == "[":
        try:
            return json.loads(written)
        except ValueError:
            return written
    return written


def is_quoted(written: str) -> bool:
    """Whether a text stands in quotes, so that it denotes a text."""
    return len(written) > 1 and written[0] == written[-1] and written[0] in "\"'"


def _number(value: float) -> str:
    """Returns the shortest text that reads as this number, the same for equal numbers of different types."""
    if isinstance(value, int) and abs(value) >= _EXACT:
        try:
            return repr(float(value)) if float(value) == value else str(value)
        except OverflowError:
            return str(value)
    return str(int(value)) if abs(value) < _EXACT and value == int(value) else repr(value)


def _quoted(value: str) -> str:
    """Returns a text, in quotes if it could be read as another value or as several."""
    is_plain = value == value.strip() != "" and not set(value) & set(",|\"'[]") and key(read(value)) == key(value)
    if is_plain:
        return value
    return f"'{value}'" if '"' in value else f'"{value}"'


def distinct(found: Sequence[Pair]) -> list[Pair]:
    """Returns each run once, and adds a problem to the record for every copy that is left out or counts as a run.

    Two records with the same unique id are

    - the same record, if they have the same directory: reached twice, or mirrored in a database. Files are preferred.
    - a run and a copy of it, if one has nothing that the other lacks: its metrics and resumptions are the beginning of
      the other's, and it did not complete otherwise. It is left out, and the other record says so.
    - two runs, if both went on from the same beginning.
    """
    kept: list[Pair] = []
    places = set()
    twins: dict[str, list[Pair]] = {}
    for pair in sorted(found, key=lambda one: not isinstance(one[0], Directory)):
        record, uid = pair[1], pair[1].run.get("uid")
        place = (uid, record.directory) if record.directory else (uid, record.source, record.name)
        if place in places:
            continue
        places.add(place)
        same = twins.setdefault(str(uid), []) if uid else []
        left_out = _left_out(pair, same)
        if pair in left_out:
            continue
        for other in left_out:
            same.remove(other)
            kept.remove(other)
        for other in same:
            for one, another in ((record, other[1]), (other[1], record)):
                one.problems.append(f"{_place(another)} is another continuation of this run: both count as runs")
        same.append(pair)
        kept.append(pair)
    chosen = {id(record) for _, record in kept}
    return [pair for pair in found if id(pair[1]) in chosen]


def _left_out(pair: Pair, others: Sequence[Pair]) -> list[Pair]:
    """Returns the pair if another one contains it, else the others that it contains; notes them in what stays."""
    for other in others:
        if _contains(other, pair):
            other[1].problems.append(f"{_place(pair[1])} is a copy of this record and left out")
            return [pair]
    contained = [other for other in others if _contains(pair, other)]
    for other in contained:
        pair[1].problems.append(f"{_place(other[1])} is an earlier copy of this record and left out")
    return contained


def _place(record: Record) -> str:
    return (
        record.directory if record.directory and "://" not in record.source else f"{record.source}, run {record.name}"
    )


def _contains(whole: Pair, part: Pair) -> bool:
    """Whether a record has everything that a copy of it has."""
    ours, theirs = whole[1].run, part[1].run
    if theirs.get("status") == "COMPLETED" and _end(theirs) != _end(ours):
        return False
    resumed = [[parse_time(entry.get("time")) for entry in run.get("resumed") or ()] for run in (ours, theirs)]
    if resumed[0][: len(resumed[1])] != resumed[1]:
        return False
    series = [_points(pair) for pair in (whole, part)]
    return all(name in series[0] and _begins(series[0][name], one) for name, one in series[1].items())


def _end(run: Mapping[str, Any]) -> tuple[Any, ...]:
    return run.get("status"), parse_time(run.get("stop_time")), run.get("result")


def _points(pair: Pair) -> dict[str, Points]:
    """Returns the metrics of a run other than measured times, which differ when a step is computed again."""
    source, record = pair
    noted = len(record.problems)
    (found,) = source.points([record])
    del record.problems[noted:]  # they are noted when the metrics are read for the frames
    return {name: one for name, one in found.items() if not name.startswith("time/")}


def _begins(whole: Points, part: Points) -> bool:
    count = len(part.steps)
    return np.array_equal(whole.steps[:count], part.steps) and np.array_equal(
        whole.values[:count], part.values, equal_nan=True
    )
