"""A worker of a study: it takes a slice, trains it and tells the result, until the search has ended.

Any number of workers share a study, on any machines that see its files. Each holds a lock with a heartbeat
(`research.tracking.lock`); a trial whose worker holds it no more is taken over by another one, from its checkpoint.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from research.tracking.lock import Lock
from slurm.search.folder import StudyFolder, workers_dir
from slurm.search.slices import Stop, run_slice
from slurm.search.studies import open_study
from slurm.search.trials import Done, Wait
from slurm.states import is_alive

_POLL_SECONDS = 1.0


def work(path: Path, index: int) -> int:
    """Works until the search has ended, or a signal asks to stop. Returns the exit status.

    Args:
        path: The search file in the folder of the study.
        index: Number of the worker.

    Raises:
        SlurmError: The search cannot go on.
    """
    folder = StudyFolder(path.absolute().parent)
    study = open_study(folder)
    with Stop() as stop, registered(folder, index) as worker:
        while stop.signum is None:
            step = study.take(worker, lambda token: is_alive(workers_dir(folder) / token))
            if isinstance(step, Done):
                print("The search has ended.", flush=True)
                return 0
            if isinstance(step, Wait):
                stop.sleep(_POLL_SECONDS)
                continue
            print(f"trial {step.trial}: run {step.run} trains to iteration {step.until}", flush=True)
            outcome = run_slice(folder, step, stop)
            study.tell(worker, step, outcome)
            how = "was stopped" if outcome.stopped else f"status {outcome.status} {outcome.note}".rstrip()
            print(f"trial {step.trial}: {how}", flush=True)
    return stop.exit_code


@contextlib.contextmanager
def registered(folder: StudyFolder, index: int) -> Iterator[str]:
    """Yields the token of a worker, whose lock is held meanwhile."""
    token = f"{index}-{uuid.uuid4().hex[:12]}"
    directory = workers_dir(folder) / token
    directory.mkdir(parents=True)
    held = Lock(directory)
    try:
        yield token
    finally:
        held.release()
        shutil.rmtree(directory, ignore_errors=True)
