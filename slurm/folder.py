"""The folder of a submitted sweep, `<runs_dir>/_sweeps/<name>-<n>/`. Its files hold all information about the sweep.

    sweep.yaml          the sweep file at submission
    manifest.jsonl      the runs; later stages have manifest-1.jsonl, ..., with the same configuration in each line
    settings.json       all settings of every configuration, see `identity`
    submission.json     what jobs need from the submission: {"token", "root", "python_path"}
    jobs.jsonl          the submitted arrays and local work, one per line
    profile.json        the profile, which `retry` uses again
    environment.sh      the shell lines of the profile
    code/               the code at submission
    overrides/, logs/   settings and output of each run
    *.lock              the process that submits the sweep or runs it on this machine, see `guard`

A folder is written under a hidden name and renamed when it is complete. Hidden folders are no sweeps.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.files import append_lines, whole_lines, write_json
from slurm import guard
from slurm.errors import SlurmError
from slurm.manifest import Entry, read_manifest

_NUMBERED = re.compile(r"(.+)-([1-9][0-9]{0,8})", re.DOTALL | re.ASCII)
_HIDDEN = ".partial"
_SETTLE_SECONDS = 60.0
"""Seconds in which a process that has made a hidden folder takes its lock."""


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


class Submission(NamedTuple):
    """Facts of a submission that its jobs and later commands need.

    Attributes:
        token: A text that no other sweep has. The names of its jobs contain it, so that the queue shows whose they are.
        root: Root directory of the checkout that was submitted.
        python_path: Absolute directories of PYTHONPATH at the submission, without those of the checkout.
    """

    token: str
    root: str
    python_path: Sequence[str]


class Folder(NamedTuple):
    """The folder of a sweep.

    Attributes:
        path: Absolute path.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of the sweep, with its number."""
        return self.path.name

    @property
    def runs_dir(self) -> Path:
        """Directory of runs that the sweep writes to."""
        return self.path.parent.parent

    @property
    def code(self) -> Path:
        """Path of the copy of the code."""
        return self.path / "code"

    @property
    def profile(self) -> Path:
        """Path of the profile of the submission."""
        return self.path / "profile.json"

    @property
    def submitting(self) -> Path:
        """Lock of the process that submits arrays of the sweep."""
        return self.path / "submit.lock"

    @property
    def working(self) -> Path:
        """Lock of the process that runs the sweep on this machine."""
        return self.path / "local.lock"

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

    def submission(self) -> Submission:
        """Returns the facts of the submission; nothing in each for a folder without them, or with a damaged file."""
        values = read_object(self.path / "submission.json") or {}
        token, root, path = (values.get(name) for name in Submission._fields)
        if isinstance(token, str) and isinstance(root, str) and isinstance(path, list):
            return Submission(token, root, [part for part in path if isinstance(part, str)])
        return Submission("", "", ())

    def arrays(self) -> list[Array]:
        """Returns the submitted arrays and local work, in the order of submission, without damaged lines."""
        return [array for line in whole_lines(self.path / "jobs.jsonl") if (array := _parse(line)) is not None]

    def damage(self) -> list[str]:
        """Returns a description of each damaged line of jobs.jsonl."""
        path = self.path / "jobs.jsonl"
        return [
            f"{path}: line {number} is damaged and not used; jobs in the queue are found by their names instead"
            for number, line in enumerate(whole_lines(path), start=1)
            if _parse(line) is None
        ]

    def add(self, array: Array) -> None:
        """Records that an array was submitted."""
        append_lines(self.path / "jobs.jsonl", [json.dumps(array._replace(time=time.time())._asdict())])

    def log(self, array: Array, line: int) -> Path:
        """Returns the log file of a line of an array."""
        if array.job is None:
            return self.path / "logs" / f"local_{array.stage}_{line}.log"
        return self.path / "logs" / f"{array.job}_{line - array.offset}.log"


def _parse(line: str) -> Array | None:
    """Returns the array of a line of jobs.jsonl; None if the line is damaged."""
    try:
        values = json.loads(line)
        array = Array(**values)
        numbers = [values["stage"], values["offset"], *values["indices"]]
    except (ValueError, TypeError, KeyError):
        return None
    is_whole = all(type(number) is int and number >= 0 for number in numbers)
    return array if is_whole and isinstance(values.get("job"), (str, type(None))) else None


def read_object(path: Path) -> dict[str, Any] | None:
    """Returns the JSON object in a file; None if there is no file, or it is damaged."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def sweeps_dir(runs_dir: Path) -> Path:
    """Returns the directory with the sweeps of a directory of runs."""
    return runs_dir.absolute() / "_sweeps"


def next_folder(parent: Path, name: str) -> Folder:
    """Returns the folder that `publish` would make in a directory such as `sweeps_dir`."""
    number = max((number for other, number in _split(parent) if other == name), default=0) + 1
    return Folder(parent / f"{name}-{number}")


@contextlib.contextmanager
def new_folder(parent: Path, submission: Submission) -> Iterator[tuple[Folder, int]]:
    """Makes a hidden folder for the files of a sweep and yields it with the descriptor of its lock, which it holds.

    `publish` makes the folder a sweep. If that is not done, the folder is deleted at the end.

    Args:
        parent: The directory, such as `sweeps_dir`.
        submission: Facts of the submission.

    Raises:
        SlurmError: The directory cannot be written.
    """
    made = [directory for directory in (parent, *parent.parents) if not directory.exists()]
    folder = Folder(parent / f".{uuid.uuid4().hex}{_HIDDEN}")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _delete_abandoned(parent)
        (folder.path / "logs").mkdir(parents=True)
    except OSError as error:
        raise SlurmError(
            f"--runs-dir {parent.parent}: cannot write {parent} ({error.strerror}); choose another directory"
        ) from error
    try:
        with guard.hold(folder.submitting, "submits it") as lock:
            write_json(folder.path / "submission.json", submission._asdict())
            yield folder, lock
    finally:
        if folder.path.exists():
            shutil.rmtree(folder.path)
            for directory in made:
                with contextlib.suppress(OSError):  # it is in use
                    directory.rmdir()


def publish(folder: Folder, name: str) -> Folder:
    """Renames a hidden folder to the next free number of a name, which makes it a sweep. Returns the folder."""
    while True:
        target = next_folder(folder.path.parent, name)
        try:
            folder.path.rename(target.path)
        except OSError:
            if not target.path.exists():
                raise
            continue  # another process has made this folder
        return target


def _delete_abandoned(parent: Path) -> None:
    """Deletes the hidden folders of submissions that were killed."""
    for path in parent.glob(f".*{_HIDDEN}"):
        lock = Folder(path).submitting
        is_new = not lock.exists() and time.time() - path.stat().st_mtime < _SETTLE_SECONDS
        if not is_new and guard.holder(lock) is None:
            shutil.rmtree(path, ignore_errors=True)


def find_folder(runs_dir: Path, name: str) -> Folder:
    """Returns the folder of a sweep.

    Args:
        runs_dir: Directory of runs.
        name: Name of the folder; the name without its number, for the last number; or a path.

    Raises:
        SlurmError: There is no such sweep.
    """
    parent = sweeps_dir(runs_dir)
    path = find_in(parent, name, "manifest.jsonl")
    if path is not None:
        return Folder(path)
    there = ", ".join(folder.name for folder in all_folders(runs_dir)) or "none"
    raise SlurmError(f"{name}: no such sweep in {parent}; there is {there}")


def find_in(parent: Path, name: str, file: str) -> Path | None:
    """Returns the path of a folder by its name, its name without the number, or a path; None if none has `file`."""
    numbers = [number for other, number in _split(parent) if other == name]
    for path in (parent / name, Path(name), *(parent / f"{name}-{max(numbers)}" for _ in numbers[:1])):
        if (path / file).is_file():
            return path.absolute()
    return None


def all_folders(runs_dir: Path) -> list[Folder]:
    """Returns the folders of all sweeps, the oldest first."""
    found = [path for path in sweeps_dir(runs_dir).glob("*/manifest.jsonl") if not path.parent.name.startswith(".")]
    return [Folder(path.parent) for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def _split(parent: Path) -> list[tuple[str, int]]:
    """Returns the (name, number) of every sweep."""
    parts = (_NUMBERED.fullmatch(path.name) for path in parent.glob("*-*"))
    return [(part[1], int(part[2])) for part in parts if part is not None]


def find_run(runs_dir: Path, run: int) -> tuple[Folder, int, int]:
    """Returns (folder, stage, line) of a run, in the last sweep that submitted it. Raises SlurmError if none did."""
    damaged: list[str] = []
    for folder in reversed(all_folders(runs_dir)):
        submitted = {(array.stage, line) for array in folder.arrays() for line in array.lines}
        try:
            stages = folder.stages()
        except SlurmError as error:
            damaged.append(str(error))
            continue
        for stage, entries in enumerate(stages):
            for line, entry in enumerate(entries):
                if entry.run == run and (stage, line) in submitted:
                    return folder, stage, line
    raise SlurmError("\n".join(
        [f"run {run}: no sweep in {sweeps_dir(runs_dir)} has submitted it; `status` lists sweeps and runs", *damaged]
    ))  # fmt: skip


def write_settings(
    folder: Folder, name: str, settings: Sequence[Mapping[str, Any]], given: Sequence[Sequence[str]]
) -> None:
    """Writes the settings of every line of the first manifest.

    Args:
        folder: Folder of the sweep.
        name: Name of the experiment.
        settings: All settings of each line, as nested plain values.
        given: Dotted keys of each line whose value is not the default.
    """
    write_json(folder.path / "settings.json", {"name": name, "settings": list(settings), "given": list(given)})


def read_settings(folder: Folder) -> tuple[str | None, list[tuple[Mapping[str, Any], Sequence[str]]]]:
    """Returns what `write_settings` wrote: the name, and (settings, given) of each line; nothing if it is damaged."""
    stored = read_object(folder.path / "settings.json") or {}
    try:
        return stored["name"], list(zip(stored["settings"], stored["given"], strict=True))
    except (KeyError, TypeError, ValueError):
        return None, []
