"""Runs of the toy experiment, in this process and in a directory of their own."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_experiment

from research import checkpoint
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
    return Lab(tmp_path)
