"""The folder of a submitted sweep, `<runs_dir>/_sweeps/<name>-<n>/`. Its files hold all information about the sweep.

    sweep.yaml          the sweep file at submission
    manifest.jsonl      the runs; later stages have manifest-1.jsonl, ..., with the same configuration in each line
    jobs.jsonl          the submitted arrays and local work, one per line
    profile.json        the profile, which `retry` uses again
    environment.sh      the shell lines of the profile
    code/               the code at submission
    overrides/, logs/   settings and output of each run

The first manifest is written last. A folder without it is not a sweep.
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
        stage: Stage of the sweep, from 0.
        offset: Line of the manifest at index 0.
        indices: Indices of the tasks.
        job: Job id of the array; None for local work.
        host: Host name of local work; None for an array.
        time: Time of submission, in seconds since the epoch.
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
        path: Absolute path.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of the sweep, with its number."""
        """The name of the sweep."""
        return self.path.name

    @property
    def runs_dir(self) -> Path:
        """Directory of runs that the sweep writes to."""
        """The directory of runs that the sweep writes to."""
        return self.path.parent.parent

    @property
    def code(self) -> Path:
        """Path of the copy of the code."""
        """The path of the copy of the code."""
        return self.path / "code"

    @property
    def profile(self) -> Path:
        """Path of the profile of the submission."""
        """The path of the profile that the sweep was submitted with."""
        return self.path / "profile.json"

    def code_or(self, root: Path) -> Path:
        """Returns the copy of the code, or `root` if there is none."""
        return self.code if self.code.is_dir() else root

    def manifest(self, stage: int) -> Path:
        """Returns the path of a stage's manifest."""
        return self.path / (f"manifest-{stage}.jsonl" if stage else "manifest.jsonl")

    def stages(self) -> list[list[Entry]]:
        """Returns the runs of each stage, by line. Raises SlurmError if a manifest is damaged."""
        count = 1 + len(list(self.path.glob("manifest-*.jsonl")))
        return [read_manifest(self.manifest(stage)) for stage in range(count)]

    def arrays(self) -> list[Array]:
        """Returns the submitted arrays and local work, in the order of submission."""
        return [Array(**json.loads(line)) for line in whole_lines(self.path / "jobs.jsonl")]

    def add(self, array: Array) -> None:
        """Records that an array was submitted."""
        append_lines(self.path / "jobs.jsonl", [json.dumps(array._replace(time=time.time())._asdict())])

    def log(self, array: Array, line: int) -> Path:
        """Returns the log file of a line of an array."""
        if array.job is None:
            return self.path / "logs" / f"local_{array.stage}_{line}.log"
        return self.path / "logs" / f"{array.job}_{line - array.offset}.log"


def sweeps_dir(runs_dir: Path) -> Path:
    """Returns the directory with the sweeps of a directory of runs."""
    return runs_dir.absolute() / "_sweeps"


def next_folder(runs_dir: Path, name: str) -> Folder:
    """Returns the folder that `make_folder` would make."""
    parent = sweeps_dir(runs_dir)
    number = max((number for other, number in _split(parent) if other == name), default=0) + 1
    return Folder(parent / f"{name}-{number}")


def make_folder(runs_dir: Path, name: str) -> Folder:
    """Makes a folder with the next free number of the name. Raises SlurmError if the directory cannot be written."""
    parent = sweeps_dir(runs_dir)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            folder = next_folder(runs_dir, name)
            with contextlib.suppress(FileExistsError):  # another process has made this folder
                folder.path.mkdir()
                (folder.path / "logs").mkdir()
                return folder
    except OSError as error:
        raise SlurmError(
            f"--runs-dir {runs_dir}: cannot write {parent} ({error.strerror}); choose another directory"
        ) from error


def find_folder(runs_dir: Path, name: str) -> Folder:
    """Returns the folder of a sweep.

    Args:
        runs_dir: Directory of runs.
        name: Name of the folder; the name without its number, for the last number; or a path.

    Raises:
        SlurmError: There is no such sweep.
    """
    parent = sweeps_dir(runs_dir)
    numbers = [number for other, number in _split(parent) if other == name]
    for path in (parent / name, Path(name), *(parent / f"{name}-{max(numbers)}" for _ in numbers[:1])):
        if (path / "manifest.jsonl").is_file():
            return Folder(path.absolute())
    there = ", ".join(folder.name for folder in all_folders(runs_dir)) or "none"
    raise SlurmError(f"{name}: no such sweep in {parent}; there is {there}")


def all_folders(runs_dir: Path) -> list[Folder]:
    """Returns the folders of all sweeps, the oldest first."""
    found = [path.parent for path in sweeps_dir(runs_dir).glob("*/manifest.jsonl")]
    return [Folder(path) for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def _split(parent: Path) -> list[tuple[str, int]]:
    """Returns the (name, number) of every sweep."""
    parts = (path.name.rpartition("-") for path in parent.glob("*-*"))
    return [(name, int(number)) for name, _, number in parts if number.isdigit()]


def find_run(runs_dir: Path, run: int) -> tuple[Folder, int, int]:
    """Returns (folder, stage, line) of a run, in the last sweep that submitted it. Raises SlurmError if none did."""
    for folder in reversed(all_folders(runs_dir)):
        submitted = {(array.stage, line) for array in folder.arrays() for line in array.lines}
        for stage, entries in enumerate(folder.stages()):
            for line, entry in enumerate(entries):
                if entry.run == run and (stage, line) in submitted:
                    return folder, stage, line
    raise SlurmError(f"run {run}: no sweep in {sweeps_dir(runs_dir)} has submitted it; `status` lists sweeps and runs")
