"""Without Slurm: dry runs, sweeps on this machine, and what is refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
import toy_experiment

from research.tracking import records
from slurm.cli import main
from slurm.local import Work, chain
from slurm.task import ROOT

RUNS = {"num_iterations": 4, "eval_interval": 2}


def contents(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if "programs" not in path.parts)


def test_a_dry_run_says_all_and_does_nothing_without_slurm(desk, no_slurm):
    sweep = desk.sweep(fixed=RUNS, seeds=3, then=[{"command": "evaluate"}])
    before = contents(desk.directory)
    shown = desk.slurm("submit", sweep, "--dry-run", "--profile", "cpu", "--throttle", 2, "--max-array", 2)
    assert contents(desk.directory) == before
    assert (
        "run 3: tests/support/array_experiment.py ensure {'num_iterations': 4, 'eval_interval': 2, 'seed': 2}" in shown
    )
    assert "run 6: tests/support/array_experiment.py evaluate {'run': 3}" in shown
    commands = re.findall(r"^  sbatch .*", shown, re.M)
    arrays = [
        re.search(r"--array=(\S+).*?(aftercorr|array.sbatch).* (\d+) \S+$", command).groups() for command in commands
    ]
    assert arrays == [
        ("0-1%2", "array.sbatch", "0"),
        ("0-1%2", "aftercorr", "0"),
        ("0%2", "array.sbatch", "2"),
        ("0%2", "aftercorr", "2"),
    ]
    assert all("--partition=cpu" in command for command in commands)


def test_without_slurm_a_submission_says_what_to_do_instead(desk, no_slurm):
    shown = desk.slurm("submit", desk.sweep(fixed=RUNS), status=2)
    assert "error: this machine has no Slurm" in shown and "--local -j 2" in shown
    assert not (desk.directory / "runs").exists()


def test_one_misspelt_key_in_the_random_part_refuses_all_of_it(desk):
    draw = {"lr": {"uniform": [0.1, 0.2]}, "surface.sizee": {"integers": [1, 5]}}
    shown = desk.slurm("submit", desk.sweep(random={"count": 50, "draw": draw}), "--local", status=2)
    assert re.search(r"toy\.yaml: random: surface\.sizee=\d: no such key; did you mean surface\.size\?", shown)
    assert not (desk.directory / "runs").exists()


@pytest.mark.slow
def test_a_sweep_is_done_here_a_few_at_a_time_and_only_once(desk, no_slurm):
    sweep = desk.sweep(fixed=RUNS, grid={"surface.size": [2, 3]}, then=[{"command": "evaluate", "fixed": {"seed": 9}}])
    shown = desk.slurm("submit", sweep, "--local", "-j", 2)
    assert "4 of 4 runs have completed" in shown
    assert set(desk.states().values()) == {"completed"}
    for run, size in ((1, 2), (2, 3)):
        assert desk.record(run, "config.json")["surface"]["size"] == size
        assert [row["step"] for row in records.read_rows(desk.directory / "runs" / str(run))] == [1, 2, 3, 4]
        assert desk.record(run + 2)["command"] == "evaluate"
        assert desk.record(run + 2, "config.json")["run"] == run
    experiment = desk.record(1)["experiment"]
    assert experiment["base_dir"] == str(desk.directory / "runs" / "_sweeps" / "toy-1" / "code")
    assert "score" in desk.slurm("logs", 1)

    assert "Nothing is left to do" in desk.slurm("submit", sweep, "--local")
    assert "Nothing to retry" in desk.slurm("retry", "toy", "--local")
    more = desk.sweep(fixed=RUNS, grid={"surface.size": [3, 4]})
    shown = desk.slurm("submit", more, "--local")
    assert "1 have completed already and are skipped: run 2" in shown and "1 of 1 runs have completed" in shown
    assert desk.states("toy-2") == {2: "completed", 5: "completed"}
    assert "sweep" in desk.slurm("status") and "toy-2" in desk.slurm("status")
    assert "Would claim the ids 6 to 7" in desk.slurm("submit", more, "--local", "--force", "--dry-run")


def test_what_was_run_by_hand_and_completed_counts_too(desk, no_slurm):
    toy_experiment.make().run("train", config_updates={**RUNS, "seed": 1})
    shown = desk.slurm("submit", desk.sweep(fixed=RUNS, seeds=3), "--local", "--dry-run")
    assert "1 have completed already and are skipped: run 1" in shown and "Would claim the ids 2 to 3" in shown
    toy_experiment.make().run("evaluate", config_updates={"run": 1, "seed": 2})
    assert "Would claim the ids 3 to 4" in desk.slurm("submit", desk.sweep(fixed=RUNS, seeds=3), "--local", "--dry-run")


def test_ctrl_c_saves_every_run_and_retry_ends_them_as_if_nothing_had_happened(desk, no_slurm):
    fixed = {"num_iterations": 30, "checkpoint_interval": 4, "pause": 0.1}
    sweep = desk.sweep(fixed=fixed, seeds=[1, 2, 3])
    command = [sys.executable, "-m", "slurm", "submit", str(sweep), "--local", "-j", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (desk.directory / "shown").open("w") as shown:
        process = subprocess.Popen(command, env=environment, stdout=shown, stderr=shown)
    try:
        desk.wait(lambda: all(records.progress(desk.directory / "runs" / str(run)) > 2 for run in (1, 2)))
        assert desk.states() == {1: "running", 2: "running", 3: "pending"}
        assert desk.slurm("retry", "toy", "--local").startswith("Nothing to retry")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
    finally:
        process.kill()
    text = (desk.directory / "shown").read_text()
    assert "Stopping: each run finishes its iteration" in text and "0 of 3 runs have completed" in text
    assert desk.states() == {1: "interrupted", 2: "interrupted", 3: "missing"}
    desk.slurm("retry", "toy", "--local", "-j", 2)
    assert set(desk.states().values()) == {"completed"}
    for run in (1, 2, 3):
        rows = list(records.read_rows(desk.directory / "runs" / str(run)))
        assert [row["step"] for row in rows] == list(range(1, 31))
        assert len(desk.record(run)["resumed"]) == (1 if run < 3 else 0)


def test_a_local_sweep_is_cancelled_from_elsewhere(desk, no_slurm):
    sweep = desk.sweep(fixed={"num_iterations": 1000, "pause": 0.1})
    command = [sys.executable, "-m", "slurm", "submit", str(sweep), "--local"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    try:
        desk.wait(lambda: records.progress(desk.directory / "runs" / "1") > 2)
        assert f"Sent a stop signal to process {process.pid}" in desk.slurm("cancel", "toy")
        assert process.wait(60) == 1
    finally:
        process.kill()
    assert desk.states() == {1: "interrupted"}


def test_what_is_dead_is_marked_and_what_lives_is_not(desk, no_slurm):
    sweep = desk.sweep(fixed={"num_iterations": 1000, "pause": 0.1, "checkpoint_interval": 1})
    command = [sys.executable, "-m", "slurm", "submit", str(sweep), "--local"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    desk.wait(lambda: records.progress(desk.directory / "runs" / "1") > 2)
    assert "0 runs were stale" in desk.slurm("reset-stale")
    assert desk.record(1)["status"] == "RUNNING"
    process.kill()
    os.kill(desk.record(1, ".lock")["pid"], signal.SIGKILL)
    desk.wait(lambda: desk.states() == {1: "stale"}, 30)
    assert "run 1 of toy-1: interrupted" in desk.slurm("reset-stale")
    assert desk.record(1)["status"] == "INTERRUPTED"
    assert desk.states() == {1: "interrupted"}
    process.wait()


def test_what_follows_is_done_after_what_it_follows():
    work = chain([[0, 2], [0, 1, 2], [2]])
    assert work == [
        Work(0, 0, [Work(1, 0)]),
        Work(0, 2, [Work(1, 2), Work(2, 2)]),
        Work(1, 1),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("status", "nothing"), "error: nothing: no such sweep in"),
        (("logs", "3"), "error: run 3: no sweep in"),
        (("cancel", "nothing"), "error: nothing: no such sweep in"),
        (("submit", "nowhere.yaml"), "error: nowhere.yaml: no such file; . has toy"),
        (("submit", "toy.yaml", "--profile", "clustr"), "error: --profile clustr: "),
        (("task", "nowhere.jsonl", "0"), "error: nowhere.jsonl: cannot read the manifest (No such file"),
    ],
)
def test_what_there_is_not_is_said_plainly(desk, no_slurm, words, message):
    desk.sweep()
    assert message in desk.slurm(*words, status=2)


def test_a_directory_of_runs_that_cannot_be_written_is_refused(desk, no_slurm):
    (desk.directory / "file").write_text("")
    shown = desk.slurm("submit", desk.sweep(), "--local", "--runs-dir", "file/runs", status=2)
    assert "error: --runs-dir " in shown and "file/runs: cannot write " in shown and "(Not a directory)" in shown


def test_nonsense_on_the_command_line_is_refused_as_always(desk, capsys):
    with pytest.raises(SystemExit):
        main(["submit", "toy.yaml", "-j", "0"])
    assert "0: need at least 1" in capsys.readouterr().err


def test_sync_mongo_hands_over_to_tracking(desk, monkeypatch):
    called = []
    monkeypatch.setattr("research.tracking.mongo.sync.main", lambda words: called.append(words) or 1)
    desk.slurm("sync-mongo", "--runs-dir", "there", "--run", 3, 4, status=1)
    desk.slurm("sync-mongo", status=1)
    assert called == [["sync", "there", "--run", "3", "--run", "4"], ["sync", "runs"]]


def test_status_of_nothing_says_so(desk, no_slurm):
    assert "No sweep is in" in desk.slurm("status")
