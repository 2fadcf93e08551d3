"""Damaged and foreign files in a directory of runs: one warning each, and all commands go on with the rest."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest

from slurm import guard
from slurm.cli import main
from slurm.folder import Array, Folder, read_settings, write_settings
from slurm.known import past_runs
from slurm.manifest import Entry, read_manifest, write_manifest

TORN = ("", '{"status": "COMPL', "[1, 2]", "null", '"text"')


@pytest.fixture
def sweeps(desk, no_slurm):
    """Two completed sweeps of one run each."""
    desk.slurm("submit", desk.sweep("one", fixed={"num_iterations": 1}), "--local", "--no-snapshot")
    desk.slurm("submit", desk.sweep("two", fixed={"num_iterations": 1, "seed": 1}), "--local", "--no-snapshot")
    return desk


@pytest.mark.thorough
def test_a_damaged_record_is_named_and_stops_no_command(sweeps):
    desk = sweeps
    for file, state in (("run.json", "damaged"), ("config.json", "completed")):
        path = desk.directory / "runs" / "1" / file
        whole = path.read_text()
        for content in TORN:
            path.write_text(content)
            assert desk.states("one") == {1: state} and desk.states("two") == {2: "completed"}
            assert "two-1" in desk.slurm("status")
            assert "Nothing to retry" in desk.slurm("retry", "--local")
            again = desk.sweep("three", fixed={"num_iterations": 1}, seeds=2)
            shown = desk.slurm("submit", again, "--local", "--no-snapshot", "--dry-run")
            known = "run 2" if state == "damaged" else "runs 1, 2"
            assert f"have completed already and are skipped: {known}" in shown
        if state == "damaged":
            assert f"{path} is damaged; restore it from a copy" in desk.status("one")[0]["note"]
        path.write_text(whole)


@pytest.mark.thorough
def test_a_damaged_sweep_is_named_and_the_others_go_on(sweeps):
    desk, folder = sweeps, sweeps.directory / "runs" / "_sweeps" / "one-1"
    manifest = folder / "manifest.jsonl"
    whole = manifest.read_bytes()
    for content in (b"", whole[:-9], b"\xff\xfe\n", whole.replace(b'"run": 1', b'"run": "../1"')):
        manifest.write_bytes(content)
        shown = desk.slurm("status")
        assert "warning: one-1 is left out: " in shown and "two-1" in shown
        assert "Nothing to retry" in desk.slurm("retry", "--local")
        assert "error: " in desk.slurm("status", "one", status=2)
        assert "error: run 9: no sweep in" in desk.slurm("logs", 9, status=2)
    manifest.write_bytes(whole)
    jobs = folder / "jobs.jsonl"
    jobs.write_text('{"stage": 0, "off\n' + jobs.read_text())
    assert "jobs.jsonl: line 1 is damaged and not used" in desk.slurm("status")
    assert "score" in desk.slurm("logs", 1)


@pytest.mark.parametrize("content", [*TORN, '{"name": "x", "settings": [{}, {}], "given": [[]]}', '{"settings": 3}'])
def test_damaged_settings_of_a_sweep_are_those_of_no_run(tmp_path, content):
    folder = Folder(tmp_path)
    write_settings(folder, "toy", [{"lr": 0.1}, {"lr": 0.2}], [["lr"], []])
    assert read_settings(folder) == ("toy", [({"lr": 0.1}, ["lr"]), ({"lr": 0.2}, [])])
    (tmp_path / "settings.json").write_text(content)
    assert read_settings(folder) == (None, [])


def test_status_says_that_every_sweep_is_damaged(tmp_path, capsys, no_slurm):
    folder = tmp_path / "_sweeps" / "one-1"
    assert main(["status", "--runs-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"No sweep is in {folder.parent}.\n"
    folder.mkdir(parents=True)
    (folder / "manifest.jsonl").write_text("torn")
    assert main(["status", "--runs-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"No sweep in {folder.parent} can be read: 1 damaged.\n" and "one-1 is left out" in shown.err


def test_a_sweep_that_another_machine_runs_is_not_cancelled_here(tmp_path, capsys, monkeypatch, no_slurm):
    folder = Folder(tmp_path / "_sweeps" / "one-1")
    folder.path.mkdir(parents=True)
    write_manifest(folder.manifest(0), [Entry(1, "hash", 1, "experiments/x.py", "ensure", [], {})])
    killed = []
    monkeypatch.setattr("os.kill", lambda *arguments: killed.append(arguments))
    with guard.hold(folder.working, "runs it"):
        for host, status in (("elsewhere", 2), (socket.gethostname(), 0)):
            folder.add(Array(0, 0, [0], host=host))
            assert main(["cancel", "one", "--runs-dir", str(tmp_path)]) == status
    assert capsys.readouterr().err == "error: one-1 runs on elsewhere; cancel it there\n"
    assert killed == [(os.getpid(), signal.SIGTERM)]


def test_an_error_of_the_operating_system_is_one_line(tmp_path, capsys, no_slurm, monkeypatch):
    monkeypatch.setattr("slurm.commands.survey_all", lambda *_: (tmp_path / "gone").read_text())
    assert main(["status", "--runs-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: [Errno 2] No such file or directory: '{tmp_path}/gone'\n"


def test_only_a_folder_with_the_name_of_a_number_is_a_run_of_this_number(tmp_path):
    config = {"lr": 0.1}
    for name in ("7", "007", "²"):
        (tmp_path / name).mkdir()
        run = {"status": "COMPLETED", "command": "train", "experiment": {"name": "toy"}}
        (tmp_path / name / "run.json").write_text(json.dumps(run))
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "7" / "run.json").write_text(json.dumps({"status": "RUNNING"}))
    assert past_runs(tmp_path, {}) == []


def test_a_folder_of_a_strange_name_stops_nothing(sweeps):
    for name in ("one-²", "-", "two-", "one-0", "one-99999999999999999999", "\x1b[2J-1"):
        (sweeps.directory / "runs" / "_sweeps" / name).mkdir()
    shown = sweeps.slurm("submit", sweeps.sweep("one", fixed={"num_iterations": 1, "seed": 5}), "--local", "--dry-run",
                         "--no-snapshot")  # fmt: skip
    assert f"Would write {sweeps.directory}/runs/_sweeps/one-2 " in shown


def test_names_reach_the_terminal_as_they_are(sweeps, capsys):
    folder = sweeps.directory / "runs" / "_sweeps" / "one-1"
    folder.rename(folder.with_name("\x1b]0;title\x07[red]name[bold]-1"))
    shown = sweeps.slurm("status")
    assert "\\x1b]0;title\\x07[red]name[bold]-1" in shown and "\x1b" not in shown
    assert "\x1b" not in sweeps.slurm("status", "no\x1b[2J", status=2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", "../../elsewhere"),
        ("run", 0),
        ("run", True),
        ("script", "/tmp/other.py"),
        ("script", "experiments/../../other.py"),
        ("script", "experiments/x.sh"),
        ("command", "print_config"),
        ("named_configs", ["--debug"]),
        ("named_configs", ["lr=1"]),
        ("named_configs", ["/tmp/settings.json"]),
        ("overrides", ["lr"]),
    ],
)
def test_a_manifest_leads_nowhere_else(tmp_path, field, value):
    entry = Entry(1, "hash", 1, "experiments/x.py", "ensure", ["fast"], {"lr": 0.1})
    write_manifest(tmp_path / "manifest.jsonl", [entry])
    assert read_manifest(tmp_path / "manifest.jsonl") == [entry]
    write_manifest(tmp_path / "manifest.jsonl", [entry._replace(**{field: value})])
    with pytest.raises(ValueError, match=f"line 0: {field}=.* is not possible"):
        read_manifest(tmp_path / "manifest.jsonl")


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["50%A", "back\\slash", "[bold]b", "two words", "ünï", "per%%cent"])
def test_a_sweep_of_any_name_runs(desk, cluster, name):
    desk.slurm("submit", desk.sweep(name, fixed={"num_iterations": 1}), "--no-snapshot")
    desk.wait(lambda: desk.states(name) == {1: "completed"}, 120, name)
    assert "score" in desk.slurm("logs", 1)
    assert json.loads(desk.slurm("status", "--json"))[0]["sweep"] == f"{name}-1"
