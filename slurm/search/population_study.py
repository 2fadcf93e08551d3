"""A study of the method `pbt`: its trials are the members of a population, which train in slices of a generation.

    study.jsonl             the journal, see `research.population.study`
    ends/<g>/<member>.pt    the checkpoint of each member at the end of generation g, kept until the next one has ended
    adopt/<run>.json        what a run adopts at the start of its slice, see `research.tracking.adopting`

A worker that is free takes a slice of this generation: one whose worker has ended, or a free one. Once all have
finished, whoever asks next decides how each member goes on. A member has one run for all of its slices; if it copies
another member, its run goes on with that state and with other settings, and its record says so (lineage.json, `resumed`
in run.json).
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from research.files import claim_number, write_json
from research.population.study import (
    Decision,
    Entry,
    Progress,
    Slice,
    claimed,
    finished,
    next_slice,
    progress_of,
    released,
    replaced,
    without_changes,
)
from slurm.changes import Changes, changes_of, named
from slurm.errors import SlurmError
from slurm.search.file import SearchFile
from slurm.search.journal import Journal
from slurm.search.objective import NoValueError, value_of
from slurm.search.space import Range, Space, Spec, draws, run_seed
from slurm.search.trials import MOST_KILLS, REFUSED, Done, IsAlive, Job, Outcome, Trial, Wait

if TYPE_CHECKING:
    from research.population.exploration import Setting


class PopulationStudy:
    """The members of a population, which several processes share.

    Args:
        path: The journal.
        file: The search.
        length: Iterations of a whole training.
        runs_dir: Directory of runs.
        find_config: Function that returns the Config class of the algorithm, which takes seconds; called once for each
            study.
    """

    def __init__(self, path: Path, file: SearchFile, length: int, runs_dir: Path, find_config: Callable[[], Any]):
        self.path, self.file, self.length, self.runs_dir = path, file, length, runs_dir
        self.config, self._find_config = file.method.settings, find_config
        self.journal = Journal(path)

    @staticmethod
    def create(path: Path, file: SearchFile) -> None:
        """Writes an empty journal: the first worker that asks for a slice draws the members."""
        path.touch()

    def trials(self) -> list[Trial]:
        """Returns the members, in order."""
        progress = self._progress()
        return [self._trial(progress, member) for member in range(len(progress.settings))]

    def problem(self) -> str:
        """Returns why the search cannot go on: all members have failed, or no record has the objective; else empty."""
        progress = self._progress()
        notes = [entry["note"] for entry in self._entries() if entry.get("failed")]
        if notes and notes[0].startswith("objective.") and not progress.values and not progress.past:
            return f"{notes[0]}. Correct the objective; the file is then another search"
        if not progress.settings or progress.living:
            return ""
        return f"all {len(progress.settings)} members have failed, the first one: {notes[0]}"

    def lineage(self) -> list[Entry]:
        """Returns the values and decisions at the end of each generation, in order."""
        return self._progress().past

    def take(self, worker: str, is_alive: IsAlive) -> Job | Wait | Done:
        """Returns the next slice, which now belongs to the worker. Raises SlurmError if the search cannot go on."""
        with self.journal.transaction():
            progress = self._progress()
            if not progress.settings:
                self._start()
            elif progress.is_finished and not progress.is_done and not self._is_used_up():
                self._decide(progress)
            progress = self._progress()
            if problem := self.problem():
                raise SlurmError(f"{self.path.parent.name}: {problem}")
            is_over = progress.is_done or self._is_used_up()
            slice_ = None if progress.is_done else next_slice(progress, worker, is_alive)
            if slice_ is not None and (not is_over or slice_.member in progress.owners):
                self._append(claimed(slice_, worker))
                return self._job(slice_)
            return Wait() if progress.owners and not progress.is_done else Done()

    def tell(self, worker: str, job: Job, outcome: Outcome) -> None:
        """Records the end of a slice. Does nothing if it belongs to another worker now."""
        with self.journal.transaction():
            progress = self._progress()
            if progress.owners.get(job.trial) != worker or job.until != progress.until:
                return
            slice_ = progress.slice_of(job.trial)
            facts = {"seconds": outcome.seconds, "note": outcome.note}
            if outcome.stopped:
                self._append(released(slice_, worker) | facts | {"stopped": True})
            elif outcome.status < 0 and self._kills(slice_) + 1 < MOST_KILLS:
                self._append(released(slice_, worker) | facts)
            elif outcome.status == REFUSED and (kept := without_changes(progress, slice_, f"refused: {outcome.note}")):
                self._append(replaced(slice_, worker, kept) | facts | {"note": ""})
            elif outcome.status != 0:
                self._append(finished(slice_, worker, math.nan, failed=True) | facts)
            else:
                self._append(facts | self._ended(slice_, worker, job))

    def _kills(self, slice_: Slice) -> int:
        """Returns how often the training of a slice was killed."""
        own = {"generation": slice_.generation, "member": slice_.member}
        return sum(_is_kill(entry) and own.items() <= entry.items() for entry in self._entries())

    def _ended(self, slice_: Slice, worker: str, job: Job) -> Entry:
        """Returns the entry for a trained slice: without a finite value it loses, without any it has failed."""
        objective = self.file.objective
        try:
            value = value_of(objective, self.runs_dir / str(job.run), job.until, slice_.start)
        except (NoValueError, OSError, ValueError) as error:
            return finished(slice_, worker, math.nan, failed=True) | {"note": str(error)}
        self._keep_end(slice_, job.run)
        note = "" if math.isfinite(value) else f"{objective.metric} is not finite at iteration {job.until}"
        return finished(slice_, worker, objective.sign * value) | {"note": note}

    def _keep_end(self, slice_: Slice, run: int) -> None:
        """Keeps the checkpoint at the end of a slice; the run replaces the file later, and does not write into it."""
        end = self._end(slice_.generation, slice_.member)
        end.parent.mkdir(parents=True, exist_ok=True)
        end.unlink(missing_ok=True)
        latest = self.runs_dir / str(run) / "checkpoints" / "latest.pt"
        try:
            os.link(latest, end)
        except OSError:  # a file system without hard links
            shutil.copy(latest, end)

    def _start(self) -> None:
        """Draws the members and claims the numbers of their runs."""
        space, changes = self.file.space, changes_of(self._find_config())
        refuse_constant(changes, space)
        members = range(self.config.members)
        settings = [draws(space, self.file.seed, member) | self.file.initial for member in members]
        runs = [claim_number(self.runs_dir) for _ in members]
        own = {"runs": runs, "growing": named(space, changes.growing), "deepening": named(space, changes.deepening),
               "interval": self.config.interval}  # fmt: skip
        self._append({"kind": "started", "settings": settings} | own)

    def _decide(self, progress: Progress) -> None:
        from research.population.generations import decided  # imports torch, which takes seconds

        growing, deepening = self._started["growing"], self._started["deepening"]
        space = {key: setting_of(key, spec, key in growing, key in deepening) for key, spec in self.file.space.items()}
        self._append(decided(progress, space, self.file.seed))
        shutil.rmtree(self._end(progress.generation - 1, 0).parent, ignore_errors=True)

    def _job(self, slice_: Slice) -> Job:
        run = self._runs[slice_.member]
        settings = {"seed": run_seed(self.file.seed, slice_.member), **self.file.fixed, **slice_.settings}
        options = () if slice_.adopts is None else (f"--adopt={self._write_adoption(slice_, slice_.adopts, run)}",)
        return Job(slice_.member, run, slice_.until, settings, options)

    def _write_adoption(self, slice_: Slice, decision: Decision, run: int) -> Path:
        """Writes what a run adopts, for its first slice in a generation. Returns the path of the file."""
        ended = slice_.generation - 1
        note = {"generation": ended, "iteration": slice_.start, **decision._asdict()}
        note["donor_run"] = self._runs[decision.donor]
        path = self.path.parent / "adopt" / f"{run}.json"
        path.parent.mkdir(exist_ok=True)
        ends = {"donor": str(self._end(ended, decision.donor)), "own": str(self._end(ended, slice_.member))}
        write_json(path, ends | {"note": note})
        return path

    def _is_used_up(self) -> bool:
        return self.file.budget.is_over(sum(entry.get("seconds", 0.0) for entry in self._entries()))

    def _trial(self, progress: Progress, member: int) -> Trial:
        own = [entry for entry in self._entries() if entry.get("member") == member and "seconds" in entry]
        values = {min((past["generation"] + 1) * self.config.interval, self.length): past["values"][member]
                  for past in progress.past} | {progress.until: progress.values.get(member)}  # fmt: skip
        sign = self.file.objective.sign
        worker = progress.owners.get(member)
        is_last = progress.until >= self.length and member in progress.values
        state = "failed" if member in progress.failed else "completed" if is_last else "running" if worker else "paused"
        decision = progress.decisions.get(member)
        copied = "" if decision is None or decision.donor == member else f"copied {decision.donor}: {decision.why}"
        return Trial(
            member,
            self._runs[member],
            state,
            progress.settings[member],
            {
                iteration: sign * value
                for iteration, value in values.items()
                if value is not None and math.isfinite(value)
            },
            progress.until,
            progress.until if member in progress.values else progress.start,
            sum(entry["seconds"] for entry in own),
            sum(map(_is_kill, own)),
            worker,
            next((entry["note"] for entry in own[::-1] if entry["note"]), copied),
        )

    @property
    def _runs(self) -> list[int]:
        """The run of each member."""
        return list(self._started["runs"])

    @property
    def _started(self) -> Entry:
        return next(entry for entry in self._entries() if entry["kind"] == "started")

    def _end(self, generation: int, member: int) -> Path:
        return self.path.parent / "ends" / str(generation) / f"{member}.pt"

    def _entries(self) -> list[Entry]:
        return list(self.journal.read_logs(0))

    def _progress(self) -> Progress:
        return progress_of(self._entries(), self.config, self.length)

    def _append(self, entry: Entry) -> None:
        self.journal.append_logs([entry])


def _is_kill(entry: Entry) -> bool:
    return entry["kind"] == "released" and not entry.get("stopped", False)


def setting_of(key: str, spec: Spec, grows: bool, deepens: bool) -> Setting:
    """Returns the values of a setting as exploration reads them."""
    from research.population.exploration import Setting

    def draw(generator: Any) -> Any:
        return spec.ask(key, lambda name, one: one.draw(generator))

    return Setting(draw, spec.clip, isinstance(spec, Range), grows, deepens)


def refuse_constant(changes: Changes, space: Space, prefix: str = "") -> None:
    """Raises SlurmError for a searched setting that cannot change while a run trains.

    Args:
        changes: Settings of the algorithm that can.
        space: The searched settings, by dotted key.
        prefix: Beginning of the message.
    """
    allowed = named(space, changes.mutable)
    for key in space:
        if key not in allowed:
            raise SlurmError(f"{prefix}space.{key}: cannot change while a run trains, as method pbt does; those that "
                             f"can are {', '.join(changes.mutable) or 'none of this algorithm'}")  # fmt: skip
