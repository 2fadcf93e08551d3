"""Studies whose runs are written by a function and take no time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from research.tracking import records
from slurm.search.file import load_search
from slurm.search.study import OptunaStudy
from slurm.search.trials import Done, Job, Outcome, Wait

FILE: dict[str, Any] = {
    "experiment": "toy",
    "fixed": {"num_iterations": 9},
    "space": {"x": {"float": [-1, 1]}, "kind": {"choice": ["a", "b"]}, "w": {"widths": [1, 8], "layers": [1, 2]}},
    "objective": {"metric": "score"},
    "budget": {"trials": 20},
    "method": "random",
    "seed": 3,
}


def quality(settings: Mapping[str, Any], iteration: int) -> float | None:
    """The score after an iteration; trials change places with time."""
    return iteration * 0.1 - (settings["x"] - 0.3) ** 2 * (1 + 3 / iteration) + 0.1 * (settings["kind"] == "b")


class Bench:
    """A study in a directory, and workers that train in no time.

    Attributes:
        alive: Tokens of the workers that are alive.
        slices: (trial, until) of each slice that was trained, in order.
    """

    def __init__(self, directory: Path, score: Callable[[Mapping[str, Any], int], float | None] = quality, **sections):
        self.directory, self.score, self.metric = directory, score, "score"
        self.alive: set[str] = set()
        self.slices: list[tuple[int, int]] = []
        directory.mkdir(exist_ok=True)
        (directory / "search.yaml").write_text(yaml.safe_dump({**FILE, **sections}))
        self.file = load_search(directory / "search.yaml")
        OptunaStudy.create(directory / "study.jsonl", self.file)

    def open(self) -> OptunaStudy:
        """The study as another process finds it."""
        return OptunaStudy(self.directory / "study.jsonl", self.file, 9, self.directory / "runs")

    def take(self, study: OptunaStudy, worker: str) -> Job | Wait | Done:
        self.alive.add(worker)
        return study.take(worker, self.alive.__contains__)

    def train(self, job: Job) -> Outcome:
        """Writes the record of a slice."""
        self.slices.append((job.trial, job.until))
        directory = self.directory / "runs" / str(job.run)
        rows = [
            {"step": step, "timestamp": "2026-01-01T00:00:00", "values": {self.metric: self.score(job.settings, step)}}
            for step in range(1, job.until + 1)
        ]
        (directory / "metrics.jsonl").write_text("".join(f"{records.to_line(row)}\n" for row in rows))
        (directory / "run.json").write_text(json.dumps({"status": "COMPLETED", "result": {"score": [1.0, 2.0]}}))
        return Outcome(0, 1.0)

    def finish(self, workers: int = 1, study: OptunaStudy | None = None) -> list[Any]:
        """The trials at the end; several workers train in turns, each slice as long as its iterations."""
        studies = [study or self.open() for _ in range(workers)]
        busy: dict[int, tuple[int, Job]] = {}
        time, ended = 0, set()
        while len(ended) < workers:
            for worker in set(range(workers)) - busy.keys() - ended:
                step = self.take(studies[worker], f"w{worker}")
                if isinstance(step, Done):
                    ended.add(worker)
                elif isinstance(step, Job):
                    busy[worker] = (time + step.until, step)
            time += 1
            for worker, (end, job) in sorted(busy.items()):
                if time >= end:
                    studies[worker].tell(f"w{worker}", job, self.train(job))
                    del busy[worker]
        return studies[0].trials()
