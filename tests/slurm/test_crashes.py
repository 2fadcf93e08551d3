"""A submission that is killed at any operation: the next one submits each configuration once, and loses none."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from crash_points import CrashPoints
from fake_slurm import FakeSlurm

from slurm import commands
from slurm.cli import main
from slurm.manifest import read_entry


@pytest.fixture
def queue(tmp_path, monkeypatch):
    made = FakeSlurm(tmp_path / "fake", max_array_size=2)
    monkeypatch.setenv("PATH", f"{made.programs}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    return made


@pytest.fixture
def points(tmp_path):
    return CrashPoints(tmp_path / "points", tmp_path / "runs")


def submitted(queue):
    """What each task in the queue does: (command, settings, run)."""
    entries = [read_entry(Path(manifest), line) for manifest, line in queue.tasks()]
    return [(entry.command, json.dumps({**entry.overrides}, sort_keys=True), entry.run) for entry in entries]


def check_complete(desk, queue):
    """Four trainings and their evaluations are in the queue, each once, and every command agrees about it."""
    found = submitted(queue)
    trained = [run for command, _, run in found if command == "ensure"]
    assert len(found) == 8 and len({run for _, _, run in found}) == 8, "nothing doubled"
    assert len({text for command, text, _ in found if command == "ensure"}) == 4, "nothing lost"
    evaluated = [json.loads(text)["run"] for command, text, _ in found if command == "evaluate"]
    assert sorted(evaluated) == sorted(trained)
    states = {run["run"]: run["state"] for run in json.loads(out(desk.slurm("status", "--json")))}
    assert states == dict.fromkeys(states, "pending") and len(states) == 8
    assert "Nothing to retry" in desk.slurm("retry")
    hidden = (desk.directory / "runs" / "_sweeps").glob(".*")
    assert not [path for folder in hidden for path in folder.rglob("*") if path.is_file()], "nothing of it is left"


def out(shown):
    return "\n".join(line for line in shown.splitlines() if not line.startswith("warning: "))


EVERY = [pytest.param(5, marks=pytest.mark.thorough), pytest.param(1, marks=pytest.mark.slow)]
"""Steps from one operation to the next at which a submission is killed."""


@pytest.mark.parametrize("step", EVERY)
def test_a_submission_killed_anywhere_is_completed_by_the_next_one(desk, queue, points, step):
    words = ["submit", str(desk.sweep(seeds=4, then=[{"command": "evaluate"}])), "--no-snapshot"]
    desk.slurm(*words)  # imports everything
    check_complete(desk, queue)
    queue.empty()
    shutil.rmtree(desk.directory / "runs")
    points.fork(lambda: main(words))
    check_complete(desk, queue)
    operations = points.operations()
    assert len(operations) >= 28 and sum("sbatch" in operation for operation in operations) == 4
    for number in range(1, len(operations) + 1, step):
        queue.empty()
        shutil.rmtree(desk.directory / "runs")
        points.fork(lambda: main(words), number)
        desk.slurm(*words)
        check_complete(desk, queue)


@pytest.mark.parametrize("step", EVERY)
def test_a_retry_killed_anywhere_is_completed_by_the_next_one(desk, queue, points, step):
    sweep = desk.sweep(seeds=4, then=[{"command": "evaluate"}])
    desk.slurm("submit", sweep, "--no-snapshot")
    queue.empty()  # cancelled before they started
    desk.slurm("retry")
    queue.empty()
    points.fork(lambda: main(["retry"]))
    check_complete(desk, queue)
    for number in range(1, len(points.operations()) + 1, step):
        queue.empty()
        points.fork(lambda: main(["retry"]), number)
        desk.slurm("retry")
        check_complete(desk, queue)


def test_an_array_that_slurm_has_and_nobody_recorded_is_adopted(desk, queue):
    desk.slurm("submit", desk.sweep(seeds=2), "--no-snapshot")
    jobs = desk.directory / "runs" / "_sweeps" / "toy-1" / "jobs.jsonl"
    recorded = jobs.read_text()
    jobs.unlink()
    shown = desk.slurm("status", "toy")
    assert "its submission was stopped; 1 arrays in the queue belong to it" in shown and "2 pending" in shown
    found, expected = json.loads(jobs.read_text()), json.loads(recorded)
    assert {**found, "time": 0} == {**expected, "time": 0}
    assert "2 wait or run already and are skipped" in desk.slurm("submit", desk.sweep(seeds=2), "--no-snapshot")


def test_a_sweep_that_is_being_submitted_is_not_submitted_by_another_process(desk, queue):
    from slurm import guard

    desk.slurm("submit", desk.sweep(seeds=2), "--no-snapshot")
    queue.empty()
    folder = desk.directory / "runs" / "_sweeps" / "toy-1"
    with guard.hold(folder / "submit.lock", "submits it"):
        (folder / "submit.lock").write_text(str(os.getppid()))
        assert "Nothing to retry" in desk.slurm("retry")
        shown = desk.slurm("submit", desk.sweep(seeds=2), "--no-snapshot")
        assert "2 wait or run already and are skipped: runs 1, 2" in shown
    assert "2 runs to continue" in desk.slurm("retry")


@pytest.mark.parametrize("words", [["retry"], ["retry", "toy"]])
def test_two_that_retry_at_once_submit_each_run_once(desk, queue, monkeypatch, words):
    """The second one runs from its beginning to its end while the first one has surveyed and not yet submitted."""
    desk.slurm("submit", desk.sweep(seeds=4, then=[{"command": "evaluate"}]), "--no-snapshot")
    queue.empty()
    shown = []

    def survey(*arguments):
        monkeypatch.setattr(commands, "survey_all", real)
        found = real(*arguments)
        shown.append(desk.slurm(*words, status=1))
        return found

    real = commands.survey_all
    monkeypatch.setattr(commands, "survey_all", survey)
    shown.append(desk.slurm(*words))
    left_out = f"toy-1 is left out: toy-1: process {os.getpid()} already submits it; wait until it has ended"
    assert left_out in shown[0] and "Nothing to retry" not in shown[0] and "8 runs to continue" in shown[1]
    check_complete(desk, queue)


@pytest.mark.parametrize("kept", [1, 30, -1])
def test_a_torn_record_of_a_job_swallows_no_other(desk, queue, kept):
    """After a power failure, the line of the first array is cut. The next one is a line of its own."""
    sweep = desk.sweep(seeds=4)
    desk.slurm("submit", sweep, "--no-snapshot")
    jobs = desk.directory / "runs" / "_sweeps" / "toy-1" / "jobs.jsonl"
    first, *_ = jobs.read_text().splitlines()
    jobs.write_text(first[:kept])
    shown = desk.slurm("status", "toy")
    assert "arrays in the queue belong to it" in shown and "4 pending" in shown
    torn, *whole = jobs.read_text().splitlines()
    assert torn == first[:kept] and sorted(json.loads(line)["job"] for line in whole) == ["100", "101"]
    assert "line 1 is damaged" in desk.slurm("status", "toy")


@pytest.mark.parametrize("name", ["submission.json", "submit.lock", "settings.json", "manifest.jsonl", "jobs.jsonl"])
def test_a_full_disk_ends_a_submission_with_one_line(desk, queue, monkeypatch, name):
    """What Slurm has accepted already is adopted later, and nothing is submitted twice."""
    words = ["submit", desk.sweep(seeds=2), "--no-snapshot"]
    opens = Path.open

    def full(path, mode="r", *arguments, **named):
        if name in path.name and set(mode) & set("wxa"):
            return opens(Path("/dev/full"), mode.replace("x", "w").replace("a", "w"), *arguments, **named)
        return opens(path, mode, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        shown = desk.slurm(*words, status=2)
    *_, line = shown.splitlines()
    assert shown.count("error:") == 1 and line.startswith("error: ") and f"{name}'" in line
    desk.slurm(*words)
    assert len(queue.tasks()) == 2 and desk.states() == {1: "pending", 2: "pending"}
