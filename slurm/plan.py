"""From a checked sweep to a folder: the runs to start, and the files that their jobs read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from research.files import claim_numbers, release_numbers
from slurm.arrays import can_follow
from slurm.errors import SlurmError
from slurm.folder import Folder, write_settings
from slurm.known import Past
from slurm.manifest import Entry, write_manifest
from slurm.profile import Profile, write_profile
from slurm.scheduler import Task
from slurm.sweep import Sweep

if TYPE_CHECKING:
    from slurm.checking import Checked


class Plan(NamedTuple):
    """A checked sweep.

    Attributes:
        path: The sweep file.
        sweep: Its contents.
        checked: The checked configurations.
        known: Runs that exist already, by `_key`.
    """

    path: Path
    sweep: Sweep
    checked: Checked
    known: Mapping[str, Past]

    def past(self) -> list[list[Past | None]]:
        """Returns the run that exists already, if any, for each stage by line."""
        first = [self.known.get(_key("ensure", row.identity.hash)) for row in self.checked.configurations]
        later = [
            [of and self.known.get(_key(stage.command, {**stage.fixed, "run": of.run})) for of in first]
            for stage in self.sweep.then
        ]
        return [first, *later]

    def runs(self, kind: str) -> list[int]:
        """Returns the ids of the runs of the sweep that exist already and are of a kind."""
        return sorted({past.run for row in self.past() for past in row if past is not None and past.kind == kind})

    def missing(self) -> int:
        """Returns the number of runs that need a new id."""
        return sum(past is None for row in self.past() for past in row)

    def new(self) -> list[list[int]]:
        """Returns the lines of each stage that have no run yet, or one that was never started."""
        return [[line for line, past in enumerate(row) if past is None or past.kind == "unstarted"]
                for row in self.past()]  # fmt: skip

    def queued(self) -> dict[int, Task]:
        """Returns the tasks in the queue of runs of other submissions, by line of the first stage."""
        return {line: past.task for line, past in enumerate(self.past()[0]) if past is not None and past.task}

    def lines(self, size: int | None) -> list[list[int]]:
        """Returns the new lines of each stage without those that depend on a run of another submission and cannot wait.

        Args:
            size: Slurm's MaxArraySize; None for local work.
        """
        first, *later = self.new()
        live = {line for line, past in enumerate(self.past()[0]) if past is not None and past.kind == "live"}
        waiting = live.difference(can_follow(live, size, self.queued()))
        return [first, *([line for line in own if line not in waiting] for own in later)]

    def stages(self, ids: Sequence[int]) -> list[list[Entry]]:
        """Returns the runs of each stage by line; `ids` are those of the runs that have none yet."""
        left: Iterator[int] = iter(ids)
        runs = [[past.run if past is not None else next(left) for past in row] for row in self.past()]
        rows = zip(self.checked.configurations, runs[0], strict=True)
        named, script = list(self.sweep.named_configs), self.checked.script
        stages = [[Entry(run, row.hash, row.seed, script, "ensure", named, row.overrides) for row, run in rows]]
        for stage, own in zip(self.sweep.then, runs[1:], strict=True):
            stages.append([Entry(run, of.hash, of.seed, script, stage.command, [], {**stage.fixed, "run": of.run})
                           for of, run in zip(stages[0], own, strict=True)])  # fmt: skip
        return stages


def make_plan(path: Path, sweep: Sweep, checked: Checked, pasts: Sequence[Past]) -> Plan:
    """Returns the plan of a sweep.

    Args:
        path: The sweep file.
        sweep: Its contents.
        checked: The checked configurations; their `past` belongs to `pasts`.
        pasts: Runs that exist already. Later ones have precedence.
    """
    known: dict[str, Past] = {}
    for past, hash_ in zip(pasts, checked.past, strict=True):
        if past.command in ("evaluate", "render"):
            known[_key(past.command, dict(past.overrides))] = past
        elif hash_ is not None:
            known[_key("ensure", hash_)] = past
    return Plan(path, sweep, checked, known)


def _key(command: str, of: object) -> str:
    """Returns a key for a command and what it is done with: the hash of settings, or its overrides."""
    return json.dumps([command, of], sort_keys=True)


def fill_folder(plan: Plan, folder: Folder, profile: Profile) -> None:
    """Claims run ids and writes the files that the jobs of a plan read.

    Args:
        plan: The checked sweep.
        folder: A hidden folder.
        profile: Profile of the site.

    Raises:
        SlurmError: The ids cannot be claimed.
    """
    shutil.copyfile(plan.path, folder.path / "sweep.yaml")
    write_profile(folder.path, profile)
    identities = [row.identity for row in plan.checked.configurations]
    settings, given = [row.settings for row in identities], [row.given for row in identities]
    write_settings(folder, plan.checked.name, settings, given)
    try:
        ids = claim_numbers(folder.runs_dir, plan.missing())
    except OSError as error:
        raise SlurmError(f"--runs-dir {folder.runs_dir}: cannot be written ({error.strerror})") from error
    try:
        for stage, entries in enumerate(plan.stages(ids)):
            write_manifest(folder.manifest(stage), entries)
    except OSError:
        release_numbers(folder.runs_dir, ids)
        raise
