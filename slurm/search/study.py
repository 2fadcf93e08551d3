"""A study of the methods `random`, `tpe` and `asha`: its trials are those of an Optuna study in a journal.

A free worker takes, in this order: a trial whose worker has ended; a trial that is promoted (`asha`); a new one. The
last two do not begin once the budget is used up. The choice depends on the journal alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from research.files import claim_number
from slurm.errors import SlurmError
from slurm.search import asha
from slurm.search.file import SearchFile
from slurm.search.journal import Journal
from slurm.search.objective import NoValueError, value_of
from slurm.search.samplers import make_sampler, suggest
from slurm.search.space import run_seed
from slurm.search.trials import MOST_KILLS, REFUSED, Done, IsAlive, Job, Outcome, Trial, Wait

_FACTS = "run"
"""User attribute of a trial that has the fields of `Trial` which Optuna does not know."""

_FIELDS = ("run", "until", "reached", "seconds", "kills", "worker", "note", "status")
"""Those fields."""

_NAME = "search"
"""Name of the Optuna study, the only one in its journal."""

_FIRST_FAILURES = 3
"""A search ends if so many trials have failed or were refused, and no other has a value."""

_ENDED = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "lost", TrialState.FAIL: "failed"}
_OPTUNA = {"completed": TrialState.COMPLETE, "lost": TrialState.PRUNED, "failed": TrialState.FAIL}


class OptunaStudy:
    """The trials of a search, which several processes share.

    Args:
        path: The journal.
        file: The search.
        length: Iterations of a whole trial.
        runs_dir: Directory of runs.
    """

    def __init__(self, path: Path, file: SearchFile, length: int, runs_dir: Path):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path, self.file, self.length, self.runs_dir = path, file, length, runs_dir
        self._settings: dict[int, dict[str, Any]] = {}  # of each trial: they never change
        self._open()

    @staticmethod
    def create(path: Path, file: SearchFile) -> None:
        """Writes the journal of a study without trials."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal = Journal(path)
        with journal.transaction():
            optuna.create_study(storage=JournalStorage(journal), study_name=_NAME, direction=file.objective.direction)

    def _open(self) -> None:
        self.journal = Journal(self.path)
        self.storage = JournalStorage(self.journal)
        try:
            self.study = optuna.load_study(study_name=_NAME, storage=self.storage)
        except KeyError as error:
            raise SlurmError(f"{self.path}: has no study; restore it from a copy") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self.journal.transaction():
                yield
        except BaseException:
            self._settings = {}
            self._open()  # the storage knows trials that were not written
            raise

    def trials(self) -> list[Trial]:
        """Returns all trials, in order."""
        return [self._trial(frozen) for frozen in self._frozen()]

    def problem(self) -> str:
        """Returns why the search cannot go on: no trial has a value, and some have failed as all will; else empty."""
        trials = self.trials()
        failed = [trial for trial in trials if trial.state == "failed" or trial.status == REFUSED]
        if not failed or any(trial.values for trial in trials):
            return ""
        run, note = failed[0].run, failed[0].note
        if note.startswith("objective."):
            return f"{note}. Correct the objective; the file is then another search"
        if len(failed) < _FIRST_FAILURES:
            return ""
        return f"the first {len(failed)} trials have failed: run {run}: {note}; remove the cause, then begin with --new"

    def take(self, worker: str, is_alive: IsAlive) -> Job | Wait | Done:
        """Returns the next slice, which now belongs to the worker. Raises SlurmError if the search cannot go on."""
        with self._transaction():
            trials = self.trials()
            if problem := self.problem():
                raise SlurmError(f"{self.path.parent.name}: {problem}")
            for trial in trials:
                if trial.state == "running" and (trial.worker is None or not is_alive(trial.worker)):
                    return self._give(trial._replace(worker=worker))
            if not self.file.budget.is_over(sum(trial.seconds for trial in trials)):
                promotion = self._promotion(trials)
                if promotion is not None:
                    trial = trials[promotion.trial]
                    return self._give(trial._replace(worker=worker, until=self.rungs[promotion.rung]))
                if self.file.budget.trials is None or len(trials) < self.file.budget.trials:
                    return self._ask(worker)
            if any(trial.state == "running" for trial in trials):
                return Wait()
            for trial in trials:
                if trial.state == "paused":
                    self._write(trial, "stopped")  # not its last state: with a larger budget it may be promoted
            return Done()

    def tell(self, worker: str, job: Job, outcome: Outcome) -> None:
        """Records the end of a slice. Does nothing if it belongs to another worker now."""
        with self._transaction():
            trial = self._trial(self._frozen()[job.trial])
            if trial.state != "running" or trial.worker != worker:
                return
            trial = trial._replace(seconds=trial.seconds + outcome.seconds, note=outcome.note)
            if outcome.stopped:
                self._write(trial._replace(worker=None))
            elif outcome.status == 0:
                self._tell_value(trial)
            elif outcome.status < 0 and trial.kills + 1 < MOST_KILLS:
                self._write(trial._replace(worker=None, kills=trial.kills + 1))
            else:
                is_lost = outcome.status == REFUSED
                self._end(trial._replace(status=outcome.status), "lost" if is_lost else "failed")

    @property
    def rungs(self) -> list[int]:
        """The iterations at which trials are compared; the last one is the length of a whole trial."""
        if self.file.method.name != "asha":
            return [self.length]
        settings = self.file.method.settings
        return asha.rungs(settings.min_iterations, settings.reduction, self.length)

    def _tell_value(self, trial: Trial) -> None:
        objective = self.file.objective
        try:
            value = value_of(objective, self.runs_dir / str(trial.run), trial.until)
        except (NoValueError, OSError, ValueError) as error:
            return self._end(trial._replace(note=str(error)), "failed")
        if not math.isfinite(value):
            note = f"{objective.metric} is not finite at iteration {trial.until}"
            return self._end(trial._replace(note=note), "lost")
        self.storage.set_trial_intermediate_value(self._id(trial.number), trial.until, value)
        trial = trial._replace(reached=trial.until, worker=None, note="")
        if trial.until >= self.length:
            return self._end(trial, "completed", value)
        return self._write(trial)

    def _promotion(self, trials: Sequence[Trial]) -> asha.Promotion | None:
        rungs, sign = self.rungs, self.file.objective.sign
        if len(rungs) == 1:
            return None
        finished: list[dict[int, float]] = [{} for _ in rungs]
        for trial in trials:
            for rung, iteration in enumerate(rungs):
                if iteration in trial.values:
                    finished[rung][trial.number] = sign * trial.values[iteration]
                elif trial.state in ("lost", "failed") and iteration == trial.until:
                    finished[rung][trial.number] = -math.inf
        promoted = [{trial.number for trial in trials if trial.until > iteration} for iteration in rungs]
        return asha.next_promotion(finished, promoted, self.file.method.settings.reduction)

    def _ask(self, worker: str) -> Job:
        number = len(self._frozen())
        self.study.sampler = make_sampler(self.file, number)
        trial = self.study.ask()
        for key, spec in self.file.space.items():
            spec.ask(key, lambda name, dimension: suggest(trial, name, dimension))
        run = claim_number(self.runs_dir)
        return self._give(Trial(number, run, "running", worker=worker, until=self.rungs[0]))

    def _give(self, trial: Trial) -> Job:
        self._write(trial)
        trial = self._trial(self._frozen()[trial.number])
        settings = {**self.file.fixed, **trial.settings}
        return Job(trial.number, trial.run, trial.until, {"seed": run_seed(self.file.seed, trial.number), **settings})

    def _end(self, trial: Trial, state: str, value: float | None = None) -> None:
        self._write(trial._replace(worker=None), state)
        values = None if value is None else [value]
        self.storage.set_trial_state_values(self._id(trial.number), _OPTUNA[state], values)

    def _write(self, trial: Trial, ended: str = "") -> None:
        facts = {name: getattr(trial, name) for name in _FIELDS}
        self.storage.set_trial_user_attr(self._id(trial.number), _FACTS, facts | ({"ended": ended} if ended else {}))

    def _frozen(self) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self.study._study_id, deepcopy=False)

    def _id(self, number: int) -> int:
        """Returns the id of a trial in the storage."""
        return self._frozen()[number]._trial_id

    def _trial(self, frozen: FrozenTrial) -> Trial:
        facts: dict[str, Any] = dict(frozen.user_attrs[_FACTS])
        ended = facts.pop("ended", "")
        state = _ENDED.get(frozen.state, "running")
        if state == "running" and facts["worker"] is None and facts["reached"] >= facts["until"]:
            state = "paused"
        if frozen.number not in self._settings:
            self._settings[frozen.number] = {
                key: spec.ask(key, lambda name, _: frozen.params[name]) for key, spec in self.file.space.items()
            }
        settings, values = self._settings[frozen.number], frozen.intermediate_values
        return Trial(frozen.number, state=ended or state, settings=settings, values=values, **facts)
