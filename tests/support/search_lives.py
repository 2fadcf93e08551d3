"""Workers of a study that are killed: each life of a search ends at a step of training, until one is left to finish it.

    python search_lives.py runs/_searches/toy-1/search.yaml '[7, 3]'

One process imports everything and forks the workers, whose runs train in their own process.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from pathlib import Path

import toy_experiment

from slurm.search import slices, worker


def execute(folder, job, stop) -> tuple[int, float]:
    """Stands for `slices._execute`: trains in this process."""
    words = slices.command(folder, job)[1:]
    try:
        toy_experiment.make().run_commandline(words)
    except SystemExit as ended:
        return int(ended.code or 0), 1.0
    return 0, 1.0


def kill_at(moment: int) -> None:
    """Kills this process in a step of training."""
    steps, step = itertools.count(1), toy_experiment.Toy.step

    def counted(self, state):
        if next(steps) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, state)

    toy_experiment.Toy.step = counted


def main(path: Path, moments: list[int]) -> list[int]:
    """Exit codes of all workers, the last of which nobody kills."""
    slices._execute = execute
    codes = []
    for moment in [*moments, 0]:
        child = os.fork()
        if child == 0:
            kill_at(moment)
            os._exit(worker.work(path, 0))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return codes


if __name__ == "__main__":
    print(*main(Path(sys.argv[1]), json.loads(sys.argv[2])))  # noqa: T201
