"""Opens the study of a folder, whatever its method."""

from __future__ import annotations

from typing import Any

from research.tracking.settings_file import nested
from slurm.search.file import SearchFile
from slurm.search.folder import StudyFolder
from slurm.search.population_study import PopulationStudy
from slurm.search.study import OptunaStudy
from slurm.search.trials import Study
from slurm.task import ROOT


def open_study(folder: StudyFolder) -> Study:
    """Returns the study in a folder. Raises SlurmError if a file of it is damaged."""
    file, facts = folder.file(), folder.facts()
    where = folder.journal, file, facts.length, folder.runs_dir
    if file.method.name == "pbt":
        return PopulationStudy(*where, lambda: _config_class(file, facts.script))
    return OptunaStudy(*where)


def create_study(folder: StudyFolder) -> None:
    """Writes the files of a study without trials."""
    file = folder.file()
    kind = PopulationStudy if file.method.name == "pbt" else OptunaStudy
    kind.create(folder.journal, file)


def _config_class(file: SearchFile, script: str) -> Any:
    """Returns the Config class of the algorithm that a search trains."""
    from slurm.checking import load_experiment  # torch takes seconds to import

    settings = load_experiment(ROOT / script).settings
    return settings.class_of(settings.given(nested(file.fixed), file.named_configs))
