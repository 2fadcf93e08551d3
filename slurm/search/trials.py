"""Trials of a search as its workers and its tables see them, and what a worker is to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

STATES = {
    "running": "a worker trains it",
    "interrupted": "its worker has ended; another one takes it over",
    "paused": "has finished a rung and waits to be promoted",
    "completed": "was trained in full",
    "stopped": "was not promoted before the search ended",
    "lost": "has no objective: it is NaN, or the run was refused",
    "failed": "its run ended with an error",
}
"""The states of a trial and their meanings."""


MOST_KILLS = 3
"""Times that the training of a slice may be killed: it has failed after the last of them."""


REFUSED = 2
"""Exit status of a run that refuses its settings, or cannot start."""


class Trial(NamedTuple):
    """One draw of the settings, and the state of its training.

    Attributes:
        number: Its number, from 0.
        run: Id of its run.
        state: One of `STATES`; `interrupted` counts as `running` until somebody knows the worker.
        settings: The searched settings, by dotted key.
        values: The objective at each iteration at which it was stopped.
        until: Iteration to which it trains, or has trained.
        reached: Iteration up to which its results are known.
        seconds: Processor time.
        kills: Times that its run was killed.
        worker: The worker that trains it; None for none.
        note: Reason for its state.
        status: Exit status of its last slice, if that has failed; 0 otherwise.
    """

    number: int
    run: int
    state: str
    settings: Mapping[str, Any] = {}
    values: Mapping[int, float] = {}
    until: int = 0
    reached: int = 0
    seconds: float = 0.0
    kills: int = 0
    worker: str | None = None
    note: str = ""
    status: int = 0

    @property
    def value(self) -> float | None:
        """The objective at the last iteration that is known; None if there is none."""
        return self.values[max(self.values)] if self.values else None


class Job(NamedTuple):
    """A slice of a training: a run, and the iteration at which it stops.

    Attributes:
        trial: Number of the trial.
        run: Id of its run.
        until: Iteration at which the slice ends.
        settings: All settings of the run that the search gives, by dotted key.
        options: Further options of the command that trains it.
    """

    trial: int
    run: int
    until: int
    settings: Mapping[str, Any]
    options: tuple[str, ...] = ()


class Wait(NamedTuple):
    """Nothing can be done before another worker has finished something."""


class Done(NamedTuple):
    """The search has ended."""


class Outcome(NamedTuple):
    """The end of a slice, or of a part of it.

    Attributes:
        status: Exit status of the run: 0 if it has reached its iteration, negative if a signal killed it.
        seconds: Processor time.
        note: Last line of its output, if it failed.
        stopped: Whether the worker was asked to stop before the slice was done. Another one continues it.
    """

    status: int
    seconds: float
    note: str = ""
    stopped: bool = False


class IsAlive(Protocol):
    """Says whether a worker is alive."""

    def __call__(self, worker: str, /) -> bool:
        """Returns whether the worker with a token is alive."""


class Study(Protocol):
    """The state of a search that its workers share. Each call is one transaction."""

    def take(self, worker: str, is_alive: IsAlive) -> Job | Wait | Done:
        """Returns the next slice, which now belongs to the worker. Raises SlurmError if the search cannot go on."""

    def tell(self, worker: str, job: Job, outcome: Outcome) -> None:
        """Records the end of a slice. Does nothing if it belongs to another worker now."""

    def trials(self) -> list[Trial]:
        """Returns all trials, in order."""

    def problem(self) -> str:
        """Returns why the search cannot go on; empty if it can."""
