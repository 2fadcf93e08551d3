"""Runs that a signal meets at random moments, and that are then completed, compared with one that is left alone.

    python tests/support/kill_battery.py maml_trpo 30 0 DIRECTORY

prints a line for each moment: the signals, the moment, how the process ended, and `same` or each difference.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from preloaded import preloaded

import analysis.plots  # noqa: F401  # so that no process has to import it
from research.checkpoint import load

SETTINGS = {
    "maml_sinusoid": "fast num_iterations=40",
    "maml_trpo": "fast num_iterations=8 num_threads=1",
    "rl2": "fast num_iterations=10 num_threads=1",
    "varibad": "fast num_iterations=10 num_threads=1",
    "distillation": "fast num_iterations=10 num_threads=1",
    "lookahead_dqn": "cartpole fast num_iterations=10",
}
"""By script: a run of about two seconds."""

EVERY = "eval_interval=3 checkpoint_interval=2"

SIGNALS = {
    "KILL": ["SIGKILL"],
    "TERM": ["SIGTERM"],
    "INT twice": ["SIGINT", "SIGINT"],
    "USR1": ["SIGUSR1"],
    "HUP": ["SIGHUP"],
    "PIPE": ["SIGPIPE"],
    "STOP, CONT": ["SIGSTOP", "SIGCONT"],
}


class Battery:
    """The runs of one script in one directory; run 1 is left alone."""

    def __init__(self, script: str, directory: Path):
        self.experiment: Any = preloaded(importlib.import_module(f"experiments.{script}").experiment)
        self.settings, self.directory = f"{SETTINGS[script]} {EVERY}".split(), directory
        began = time.monotonic()
        assert wait(self.start(1)) == 0, (directory / "output.txt").read_text(encoding="utf-8")
        self.seconds = time.monotonic() - began

    def start(self, run: int) -> int:
        """Starts `ensure` of a run in a process of its own, and returns the id of the process."""
        process = os.fork()
        if process:
            return process
        code = 1
        try:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the battery may run below nohup
            os.chdir(self.directory)
            output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            self.experiment.run_commandline(
                [str(self.experiment.script), "ensure", "with", *self.settings, f"run={run}"]
            )
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def meet(self, run: int, signals: list[str], moment: float) -> str:
        """Sends the signals at a moment, completes the run, and returns how the process ended and all differences."""
        process = self.start(run)
        time.sleep(moment)
        for name in signals:
            os.kill(process, signal.Signals[name])
            time.sleep(0.02)
        ended = wait(process)
        completed = wait(self.start(run))
        found = [] if completed == 0 else [f"`ensure` ended with {completed}"]
        return f"ended with {ended}, then {', '.join(found + self.differences(run)) or 'same'}"

    def differences(self, run: int) -> list[str]:
        """Names all in which the record of a run differs from that of run 1."""
        ours, reference = (self.directory / "runs" / str(number) for number in (run, 1))
        known = {path.relative_to(reference) for path in reference.rglob("*")} | {Path("metrics.cut.jsonl")}
        found = [f"{path.relative_to(ours)} is left over" for path in ours.rglob("*")
                 if path.relative_to(ours) not in known]  # fmt: skip
        for what in (metrics, result, latest, best):
            try:
                same = identical(what(ours), what(reference))
            except Exception as error:
                found.append(f"{what.__name__}: {error!r}")
            else:
                found += [] if same else [f"{what.__name__} differs"]
        return found


def wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def metrics(record: Path) -> list[Any]:
    rows = [json.loads(line) for line in (record / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(row["step"], {key: value for key, value in row["values"].items() if not key.startswith("time/")})
            for row in rows]  # fmt: skip


def result(record: Path) -> Any:
    run = json.loads((record / "run.json").read_text(encoding="utf-8"))
    return run["status"], run["result"]


def latest(record: Path) -> Any:
    return load(record / "checkpoints" / "latest.pt").state


def best(record: Path) -> Any:
    return load(record / "checkpoints" / "best.pt").state


def identical(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(identical(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(identical, left, right))
    return bool(left == right)


def main(script: str, moments: int, seed: int, directory: Path) -> int:
    """Prints the lines and returns the number of runs that differ."""
    draws, different = random.Random(seed), 0
    battery = Battery(script, directory)
    print(f"{script}: {battery.seconds:.1f} s when it is left alone", flush=True)
    for number in range(moments):
        name = list(SIGNALS)[number % len(SIGNALS)]
        moment = draws.uniform(0, battery.seconds)
        ended = battery.meet(number + 2, SIGNALS[name], moment)
        different += not ended.endswith("then same")
        print(f"{script}: {name} after {moment:.2f} s: {ended}", flush=True)
    print(f"{script}: {different} of {moments} differ", flush=True)
    return different


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])) > 0)
