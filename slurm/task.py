"""The entry point of an array task, which becomes the run of its line.

The settings reach the run in a JSON file: no value is ever part of a command line, of a shell's or of any other.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from research.files import write_text
from slurm.folder import Folder
from slurm.manifest import Entry, read_entry

ROOT = Path(__file__).resolve().parents[1]
"""Of the code that is at work: in a job, that of the copy."""


def become_run(manifest: Path, line: int, execve: Callable[..., Any] = os.execve) -> None:
    """Replaces this process by the run of a line, so that signals reach it and its exit status is this one's."""
    entry = read_entry(manifest, line)
    folder = Folder(manifest.absolute().parent)
    if entry.command != "ensure" and _is_complete(folder.runs_dir / str(entry.run)):
        print(f"run {entry.run} has completed already")
        return
    command, environment = [sys.executable, *arguments(folder, entry, ROOT)], surroundings(ROOT)
    sys.stdout.flush()
    execve(command[0], command, environment)


def _is_complete(directory: Path) -> bool:
    try:
        return bool(json.loads((directory / "run.json").read_text())["status"] == "COMPLETED")
    except FileNotFoundError:
        return False


def arguments(folder: Folder, entry: Entry, root: Path) -> list[str]:
    """Writes the settings to a file, and returns the arguments of Python."""
    settings: dict[str, Any] = {**entry.overrides, "runs_dir": str(folder.runs_dir)}
    options = []
    if entry.command == "ensure":
        settings["run"] = entry.run
    else:
        options = ["-i", str(entry.run)]
    path = folder.path / "overrides" / f"{entry.run}.json"
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(settings, indent=2, allow_nan=False) + "\n", durable=False)
    named = ["with", *entry.named_configs] if entry.named_configs else []
    return [str(root / entry.script), entry.command, *options, f"--overrides={path}", *named]


def surroundings(root: Path) -> Mapping[str, str]:
    """The environment of a run: its code comes from `root`, and what it prints is seen at once."""
    return {**os.environ, "PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
