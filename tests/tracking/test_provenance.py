from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from research.tracking import provenance
from research.tracking.experiment import ROOT
from slurm.snapshot import take_snapshot


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_commit_and_dirt_of_a_checkout(checkout):
    (state,) = provenance.git_state(checkout)
    assert state["commit"] == git(checkout, "rev-parse", "HEAD")
    assert state["dirty"] is False
    (checkout / "code.py").write_text("x = 2\n")
    assert provenance.git_state(checkout)[0]["dirty"] is True
    git(checkout, "checkout", "code.py")
    (checkout / "new.py").write_text("")
    assert provenance.git_state(checkout)[0]["dirty"] is True


def test_the_address_of_the_remote_has_no_login(checkout):
    git(checkout, "remote", "add", "origin", "https://me:secret@example.org/repo.git")
    assert provenance.git_state(checkout)[0]["url"] == "https://example.org/repo.git"


def test_outside_of_a_checkout_there_is_nothing(checkout, tmp_path_factory, monkeypatch):
    unpacked = checkout / "unpacked"  # a tarball inside somebody else's checkout
    unpacked.mkdir()
    assert provenance.git_state(unpacked) == []
    assert provenance.git_state(tmp_path_factory.mktemp("plain")) == []
    monkeypatch.setenv("PATH", "")
    assert provenance.git_state(checkout) == []


def test_a_copy_has_the_state_of_what_it_was_copied_from(checkout, tmp_path_factory):
    (checkout / "code.py").write_text("x = 2\n")
    copy = tmp_path_factory.mktemp("copy") / "code"
    take_snapshot(checkout, copy)
    assert provenance.git_state(copy) == provenance.git_state(checkout) != []
    assert provenance.uncommitted_changes(copy) == provenance.uncommitted_changes(checkout)
    assert "+x = 2" in provenance.uncommitted_changes(copy)


def test_a_checkout_without_a_commit_has_no_state(tmp_path):
    git(tmp_path, "init", "-q")
    assert provenance.git_state(tmp_path) == []


def test_all_of_the_library_and_the_script_are_kept():
    script = ROOT / "experiments" / "maml_trpo.py"
    files = provenance.source_files(ROOT, script)
    assert script in files
    assert set((ROOT / "research").rglob("*.py")) <= set(files)
    assert not [path for path in files if "site-packages" in path.parts]


def test_versions_of_the_libraries_that_numbers_depend_on():
    versions = dict(line.split("==") for line in provenance.library_versions())
    assert {"torch", "numpy", "sacred", "gymnasium"} <= versions.keys()
