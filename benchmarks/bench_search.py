"""A study of a thousand trials: `ask` and `tell` of a worker, and the command that shows it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import ROOT, Measurement, benchmark
from research.files import write_json
from research.tracking.records import METRICS, to_line
from slurm.search.folder import Facts, StudyFolder
from slurm.search.studies import create_study, open_study
from slurm.search.trials import Job, Outcome

TRIALS, MEASURED, LENGTH = 1000, 50, 9
_FILE = """
experiment: lookahead_dqn
fixed: {{num_iterations: {length}}}
space:
  inner_lr: {{log: [1.0e-4, 1.0e-2]}}
  batch_size: {{log_int: [32, 256]}}
  target_interval: {{log_int: [16, 512]}}
  discount: {{float: [0.95, 0.999]}}
  target: {{choice: [hard, polyak]}}
  network.hidden_sizes: {{widths: [32, 256], layers: [1, 2]}}
objective: {{metric: score}}
budget: {{trials: {trials}}}
method: {method}
"""


@benchmark("search/1000")
def thousand() -> Iterator[Measurement]:
    """The last trials of a study of 1,000, by one worker whose runs take no time, and `search --status`."""
    for name, method in (("random", "random"), ("tpe", "tpe"), ("asha", "{asha: {min_iterations: 1}}")):
        with tempfile.TemporaryDirectory(prefix="search-") as directory:
            folder = _study(Path(directory), method)
            seconds, processor = _slices(folder)
            note = f"{1000 * statistics.median(processor[-MEASURED:]):.1f} ms of processor time"
            value = 1000 * statistics.median(seconds[-MEASURED:])
            yield Measurement(f"search/1000/{name}/ask_and_tell", value, "ms", at_most=50, note=note)
            if name == "asha":
                yield _status(Path(directory))


def _study(directory: Path, method: str) -> StudyFolder:
    path = directory / "many.yaml"
    path.write_text(_FILE.format(length=LENGTH, trials=TRIALS, method=method), encoding="utf-8")
    folder = StudyFolder(directory / "runs" / "_searches" / "many-1")
    folder.path.mkdir(parents=True)
    folder.write(path, Facts("experiments/lookahead_dqn.py", "lookahead_dqn", LENGTH))
    create_study(folder)
    return folder


def _slices(folder: StudyFolder) -> tuple[list[float], list[float]]:
    """Returns the seconds that each slice took besides its training, and the processor time."""
    study, seconds, processor = open_study(folder), list[float](), list[float]()
    while True:
        began, spent = time.perf_counter(), time.process_time()
        job = study.take("worker", lambda worker: True)
        if not isinstance(job, Job):
            return seconds, processor
        taken, used = time.perf_counter() - began, time.process_time() - spent
        _record(folder, job)
        began, spent = time.perf_counter(), time.process_time()
        study.tell("worker", job, Outcome(0, 1.0))
        seconds.append(taken + time.perf_counter() - began)
        processor.append(used + time.process_time() - spent)


def _record(folder: StudyFolder, job: Job) -> None:
    score = job.until - 100 * abs(job.settings["inner_lr"] - 1e-3)
    row = {"step": job.until, "timestamp": "2026-01-01T00:00:00", "values": {"score": score}}
    (folder.runs_dir / str(job.run) / METRICS).write_text(f"{to_line(row)}\n", encoding="utf-8")
    write_json(folder.runs_dir / str(job.run) / "run.json", {"status": "INTERRUPTED"})


def _status(directory: Path) -> Measurement:
    command = [sys.executable, "-m", "slurm", "search", "many", "--status"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began, before = time.perf_counter(), os.times().children_user + os.times().children_system
    subprocess.run(command, cwd=directory, env=environment, check=True, stdout=subprocess.DEVNULL)
    spent = os.times().children_user + os.times().children_system - before
    note = f"{spent:.2f} s of processor time"
    return Measurement("search/1000/status", time.perf_counter() - began, "s", at_most=2, note=note)
