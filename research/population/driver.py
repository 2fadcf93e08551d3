"""A population that is trained in one process, or by several processes that share a folder.

    population.jsonl          the journal, see `study`
    study.lock                its lock, held for the moment of a look and an entry
    members/<m>/latest.pt     the last checkpoint of each member
    ends/<g>/<m>.pt           checkpoints at the end of generation g, from which members of the next one go on
    workers/<name>            a lock that each worker holds while it works

    repeat
        claim a slice: (with the lock) one of a dead worker, or a free one of this generation; wait if there is none
        the state: the member's last checkpoint, or at the start of the slice what it adopts from ends/<g − 1>
        train to the end of the slice; ends/<g>/<m>.pt ← the state; note its value
        after the last slice of a generation: (with the lock) decide how each member goes on

A process that is killed leaves checkpoints and whole entries. Whatever it had not noted is done again from the last
checkpoint, with the same random draws, so that the search ends in the same state.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.algorithms import Algorithm
from research.checkpoint import Checkpoint, Checkpoints, load
from research.files import append_lines, whole_lines
from research.population import study
from research.population.adopting import adopted_state
from research.population.exploration import Setting, first_settings
from research.population.generations import decided
from research.population.settings import PopulationConfig
from research.population.study import Entry, Progress, Slice, progress_of
from research.train import train


@dataclass(frozen=True)
class Problem:
    """The problem that the members of a population are trained for.

    Attributes:
        name: Name of the algorithm, in checkpoints.
        build: Function from settings to the algorithm, e.g. its class.
        config_of: Function from the number of a member and its settings of the space to the settings of its algorithm.
        score: Function from an algorithm and its state to the value, to be maximised; a pure function.
        space: The values that settings may have.
        total: Iterations of a whole training.
    """

    name: str
    build: Callable[[Any], Algorithm]
    config_of: Callable[[int, Mapping[str, Any]], Any]
    score: Callable[[Any, Any], float]
    space: Mapping[str, Setting]
    total: int


class Population:
    """The folder of a population. It holds no state: the journal and the checkpoints have all of it.

    Args:
        folder: The folder, made if it is missing.
        problem: The problem that the members are trained for.
        config: The settings of the search.
        seed: Seed of the search.
    """

    def __init__(self, folder: Path, problem: Problem, config: PopulationConfig, seed: int):
        self.folder, self.problem, self.config, self.seed = folder, problem, config, seed
        self.journal = folder / "population.jsonl"
        (folder / "workers").mkdir(parents=True, exist_ok=True)

    def run(self, worker: str, seconds: float = 0.05) -> Progress:
        """Trains slices until the search has ended. Returns the progress.

        Args:
            worker: A name that no other process has.
            seconds: Time between two looks while other workers have all slices.
        """
        with _locked(self.folder / "workers" / worker):
            while not (progress := self.progress()).is_done:
                slice_ = self.take(worker)
                if slice_ is None:
                    time.sleep(seconds)
                else:
                    self.tell(worker, slice_, self.train(slice_))
        return progress

    def progress(self) -> Progress:
        """Returns what the journal says."""
        entries = (json.loads(line) for line in whole_lines(self.journal))
        return progress_of(entries, self.config, self.problem.total)

    def take(self, worker: str) -> Slice | None:
        """Claims a slice. Returns None if other workers have all that can be trained now."""
        with _locked(self.folder / "study.lock"):
            progress = self.progress()
            if not progress.settings:
                space, members = self.problem.space, range(self.config.members)
                settings = [first_settings(space, self.seed, member) | self.config.initial for member in members]
                self._append({"kind": "started", "settings": settings, "interval": self.config.interval})
            elif progress.is_finished and not progress.is_done:
                self._append(decided(progress, self.problem.space, self.seed))
                shutil.rmtree(self.folder / "ends" / str(progress.generation - 1), ignore_errors=True)
            progress = self.progress()
            slice_ = None if progress.is_done else study.next_slice(progress, worker, self._is_alive)
            if slice_ is not None:
                self._append(study.claimed(slice_, worker))
            return slice_

    def tell(self, worker: str, slice_: Slice, value: float) -> None:
        """Notes the value of a slice."""
        with _locked(self.folder / "study.lock"):
            self._append(study.finished(slice_, worker, value))

    def train(self, slice_: Slice) -> float:
        """Trains a slice from the member's last checkpoint. Returns the value of the state at its end."""
        config = self.problem.config_of(slice_.member, slice_.settings)
        algorithm = self.problem.build(config)
        checkpoints = Checkpoints(self._directory(slice_.member), self.problem.name, dict(slice_.settings))
        trained = train(
            algorithm,
            self._state(algorithm, config, checkpoints, slice_),
            slice_.until,
            evaluate=lambda state: 0.0,
            evaluate_every=0,
            save=checkpoints.save,
            save_every=config.checkpoint_interval,
            should_stop=lambda: False,
        )
        end = self._end(slice_.generation, slice_.member)
        end.parent.mkdir(parents=True, exist_ok=True)
        end.unlink(missing_ok=True)
        os.link(checkpoints.latest, end)  # the next checkpoint replaces the file, it does not write into it
        return self.problem.score(algorithm, trained.state)

    def _state(self, algorithm: Algorithm, config: Any, checkpoints: Checkpoints, slice_: Slice) -> Any:
        """Returns the state from which a slice goes on."""
        if not checkpoints.latest.exists():
            state = algorithm.init()
            checkpoints.save(state)
            return state
        last = load(checkpoints.latest)
        if slice_.adopts is None or last.iteration > slice_.start:
            return last.restore(algorithm.init())
        pair = (slice_.adopts.donor, slice_.member)
        donor, own = (self._at_end(slice_.generation - 1, member) for member in pair)
        return adopted_state(self.problem.build, config, donor, own)

    def _at_end(self, generation: int, member: int) -> tuple[Checkpoint, Any]:
        """Returns the checkpoint of a member at the end of a generation, and its settings in that generation."""
        entries = [json.loads(line) for line in whole_lines(self.journal)]
        until = [entry for entry in entries if entry["kind"] != "decided" or entry["generation"] < generation]
        settings = progress_of(until, self.config, self.problem.total).settings[member]
        return load(self._end(generation, member)), self.problem.config_of(member, settings)

    def _directory(self, member: int) -> Path:
        return self.folder / "members" / str(member)

    def _end(self, generation: int, member: int) -> Path:
        return self.folder / "ends" / str(generation) / f"{member}.pt"

    def _append(self, entry: Entry) -> None:
        append_lines(self.journal, [json.dumps(entry, allow_nan=False)])

    def _is_alive(self, worker: str) -> bool:
        """Returns whether a worker holds its lock, which its process loses when it ends."""
        path = self.folder / "workers" / worker
        if not path.exists():
            return False
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that ends with the process."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
