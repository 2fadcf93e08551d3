"""A task of an array: replaces its process by the run of its line.

The settings reach the run through a JSON file, so that no value needs quoting on a command line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from research.files import write_text
from slurm.folder import Folder, Submission, read_object
from slurm.manifest import Entry, read_entry

ROOT = Path(__file__).resolve().parents[1]
"""Root directory of the running code; in a job that of the copy."""


def become_run(manifest: Path, line: int, execve: Callable[..., Any] = os.execve) -> None:
    """Replaces this process by the run of a line, which then receives its signals and sets its exit status.

    Args:
        manifest: The manifest.
        line: Line of the manifest, from 0.
        execve: Replaces the process; for tests.

    Raises:
        SlurmError: There is no such line, or the manifest is damaged.
    """
    entry = read_entry(manifest, line)
    folder = Folder(manifest.absolute().parent)
    if entry.command != "ensure" and _is_complete(folder.runs_dir / str(entry.run)):
        print(f"run {entry.run} has completed already")
        return
    command = [sys.executable, *arguments(folder, entry, ROOT)]
    environment = surroundings(ROOT, folder.submission())
    sys.stdout.flush()
    execve(command[0], command, environment)


def _is_complete(directory: Path) -> bool:
    run = read_object(directory / "run.json")
    return run is not None and run.get("status") == "COMPLETED"


def arguments(folder: Folder, entry: Entry, root: Path) -> list[str]:
    """Writes the settings of a run to a file, and returns the arguments of its Python interpreter."""
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


def surroundings(root: Path, submission: Submission) -> Mapping[str, str]:
    """Returns the environment variables of a run: it imports the code in `root`, and its output is not buffered.

    Then come the other directories of PYTHONPATH: those of the job, which the profile may have added, and those at the
    submission, which some sites do not pass on. The checkout itself is left out: its files can change.
    """
    own = [directory for directory in os.environ.get("PYTHONPATH", "").split(os.pathsep) if directory]
    unwanted = (str(root), submission.root)
    others = [one for one in dict.fromkeys([*own, *submission.python_path]) if os.path.abspath(one) not in unwanted]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *others]), "PYTHONUNBUFFERED": "1"}


def python_path(root: Path) -> list[str]:
    """Returns the directories of this process's PYTHONPATH, absolute, without `root`."""
    found = (os.path.abspath(one) for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one)
    return [directory for directory in dict.fromkeys(found) if directory != str(root)]
