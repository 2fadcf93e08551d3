"""The folder of a study, `<runs_dir>/_searches/<name>-<n>/`. Its files hold all information about the search.

    search.yaml         the search file; its budget may grow
    search.json         what is known of the experiment: {"script", "name", "length"}
    study.jsonl         the trials, see `study`; study.lock excludes other writers
    workers/<token>/    the lock of each worker that is alive, see `worker`
    overrides/, logs/   settings and output of each run; the logs of the workers
    submission.json, jobs.jsonl, profile.json, environment.sh, code/, *.lock: as in the folder of a sweep

A worker is to a study what a run is to a sweep: the tasks of its arrays, and its local processes, are workers.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from research.files import write_json, write_text
from slurm.errors import SlurmError
from slurm.folder import Folder, find_in, read_object
from slurm.search.file import SearchFile, load_search
from slurm.states import is_alive

SEARCH = "search.yaml"


class Facts(NamedTuple):
    """The script and the name of an experiment, and the length of a trial.

    Attributes:
        script: Path of the script below the root directory of the code.
        name: Name of the experiment.
        length: Iterations of a whole trial.
    """

    script: str
    name: str
    length: int


class StudyFolder(Folder):
    """The folder of a study. A worker is to it what a run is to the folder of a sweep."""

    __slots__ = ()

    @property
    def journal(self) -> Path:
        """Path of the journal of trials."""
        return self.path / "study.jsonl"

    def manifest(self, stage: int) -> Path:
        """Returns the path that the tasks of an array are given: that of the search file."""
        return self.path / SEARCH

    def file(self) -> SearchFile:
        """Returns the search. Raises SlurmError if the file is damaged."""
        return load_search(self.path / SEARCH)

    def facts(self) -> Facts:
        """Returns what is known of the experiment. Raises SlurmError if the file is damaged."""
        stored = read_object(self.path / "search.json") or {}
        try:
            return Facts(str(stored["script"]), str(stored["name"]), int(stored["length"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SlurmError(f"{self.path / 'search.json'}: missing or damaged; restore it from a copy") from error

    def write(self, path: Path, facts: Facts) -> None:
        """Writes the search file, a copy of another one, and what is known of the experiment."""
        write_text(self.path / SEARCH, path.read_text(encoding="utf-8-sig"))
        write_json(self.path / "search.json", facts._asdict())


def searches_dir(runs_dir: Path) -> Path:
    """Returns the directory with the studies of a directory of runs."""
    return runs_dir.absolute() / "_searches"


def find_study(runs_dir: Path, name: str) -> StudyFolder | None:
    """Returns the folder of a study by its name, its name without the number, or a path; None if there is none."""
    path = find_in(searches_dir(runs_dir), name, SEARCH)
    return None if path is None else StudyFolder(path)


def all_studies(runs_dir: Path) -> list[StudyFolder]:
    """Returns the folders of all studies, the oldest first."""
    found = [path for path in searches_dir(runs_dir).glob(f"*/{SEARCH}") if not path.parent.name.startswith(".")]
    return [StudyFolder(path.parent) for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def workers_dir(folder: StudyFolder) -> Path:
    """Returns the directory with the locks of the workers of a study."""
    return folder.path / "workers"


def alive(folder: StudyFolder) -> int:
    """Returns the number of workers that are alive."""
    return sum(map(is_alive, workers_dir(folder).glob("*")))
