"""Ids of runs and the places of their records: one reading for command lines, manifests, databases and analysis."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from research.conversion import ConfigError
from research.files import is_number

ALLOWED_ID = (
    "a number such as 7, or a name of at most 100 letters, digits, spaces and -_. that begins with a letter or a digit "
    "and is no other number"
)
"""The ids that a run may have, in words."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 ._-]{0,98}[A-Za-z0-9_-])?")
_CHECKPOINTS, _SOURCES = "checkpoints", "_sources"
_VALUES = ("none", "true", "false")  # a command line reads these as values


def check_id(value: Any, source: str = "run=") -> int | str:
    """Returns the id of a run: an int if it is a number, and otherwise a name that is a plain folder name.

    >>> check_id("7"), check_id("pilot-2.b")
    (7, 'pilot-2.b')

    Args:
        value: The id, an int or a text.
        source: Text before the value in the message, such as the key or the option that was given.

    Raises:
        ConfigError: The value is no id: it would name a folder outside of the directory of runs, one that holds
            something else, or a number in another notation.
    """
    text = str(value)
    is_plain = isinstance(value, (int, str)) and not isinstance(value, bool)
    if not is_plain or not (is_number(text) or (_NAME.fullmatch(text) and not _is_value(text))):
        raise ConfigError(f"{source}{value!r}: need {ALLOWED_ID}")
    return id_of(text)


def id_of(name: str) -> int | str:
    """Returns the id of the run in a folder of this name: an int if it is a number. Any other name stays as it is."""
    return int(name) if is_number(name) else name


def sort_key(name: str) -> tuple[bool, int, str]:
    """Returns a key that orders the names of folders: numbers first, in order, then other names."""
    return (False, int(name), "") if is_number(name) else (True, 0, name)


class Place(NamedTuple):
    """The place of a run's record.

    Attributes:
        runs_dir: Directory of the runs, relative if it is inside of the working directory.
        id: Id of the run, the name of its folder there.
    """

    runs_dir: Path
    id: int | str

    @property
    def directory(self) -> Path:
        """The directory of the record."""
        return self.runs_dir / str(self.id)


def place_of_run(runs_dir: str, run: int | str) -> Place:
    """Returns the place of a run by its id. Raises ConfigError if that is none.

    A folder that is a link to a run in a directory of runs stands for that run. A folder that was moved to another
    disk, and is a link to it, keeps its own place.
    """
    given = Place(Path(runs_dir), check_id(run))
    if given.directory.is_symlink():
        target = given.directory.resolve()
        if (target.parent / _SOURCES).is_dir() or target.parent == given.runs_dir.resolve():
            return Place(short(target.parent), check_id(target.name))
    return given


def place_of_checkpoint(path: Path) -> Place | None:
    """Returns the place of the run in whose folder `checkpoints` a checkpoint lies; None if it lies in none.

    The path counts as it is written, also if `checkpoints` is a link to another disk, and otherwise with all links
    followed. A relative path begins in the working directory as the shell names it.
    """
    for one in (_logical(path), path.resolve()):
        record = one.parent.parent
        if one.parent.name == _CHECKPOINTS and _has_run(record):
            return place_of_run(str(short(record.parent)), record.name)
    return None


def short(path: Path) -> Path:
    """Returns the path relative to the working directory if it is inside it, and otherwise the absolute one."""
    relative = os.path.relpath(path)
    return path.absolute() if relative.startswith("..") else Path(relative)


@contextlib.contextmanager
def starting(runs_dir: Path) -> Iterator[None]:
    """An OSError inside, before there is a record, becomes a ConfigError that names the path and the reason."""
    try:
        yield
    except OSError as error:
        place = error.filename or runs_dir
        raise ConfigError(f"runs_dir={str(runs_dir)!r}: {place} cannot be written ({error.strerror}); choose "
                          "another place or, if the disk is full, make room") from error  # fmt: skip


def _logical(path: Path) -> Path:
    """Returns the absolute path with its links as they are written."""
    shell = Path(os.environ.get("PWD", ""))
    here = shell if shell.is_absolute() and shell.exists() and shell.samefile(".") else Path.cwd()
    absolute = Path(os.path.normpath(here / path))
    return absolute if absolute.exists() and path.exists() and absolute.samefile(path) else path.absolute()


def _has_run(directory: Path) -> bool:
    return (directory / "run.json").exists() or (directory / "config.json").exists()


def _is_value(text: str) -> bool:
    """Returns whether a command line, or a reader of numbers, would take a name as something else than a text."""
    for read in (float, lambda text: int(text, 0)):
        with contextlib.suppress(ValueError):
            read(text)
            return True
    return text.lower() in _VALUES
