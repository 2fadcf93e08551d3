"""Runs of the toy experiment, in this process and in a directory of their own."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mongo
import pytest
import torch
import toy_experiment

from research import checkpoint
from research.tracking.mongo import VARIABLE, mirror
from research.tracking.records import read_rows


class Lab:
    """The toy experiment at its command line.

    Attributes:
        exit_code: Of the last command; 0 if it ended well.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.exit_code: Any = 0

    def run(self, line: str) -> Any:
        """The result of a command."""
        self.exit_code = 0
        try:
            return toy_experiment.make().run_commandline([toy_experiment.__file__, *shlex.split(line)]).result
        except SystemExit as exit_:
            self.exit_code = exit_.code
            return None

    def start(self, line: str, run: int, iteration: int = 0) -> subprocess.Popen[str]:
        """A process of its own with a command, once the checkpoint of its run has finished so many iterations."""
        command = [sys.executable, toy_experiment.__file__, *shlex.split(line)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        latest = self.directory / "runs" / str(run) / "checkpoints" / "latest.pt"
        while not latest.exists() or self.state(run)["iteration"] < iteration:
            assert process.poll() is None
            time.sleep(0.005)
        return process

    def record(self, run: int | str, file: str = "run.json") -> Any:
        return json.loads((self.directory / "runs" / str(run) / file).read_text())

    def output(self, run: int | str) -> str:
        return (self.directory / "runs" / str(run) / "cout.txt").read_text()

    def metrics(self, run: int | str) -> list[tuple[int, dict[str, float]]]:
        """(step, values) without times."""
        rows = read_rows(self.directory / "runs" / str(run))
        return [(row["step"], {k: v for k, v in row["values"].items() if not k.startswith("time/")}) for row in rows]

    def state(self, run: int | str, name: str = "latest") -> Any:
        return checkpoint.load(self.directory / "runs" / str(run) / "checkpoints" / name).state

    def runs(self) -> list[str]:
        root = self.directory / "runs"
        return sorted(path.name for path in root.iterdir() if path.name != "_sources") if root.exists() else []

    def assert_same(self, run: int | str, reference: int | str) -> None:
        """Metrics, states and results are bit-identical."""
        assert self.metrics(run) == self.metrics(reference)
        assert identical(self.state(run), self.state(reference))
        assert identical(self.state(run, "best"), self.state(reference, "best"))
        assert self.record(run)["result"] == self.record(reference)["result"]


def identical(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(identical(left[key], right[key]) for key in left)
    return bool(left == right)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    return Lab(tmp_path)


@pytest.fixture
def after_step(monkeypatch):
    """Calls a function when the toy has finished an iteration, once."""

    def install(iteration, function):
        step = toy_experiment.Toy.step

        def wrapped(self, state):
            result = step(self, state)
            if result.state.iteration == iteration:
                monkeypatch.setattr(toy_experiment.Toy, "step", step)
                function()
            return result

        monkeypatch.setattr(toy_experiment.Toy, "step", wrapped)

    return install


@pytest.fixture(scope="session")
def mongo_address(tmp_path_factory):
    """A server that runs all the while, or the real one."""
    if mongo.REAL:
        yield mongo.REAL
        return
    server = mongo.MongoServer(tmp_path_factory.mktemp("mongo")).start()
    yield mongo.address_of(server)
    server.kill()


@pytest.fixture
def line(mongo_address):
    """A connection to it that can be cut; a database of its own."""
    line = mongo.line_to(mongo_address)
    yield line
    line.cut()


@pytest.fixture
def content(mongo_address, line):
    """What is in that database."""
    content = mongo.Content(mongo_address, line.database)
    yield content
    content.client.drop_database(line.database)
    content.close()


@pytest.fixture
def mirrored(lab, line, monkeypatch):
    """The experiment with a mirror that is quick."""
    monkeypatch.setenv(VARIABLE, line.address)
    monkeypatch.setattr(mirror, "INTERVAL_SECONDS", 0.1)
    return lab
