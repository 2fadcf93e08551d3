"""Manifests: the runs of a sweep, one JSON object per line. Task i of an array runs line i.

    {"line": 0, "of": 40, "run": 17, "hash": "5f1c…", "seed": 3, "script": "experiments/maml_trpo.py",
     "command": "ensure", "named_configs": ["navigation_2d"], "overrides": {"inner_lr": 0.5}}

A manifest is written once, atomically, before anything is submitted. Each line holds its own number and the number of
lines, so that a truncated or edited manifest is detected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.files import write_text
from slurm.errors import SlurmError


class Entry(NamedTuple):
    """One run of a sweep.

    Attributes:
        run: Id of the run, the name of its directory in the directory of runs.
        hash: Identifies the experiment and all settings, see `checking.config_hash`.
        seed: The seed; None if the experiment has no seed.
        script: Path of the experiment's script below the root directory of the code.
        command: Command of the script.
        named_configs: Named configs, applied before the overrides.
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
    """Returns all runs of a manifest. Raises SlurmError if it is damaged."""
    lines = _lines(path)
    entries = [_parse(path, number, len(lines), line) for number, line in enumerate(lines)]
    if not entries:
        raise SlurmError(f"{path}: empty; {_ADVICE}")
    return entries


def read_entry(path: Path, line: int) -> Entry:
    """Returns the run of a line, from 0. Raises SlurmError if there is no such line or the manifest is damaged."""
    lines = _lines(path)
    if not 0 <= line < len(lines):
        raise SlurmError(f"{path}: line={line}: need a line from 0 to {len(lines) - 1}")
    return _parse(path, line, len(lines), lines[line])


_NAME = re.compile(r"\w[\w.-]*")
_ADVICE = "a manifest must not be changed; restore it, or submit the sweep again"


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SlurmError(f"{path}: cannot read the manifest ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SlurmError(f"{path}: is damaged, it is no UTF-8 ({error}); {_ADVICE}") from error
    if text and not text.endswith("\n"):
        raise SlurmError(f"{path}: line {text.count(chr(10))} is truncated; {_ADVICE}")
    return text.splitlines()


def _parse(path: Path, number: int, count: int, line: str) -> Entry:
    try:
        values = json.loads(line)
        position = values.pop("line"), values.pop("of")
        entry = Entry(**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SlurmError(f"{path}: line {number} is not a run: {line!r:.60}; {_ADVICE}") from error
    wrong = _wrong_field(entry._asdict())
    if wrong is not None:
        raise SlurmError(f"{path}: line {number}: {wrong}={values[wrong]!r:.60} is not possible; {_ADVICE}")
    if position != (number, count):
        raise SlurmError(
            f"{path}: line {number} of {count} is marked as line {position[0]} of {position[1]}; {_ADVICE}"
        )
    return entry


def _wrong_field(values: Mapping[str, Any]) -> str | None:
    """Returns the name of a field whose value no submission writes; None if there is none.

    The values become a path below the directory of runs, a script of the code and words of a command line.
    """
    script, names = Path(str(values["script"])), values["named_configs"]
    allowed = {
        "run": type(values["run"]) is int and values["run"] > 0,
        "hash": isinstance(values["hash"], str),
        "script": script.suffix == ".py" and not script.is_absolute() and ".." not in script.parts,
        "command": values["command"] in ("ensure", "evaluate", "render"),
        "named_configs": isinstance(names, list) and all(_NAME.fullmatch(str(name)) for name in names),
        "overrides": isinstance(values["overrides"], dict),
    }
    return next((name for name, is_allowed in allowed.items() if not is_allowed), None)
