"""What a submission checks is what its jobs run: the copy of the code, in their interpreter, with their PYTHONPATH."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slurm.check import Place, check_there
from slurm.errors import SlurmError
from slurm.folder import Submission
from slurm.profile import Profile
from slurm.sweep import Sweep
from slurm.task import ROOT

pytestmark = pytest.mark.thorough
TOY = "tests/support/array_experiment.py"


@pytest.fixture
def clone(tmp_path):
    """A clone of this project, with uncommitted changes of this checkout."""
    root = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(root)], check=True)
    names = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-zmo", "--exclude-standard"], check=True,
                           capture_output=True, text=True).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())
    return root


def submit(desk, clone, *words, **environment):
    command = [sys.executable, "-m", "slurm", "submit", str(desk.sweep(fixed={"num_iterations": 1})), "--local", *words]
    path = os.pathsep.join([str(clone), environment.pop("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=desk.directory, env={**os.environ, **environment, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def import_in_script(clone, *names):
    script = clone / TOY
    script.write_text(
        script.read_text().replace("from toy_experiment", f"import {', '.join(names)}\nfrom toy_experiment")
    )


@pytest.mark.slow
def test_a_run_imports_what_links_and_pythonpath_lead_to(desk, clone, no_slurm):
    for name in ("linked", "of_pythonpath"):
        (desk.directory / "lib" / name).mkdir(parents=True)
        (desk.directory / "lib" / name / "__init__.py").write_text("")
    (clone / "tests" / "support" / "linked").symlink_to(desk.directory / "lib" / "linked")
    import_in_script(clone, "linked", "of_pythonpath")
    (desk.directory / "lib" / "linked").rename(desk.directory / "lib" / "moved")
    status, shown = submit(desk, clone, PYTHONPATH="lib")
    assert status == 2 and "cannot be imported: ModuleNotFoundError: No module named 'linked'" in shown
    assert str(clone / TOY) in shown and not (desk.directory / "runs").exists()
    (desk.directory / "lib" / "moved").rename(desk.directory / "lib" / "linked")
    status, shown = submit(desk, clone, PYTHONPATH="lib")
    assert status == 0, shown
    assert desk.states() == {1: "completed"}


@pytest.mark.slow
def test_a_module_that_is_not_copied_is_missed_before_anything_is_written(desk, clone, no_slurm):
    (clone / "tests" / "support" / "of_mine.py").write_text("")
    (clone / ".gitignore").write_text("of_mine.py\n")
    import_in_script(clone, "of_mine")
    status, shown = submit(desk, clone, "--dry-run")
    assert status == 2 and "No module named 'of_mine'" in shown
    status, shown = submit(desk, clone)
    assert status == 2 and not (desk.directory / "runs").exists()
    status, shown = submit(desk, clone, "--no-snapshot")
    assert status == 0, "in place it is there"


def place(directory, **profile):
    return Place(ROOT, Submission("token", str(ROOT), []), Profile(**profile), directory)


def test_the_check_has_the_interpreter_and_environment_of_the_jobs(tmp_path, capsys):
    sweep = Sweep(TOY, fixed={"num_iterations": 1}, seeds=2)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "sitecustomize.py").write_text(f"open({str(tmp_path / 'started')!r}, 'w').close()")
    setup = f"export PYTHONPATH={tmp_path / 'lib'}:$PYTHONPATH"
    checked = check_there(sweep, Path("some.yaml"), [], place(tmp_path, setup=setup, python=sys.executable))
    assert [row.seed for row in checked.configurations] == [0, 1] and checked.name == "toy"
    assert (tmp_path / "started").exists() and not list(tmp_path.glob(".*"))
    assert capsys.readouterr().err == ""


def test_an_environment_that_this_machine_has_not_is_said(tmp_path, capsys):
    sweep = Sweep(TOY, fixed={"num_iterations": 1})
    check_there(sweep, Path("some.yaml"), [], place(tmp_path, python="/nowhere/python"))
    warning = capsys.readouterr().err
    assert "warning: the environment of the profile cannot start Python on this machine" in warning
    assert "/nowhere/python: No such file" in warning
    with pytest.raises(SlurmError, match=r"^some.yaml: fixed: lrr=1: no such key"):
        check_there(Sweep(TOY, fixed={"lrr": 1}), Path("some.yaml"), [], place(tmp_path, python="/bin/true"))
