"""The fault injector of the tests that kill programs."""

from __future__ import annotations

import shutil
import sys

import pytest
from crash_points import CrashPoints

PROGRAM = """
import pathlib, shutil, subprocess, sys
below = pathlib.Path(sys.argv[1])
(below / "made").mkdir()
(below / "text").write_text("all")
(below.parent / "elsewhere").write_text("not counted")
(below / "text").read_text()
subprocess.run([sys.executable, "-c", "open(%r, 'w')" % str(below / "by another program")])
(below / "text").rename(below / "renamed")
shutil.rmtree(below / "made")
"""


@pytest.fixture
def points(tmp_path):
    (tmp_path / "below").mkdir()
    return CrashPoints(tmp_path / "own", tmp_path / "below")


def test_every_operation_is_a_place_to_die_and_what_came_before_it_has_happened(points, tmp_path):
    command, below = [sys.executable, "-c", PROGRAM, tmp_path / "below"], tmp_path / "below"
    assert points.count(command) == 5
    assert [operation.split()[0] for operation in points.operations()] == [
        "os.mkdir", "open", "subprocess.Popen", "os.rename", "os.rmdir",
    ]  # fmt: skip
    found = [[], ["made"], ["made", "text"], ["by another program", "made", "text"]]
    found += [["by another program", "made", "renamed"]]
    for number, expected in enumerate(found, start=1):
        shutil.rmtree(below)
        below.mkdir()
        points.crash(command, number)
        assert sorted(path.name for path in below.iterdir()) == expected


def test_a_program_that_is_not_killed_is_an_error(points, tmp_path):
    with pytest.raises(AssertionError, match="not killed at 6"):
        points.crash([sys.executable, "-c", PROGRAM, tmp_path / "below"], 6)
