"""Manifests: the runs of a sweep, one JSON object a line; task i of an array does line i.

    {"line": 0, "of": 40, "run": 17, "hash": "5f1c…", "seed": 3, "script": "experiments/maml_trpo.py",
     "command": "ensure", "named_configs": ["navigation_2d"], "overrides": {"inner_lr": 0.5}}

A manifest is written once, whole, before anything is submitted. Each line says which one it is and how many there are,
so that one that was cut, torn or edited is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.files import write_text
from slurm.errors import SlurmError


class Entry(NamedTuple):
    """One run of a sweep.

    Attributes:
        run: Its id: the name of its directory in the directory of runs.
        hash: Hash of the experiment's name and all settings; see `checking.config_hash`.
        seed: Its seed, if its settings have one.
        script: Path of the experiment's script below the root of the code.
        command: The command of the script.
        named_configs: The named configs that come first.
        overrides: Settings by dotted key.
    """

    run: int
    hash: str
    seed: int | None
    script: str
    command: str
    named_configs: Sequence[str]
    overrides: Mapping[str, Any]


def write_manifest(path: Path, entries: Sequence[Entry]) -> None:
    """Writes a manifest."""
    lines = ({"line": line, "of": len(entries)} | entry._asdict() for line, entry in enumerate(entries))
    write_text(path, "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in lines))


def read_manifest(path: Path) -> list[Entry]:
    """All runs of a manifest. Raises SlurmError if it is not whole."""
    lines = _lines(path)
    entries = [_parse(path, number, len(lines), line) for number, line in enumerate(lines)]
    if not entries:
        raise SlurmError(f"{path}: empty; {_ADVICE}")
    return entries


def read_entry(path: Path, line: int) -> Entry:
    """One line of a manifest, counted from 0. Raises SlurmError if there is none, or the manifest is not whole."""
    lines = _lines(path)
    if not 0 <= line < len(lines):
        raise SlurmError(f"{path}: line {line} was asked for, and there are 0 to {len(lines) - 1}")
    return _parse(path, line, len(lines), lines[line])


_ADVICE = "a manifest is never changed once it is written: restore it, or submit the sweep again"


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text()
    except OSError as error:
        raise SlurmError(f"{path}: the manifest cannot be read ({error.strerror})") from error
    if text and not text.endswith("\n"):
        raise SlurmError(f"{path}: torn in line {text.count(chr(10))}; {_ADVICE}")
    return text.splitlines()


def _parse(path: Path, number: int, count: int, line: str) -> Entry:
    try:
        values = json.loads(line)
        position = values.pop("line"), values.pop("of")
        entry = Entry(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SlurmError(f"{path}: line {number} is no run of a manifest: {line!r:.60}; {_ADVICE}") from error
    if position != (number, count):
        raise SlurmError(
            f"{path}: line {number} of {count} says that it is line {position[0]} of {position[1]}; {_ADVICE}"
        )
    return entry
