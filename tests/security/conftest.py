"""A working directory in which files of other people are tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toy_experiment
from payload import MARK

from research.tracking.mongo import VARIABLE


class Place:
    """A working directory with the toy experiment."""

    def __init__(self, directory: Path):
        self.directory = directory

    def write(self, name: str, content: str | bytes) -> str:
        """Name of a new file."""
        (self.directory / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    def run(self, *arguments: str) -> Any:
        """Exit code of the toy experiment with a command line."""
        try:
            toy_experiment.make().run_commandline([toy_experiment.__file__, *arguments])
        except SystemExit as exit_:
            return exit_.code
        return 0

    def is_untouched(self) -> bool:
        """Whether no payload has run."""
        return not list(self.directory.rglob(MARK))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    return Place(tmp_path)
