"""Opens the study of a folder, whatever its method."""

from __future__ import annotations

from slurm.search.folder import StudyFolder
from slurm.search.study import OptunaStudy
from slurm.search.trials import Study


def open_study(folder: StudyFolder) -> Study:
    """Returns the study in a folder. Raises SlurmError if a file of it is damaged."""
    return OptunaStudy(folder.journal, folder.file(), folder.facts().length, folder.runs_dir)


def create_study(folder: StudyFolder) -> None:
    """Writes the files of a study without trials."""
    OptunaStudy.create(folder.journal, folder.file())
