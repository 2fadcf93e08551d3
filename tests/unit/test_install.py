"""requirements/install.sh with a .venv that is there already. Nothing is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "requirements" / "install.sh"
OTHER = """#!/bin/sh
case "$*" in
*base_prefix*) echo 3 12 9 /elsewhere ;;
*--version*) echo Python 3.12.9 ;;
*-m*venv*) echo "venv: $*"; exit 3 ;;
*get_path*) dirname "$HEADER" ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    """A project whose .venv is up to date, as far as install.sh can tell."""
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    for name in ("build.txt", "run.txt", "smoke.txt", "test.txt"):
        (requirements / name).write_text("")
    (requirements / "install.sh").write_text(SCRIPT.read_text(encoding="utf-8"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / ".venv")], check=True)
    functions = SCRIPT.read_text(encoding="utf-8").partition("\ncase ")[0]
    (requirements / "stamp.sh").write_text(f'{functions}\ncontents "$1" >"$stamp"\n')
    stamp(tmp_path, "run")
    (tmp_path / "Python.h").write_text("")
    (tmp_path / "other").write_text(OTHER)
    (tmp_path / "other").chmod(0o755)
    return tmp_path


def stamp(project: Path, installed: str) -> None:
    subprocess.run(["sh", "requirements/stamp.sh", installed], cwd=project, check=True)


def install(project: Path, python: str, wanted: str = "run") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": python, "HEADER": str(project / "Python.h")}
    return subprocess.run(["sh", "requirements/install.sh", wanted], cwd=project, env=environment, check=False,
                          capture_output=True, encoding="utf-8")  # fmt: skip


SETS = ("run", "smoke", "test")


@pytest.mark.parametrize("installed", SETS)
def test_what_is_there_is_not_installed_again(project, installed):
    for wanted in SETS:
        stamp(project, installed)
        done = install(project, "", wanted)
        if SETS.index(wanted) <= SETS.index(installed):
            assert (done.returncode, done.stdout) == (0, "")
        else:
            assert "Bringing .venv up to date." in done.stdout
            assert "No module named pip" in done.stderr


def test_an_environment_of_the_chosen_python_stays(project):
    for python in ("", sys.executable):
        done = install(project, python)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_environment_of_another_python_is_made_again(project):
    done = install(project, str(project / "other"))
    assert done.stdout.splitlines() == [
        "Making .venv with Python 3.12.9: this takes a few minutes, once.",
        "venv: -m venv --clear .venv",
    ]
    assert done.returncode != 0  # this one can make none


def test_a_chosen_python_that_is_none_is_refused(project):
    done = install(project, str(project / "missing"))
    assert "missing is no Python" in done.stderr
    assert done.returncode != 0
