"""Fixtures of the tests of scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Check = Callable[[Callable[[str], object], str, str], None]


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """The directory of the records of a test, which works next to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def check_refused(runs, capsys) -> Check:
    """Checks that a script refuses a line with exit code 2 and a message, before there is any record."""

    def check(run: Callable[[str], object], line: str, message: str) -> None:
        with pytest.raises(SystemExit) as refused:
            run(line)
        assert refused.value.code == 2
        assert message in capsys.readouterr().err
        assert not runs.exists()

    return check
