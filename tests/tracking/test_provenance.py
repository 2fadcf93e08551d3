from __future__ import annotations

import json
import os
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from research.tracking import provenance, run
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
    assert "git cannot be run" in provenance.why_no_commit(checkout)


def test_a_copy_has_the_state_of_what_it_was_copied_from(checkout, tmp_path_factory):
    (checkout / "code.py").write_text("x = 2\n")
    copy = tmp_path_factory.mktemp("copy") / "code"
    take_snapshot(checkout, copy)
    assert provenance.git_state(copy) == provenance.git_state(checkout) != []
    assert provenance.uncommitted_changes(copy) == provenance.uncommitted_changes(checkout)
    assert "+x = 2" in provenance.uncommitted_changes(copy)


CHANGES = {
    "blank lines at the end": (b"a\nb\n\n\n\n", b"a\nB\n\n\n\n"),
    "no line end at the end": (b"a\nb", b"a\nb\nc"),
    "CRLF": (b"a\r\nb\r\nc\r\n", b"a\r\nB\r\nc\r\n"),
    "binary": (bytes(range(256)), bytes(range(255, -1, -1))),
    "latin-1": ("é = 1\n".encode("latin-1"), "é = 2\n".encode("latin-1")),
    "UTF-16": ("é = 1\n".encode("utf-16"), "é = 2\n".encode("utf-16")),
    "new": (None, b"x = 3\n\n"),
    "new and binary": (None, b"\0\xff"),
    "new and empty": (None, b""),
    "deleted": (b"x = 1\n", None),
    "empty now": (b"x = 1\n", b""),
}


@pytest.mark.parametrize(
    "config",
    [{}, {"diff.noprefix": "true", "color.ui": "always"}, {"diff.mnemonicPrefix": "true", "diff.relative": "true"}],
)
@pytest.mark.parametrize("folder", ["", "code with ünicode/"])
def test_a_patch_gives_the_same_files_in_a_clean_checkout(folder, config, checkout, tmp_path_factory):
    root = checkout / folder
    root.mkdir(exist_ok=True)
    for name, (before, _) in CHANGES.items():
        if before is not None:
            (root / f"{name} ü.py").write_bytes(before)
    (root / "code.py").write_text("")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "second")
    clean = tmp_path_factory.mktemp("clean") / "checkout"
    git(checkout, "clone", "-q", str(checkout), str(clean))
    for key, value in config.items():
        git(checkout, "config", key, value)
    for name, (_, after) in CHANGES.items():
        path = root / f"{name} ü.py"
        path.unlink() if after is None else path.write_bytes(after)
    index = (checkout / ".git" / "index").read_bytes()
    patch = provenance.uncommitted_changes(root)
    assert (checkout / ".git" / "index").read_bytes() == index
    kept = tmp_path_factory.mktemp("kept") / "uncommitted.diff"
    kept.write_bytes(provenance.patch_bytes(json.loads(json.dumps(patch))))
    git(clean, "apply", str(kept))
    for name, (_, after) in CHANGES.items():
        path = clean / folder / f"{name} ü.py"
        assert (path.read_bytes() if path.exists() else None) == after, name


def test_large_new_files_and_records_are_not_in_the_patch_and_are_named(checkout):
    (checkout / "big.bin").write_bytes(b"x" * (1 << 20) + b"x")
    record = checkout / "results" / "1"
    (record / "checkpoints").mkdir(parents=True)
    for name in ("run.json", "config.json", "checkpoints/latest.pt"):
        (record / name).write_text("{}")
    (checkout / "results" / "_sources").mkdir()
    (checkout / "results" / "_sources" / "code_1.py").write_text("")
    (checkout / "new.py").write_text("x = 3\n")
    (state,) = provenance.git_state(checkout)
    assert state["not_in_patch"] == ["big.bin", "results/"]
    assert [line for line in provenance.uncommitted_changes(checkout).splitlines() if "diff --git" in line] == [
        "diff --git a/new.py b/new.py"
    ]


def test_a_new_file_that_another_program_removes_meanwhile_stops_nothing(checkout, monkeypatch):
    for name in ("here.py", "gone.py"):
        (checkout / name).write_text("x = 1\n")
    lstat = provenance.os.lstat

    def removed(path, **options):
        if str(path).endswith("gone.py'"):
            (checkout / "gone.py").unlink(missing_ok=True)
        return lstat(path, **options)

    monkeypatch.setattr(provenance.os, "lstat", removed)
    assert provenance._new_files(checkout) == (["here.py"], ["gone.py"])


def test_a_new_file_that_goes_before_git_sees_it_leaves_the_others_in_the_patch(checkout, monkeypatch):
    (checkout / "here.py").write_text("x = 1\n")
    listed = iter([(["gone.py", "here.py"], []), (["here.py"], [])])
    monkeypatch.setattr(provenance, "_new_files", lambda root: next(listed))
    assert "+++ b/here.py" in provenance.uncommitted_changes(checkout)


def test_a_change_in_the_instant_of_the_index_is_in_the_patch(checkout):
    """Size and time of the file are those that the index has: git reads it, because the index is no newer."""
    git(checkout, "config", "core.trustctime", "false")
    instant = 1_700_000_000
    os.utime(checkout / "code.py", (instant, instant))
    git(checkout, "update-index", "--refresh")
    (checkout / "code.py").write_text("x = 2\n")
    os.utime(checkout / "code.py", (instant, instant))
    os.utime(checkout / ".git" / "index", (instant, instant))
    assert "+x = 2" in provenance.uncommitted_changes(checkout)


def test_a_folder_of_a_larger_repository_has_its_commit_and_its_changes(checkout):
    project = checkout / "code"
    project.mkdir()
    (project / "part.py").write_text("x = 1\n")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "second")
    (checkout / "code.py").write_text("of another project\n")
    (state,) = provenance.git_state(project)
    assert (state["commit"], state["dirty"], state["folder"]) == (git(checkout, "rev-parse", "HEAD"), False, "code/")
    assert provenance.uncommitted_changes(project) == ""
    (project / "part.py").write_text("x = 2\n")
    assert provenance.git_state(project)[0]["dirty"] is True
    assert "+++ b/code/part.py" in provenance.uncommitted_changes(project)


def test_a_run_without_a_commit_says_why(lab, monkeypatch, tmp_path_factory):
    plain = tmp_path_factory.mktemp("plain")
    assert "not a git repository" in provenance.why_no_commit(plain)
    monkeypatch.setattr(provenance, "why_no_commit", lambda root: "not a git repository")
    monkeypatch.setattr(run, "why_no_commit", lambda root: "not a git repository")
    lab.run("with num_iterations=1")
    assert lab.record(1)["experiment"]["repositories"] == []
    assert f"No commit of the code is recorded: {ROOT}: not a git repository." in lab.output(1)


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
    assert versions == {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    assert {"torch", "numpy", "sacred", "gymnasium"} <= versions.keys()


def test_a_distribution_that_is_a_single_file_has_its_version(tmp_path, monkeypatch):
    text = "Metadata-Version: 1.0\nName: Old-Style\nVersion: 1.5\n"
    (tmp_path / "Old_Style-1.5.egg-info").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert "old-style==1.5" in provenance.library_versions.__wrapped__()
