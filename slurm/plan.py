"""From a sweep file to a folder: the runs to start, and the files that their jobs read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from research.files import claim_numbers
from slurm.checking import Checked, check, config_hash
from slurm.errors import SlurmError
from slurm.folder import Folder, make_folder
from slurm.manifest import Entry, write_manifest
from slurm.profile import Profile, write_profile
from slurm.snapshot import take_snapshot
from slurm.sweep import Stage, Sweep, load_sweep
from slurm.task import ROOT


class Plan(NamedTuple):
    """A checked sweep.

    Attributes:
        path: The sweep file.
        sweep: Its contents.
        checked: The checked configurations.
        completed: Ids of completed runs by configuration hash. They are not repeated.
        live: Ids of runs that wait or run, by configuration hash. They are not repeated.
    """

    path: Path
    sweep: Sweep
    checked: Checked
    completed: Mapping[str, int]
    live: Mapping[str, int]

    @property
    def known(self) -> dict[str, int]:
        """The ids of completed and live runs by hash."""
        return {**self.completed, **self.live}

    def hashes(self) -> list[list[str]]:
        """Returns the configuration hash of every run, for each stage by line."""
        trained = [configuration.hash for configuration in self.checked.configurations]
        return [trained, *([stage_hash(self.checked.name, stage, of) for of in trained] for stage in self.sweep.then)]

    def new(self) -> list[list[int]]:
        """Returns the lines of each stage that have no run yet."""
        known = self.known
        return [[line for line, hash_ in enumerate(hashes) if hash_ not in known] for hashes in self.hashes()]

    def lines(self) -> list[list[int]]:
        """Returns the new lines of each stage that do not depend on an unfinished run of another sweep."""
        first, *later = self.new()
        waiting = {line for line, hash_ in enumerate(self.hashes()[0]) if hash_ in self.live}
        return [first, *([line for line in own if line not in waiting] for own in later)]

    def stages(self, new: Sequence[int]) -> list[list[Entry]]:
        """Returns the runs of each stage by line; `new` are the ids of the runs that have none yet."""
        ids, known = iter(new), self.known
        runs = [[known[hash_] if hash_ in known else next(ids) for hash_ in hashes] for hashes in self.hashes()]
        rows = zip(self.checked.configurations, runs[0], strict=True)
        named, script = self.sweep.named_configs, self.checked.script
        stages = [[Entry(run, row.hash, row.seed, script, "ensure", named, row.overrides) for row, run in rows]]
        for stage, hashes, own in zip(self.sweep.then, self.hashes()[1:], runs[1:], strict=True):
            pairs = zip(stages[0], hashes, own, strict=True)
            stages.append([Entry(run, hash_, of.seed, script, stage.command, (), {**stage.fixed, "run": of.run})
                           for of, hash_, run in pairs])  # fmt: skip
        return stages


def make_plan(path: Path, completed: Mapping[str, int], live: Mapping[str, int], root: Path = ROOT) -> Plan:
    """Reads and checks a sweep file; writes nothing.

    Args:
        path: The sweep file.
        completed: Ids of completed runs by configuration hash.
        live: Ids of runs that wait or run, by configuration hash.
        root: Root directory of the code.

    Raises:
        SlurmError: The file or a configuration is invalid.
    """
    sweep = load_sweep(path)
    return Plan(path, sweep, check(sweep, path, root), completed, live)


def stage_hash(name: str, stage: Stage, of: str) -> str:
    """Returns the configuration hash of a stage that follows the run with the hash `of`."""
    return config_hash(f"{name} {stage.command}", {**stage.fixed, " of": of})


def write_folder(plan: Plan, runs_dir: Path, profile: Profile, snapshot: bool, root: Path = ROOT) -> Folder:
    """Claims run ids and writes the files that the jobs of a plan read.

    Args:
        plan: The checked sweep.
        runs_dir: Directory of runs.
        profile: Profile of the site.
        snapshot: Whether to copy the code.
        root: Root directory of the code.

    Raises:
        SlurmError: The folder or the copy of the code cannot be written.
    """
    folder = make_folder(runs_dir, plan.path.stem)
    try:
        if snapshot:
            take_snapshot(root, folder.code)
        count = sum(map(len, plan.new()))
        shutil.copyfile(plan.path, folder.path / "sweep.yaml")
        write_profile(folder.path, profile)
        # A folder with the manifest of the first stage counts as a sweep, so this manifest is written last.
        for stage, entries in reversed([*enumerate(plan.stages(claim_numbers(folder.runs_dir, count)))]):
            write_manifest(folder.manifest(stage), entries)
    except SlurmError:
        shutil.rmtree(folder.path)
        raise
    return folder
