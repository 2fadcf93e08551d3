"""Fixtures of the tests of scripts."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """The directory of the records of a test, which works next to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"
