"""Ids of runs and the places of their records: one reading for command lines, manifests, databases and analysis."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from research.files import is_number

ALLOWED_ID = (
    "a number such as 7, or a name of at most 100 letters, digits, spaces and -_. that begins with a letter or a digit "
    "and is no other number"
)
"""The ids that a run may have, in words."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 ._-]{0,98}[A-Za-z0-9_-])?")
_VALUES = ("none", "true", "false")  # a command line reads these as values


def check_id(value: Any, source: str = "run=") -> int | str:
    """Returns the id of a run: an int if it is a number, and otherwise a name that is a plain folder name.

    >>> check_id("7"), check_id("pilot-2.b")
    (7, 'pilot-2.b')

    Args:
        value: The id, an int or a text.
        source: Text before the value in the message, such as the key or the option that was given.

    Raises:
        ValueError: The value is no id: it would name a folder outside of the directory of runs, one that holds
            something else, or a number in another notation.
    """
    text = str(value)
    is_plain = isinstance(value, (int, str)) and not isinstance(value, bool)
    if not is_plain or not (is_number(text) or (_NAME.fullmatch(text) and not _is_value(text))):
        raise ValueError(f"{source}{value!r}: need {ALLOWED_ID}")
    return id_of(text)


def id_of(name: str) -> int | str:
    """Returns the id of the run in a folder of this name: an int if it is a number. Any other name stays as it is."""
    return int(name) if is_number(name) else name


def sort_key(name: str) -> tuple[bool, int, str]:
    """Returns a key that orders the names of folders: numbers first, in order, then other names."""
    return (False, int(name), "") if is_number(name) else (True, 0, name)


def _is_value(text: str) -> bool:
    """Returns whether a command line, or a reader of numbers, would take a name as something else than a text."""
    for read in (float, lambda text: int(text, 0)):
        with contextlib.suppress(ValueError):
            read(text)
            return True
    return text.lower() in _VALUES
