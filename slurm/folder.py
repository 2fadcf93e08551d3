"""The folder of a submitted sweep, `<runs_dir>/_sweeps/<name>-<n>/`: all that there is to know of it, as files.

    sweep.yaml          as it was submitted
    manifest.jsonl      its runs; further stages have manifest-1.jsonl, ..., line by line the same configurations
    jobs.jsonl          what was submitted, one array (or local work) a line
    profile.json        the profile, which `retry` takes over
    environment.sh      its lines of shell
    code/               the code, as it was
    overrides/, logs/   of each run

The first manifest is written last: a folder without one is not a sweep.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import NamedTuple

from research.files import append_lines, whole_lines
from slurm.errors import SlurmError
from slurm.manifest import Entry, read_manifest


class Array(NamedTuple):
    """Lines of a manifest that were submitted together.

    Attributes:
        stage: Of the sweep, 0 is the first.
        offset: Line of index 0.
        indices: Of the tasks.
        job: Slurm's id of the array; None for work on this machine.
        host: Where local work is done.
        time: Of submission, in seconds since the epoch.
    """

    stage: int
    offset: int
    indices: list[int]
    job: str | None = None
    host: str | None = None
    time: float = 0.0

    @property
    def lines(self) -> list[int]:
        return [self.offset + index for index in self.indices]


class Folder(NamedTuple):
    """The folder of a sweep.

    Attributes:
        path: Absolute.
    """

    path: Path

    @property
    def name(self) -> str:
        """The name of the sweep."""
        return self.path.name

    @property
    def runs_dir(self) -> Path:
        """The directory of runs that the sweep writes to."""
        return self.path.parent.parent

    @property
    def code(self) -> Path:
        """The path of the copy of the code."""
        return self.path / "code"

    @property
    def profile(self) -> Path:
        """The path of the profile that the sweep was submitted with."""
        return self.path / "profile.json"

    def code_or(self, root: Path) -> Path:
        """The copy of the code, or `root` if there is none."""
        return self.code if self.code.is_dir() else root

    def manifest(self, stage: int) -> Path:
        """The path of the manifest of a stage."""
        return self.path / (f"manifest-{stage}.jsonl" if stage else "manifest.jsonl")

    def stages(self) -> list[list[Entry]]:
        """The runs of each stage, line by line."""
        count = 1 + len(list(self.path.glob("manifest-*.jsonl")))
        return [read_manifest(self.manifest(stage)) for stage in range(count)]

    def arrays(self) -> list[Array]:
        """The submitted arrays, in the order of submission."""
        return [Array(**json.loads(line)) for line in whole_lines(self.path / "jobs.jsonl")]

    def add(self, array: Array) -> None:
        """Writes down that an array was submitted."""
        append_lines(self.path / "jobs.jsonl", [json.dumps(array._replace(time=time.time())._asdict())])

    def log(self, array: Array, line: int) -> Path:
        """Where a line of an array writes what it prints."""
        if array.job is None:
            return self.path / "logs" / f"local_{array.stage}_{line}.log"
        return self.path / "logs" / f"{array.job}_{line - array.offset}.log"


def sweeps_dir(runs_dir: Path) -> Path:
    """Where the sweeps of a directory of runs are."""
    return runs_dir.absolute() / "_sweeps"


def next_folder(runs_dir: Path, name: str) -> Folder:
    """The folder that `make_folder` would make."""
    parent = sweeps_dir(runs_dir)
    number = max((number for other, number in _split(parent) if other == name), default=0) + 1
    return Folder(parent / f"{name}-{number}")


def make_folder(runs_dir: Path, name: str) -> Folder:
    """A new folder, under the next free number of the name."""
    parent = sweeps_dir(runs_dir)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            folder = next_folder(runs_dir, name)
            with contextlib.suppress(FileExistsError):  # another has just taken that number
                folder.path.mkdir()
                (folder.path / "logs").mkdir()
                return folder
    except OSError as error:
        raise SlurmError(
            f"--runs-dir {runs_dir}: {parent} cannot be written ({error.strerror}); name another directory"
        ) from error


def find_folder(runs_dir: Path, name: str) -> Folder:
    """The folder of a sweep by its name, by its name without the number (the last one), or by its path."""
    parent = sweeps_dir(runs_dir)
    numbers = [number for other, number in _split(parent) if other == name]
    for path in (parent / name, Path(name), *(parent / f"{name}-{max(numbers)}" for _ in numbers[:1])):
        if (path / "manifest.jsonl").is_file():
            return Folder(path.absolute())
    there = ", ".join(folder.name for folder in all_folders(runs_dir)) or "none"
    raise SlurmError(f"{name}: no such sweep in {parent}; there is {there}")


def all_folders(runs_dir: Path) -> list[Folder]:
    """Every sweep, the oldest first."""
    found = [path.parent for path in sweeps_dir(runs_dir).glob("*/manifest.jsonl")]
    return [Folder(path) for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def _split(parent: Path) -> list[tuple[str, int]]:
    """(name, number) of every sweep."""
    parts = (path.name.rpartition("-") for path in parent.glob("*-*"))
    return [(name, int(number)) for name, _, number in parts if number.isdigit()]


def find_run(runs_dir: Path, run: int) -> tuple[Folder, int, int]:
    """(folder, stage, line) of a run of a sweep. The last sweep that submitted it comes first."""
    for folder in reversed(all_folders(runs_dir)):
        submitted = {(array.stage, line) for array in folder.arrays() for line in array.lines}
        for stage, entries in enumerate(folder.stages()):
            for line, entry in enumerate(entries):
                if entry.run == run and (stage, line) in submitted:
                    return folder, stage, line
    raise SlurmError(f"run {run}: no sweep in {sweeps_dir(runs_dir)} has submitted it; `status` shows what there is")
