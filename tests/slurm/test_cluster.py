"""On a real Slurm: many tasks, arrays that are cut, tasks that are cancelled, sbatch by hand."""

from __future__ import annotations

import subprocess
import time

import pytest

from slurm.task import ROOT


def timed(function, *arguments):
    began = time.perf_counter()
    shown = function(*arguments)
    return shown, time.perf_counter() - began


def test_a_thousand_tasks_are_submitted_shown_and_cancelled_in_seconds(desk, cluster):
    (desk.directory / "true.yaml").write_text("python: /bin/true")
    sweep = desk.sweep(fixed={"num_iterations": 1}, seeds=1000)
    shown, seconds = timed(desk.slurm, "submit", sweep, "--profile", "true.yaml", "--throttle", 2)
    assert "1000 runs" in shown and seconds < 60  # another interpreter, which imports torch, checks the sweep
    states, seconds = timed(desk.states)
    assert len(states) == 1000 and seconds < 5
    assert set(states.values()) <= {"pending", "running", "missing"}
    assert list(states.values()).count("pending") > 800
    shown, seconds = timed(desk.slurm, "cancel", "toy")
    assert "Cancelled 1 arrays" in shown and seconds < 5
    desk.wait(lambda: set(desk.states().values()) == {"missing"}, 30)


def test_arrays_past_the_largest_are_cut_and_each_task_does_its_own_line(desk, cluster):
    # Instead of a run: the words that a task was called with.
    (desk.directory / "words.yaml").write_text("python: /bin/echo")
    sweep = desk.sweep(fixed={"num_iterations": 1}, seeds=7)
    desk.slurm("submit", sweep, "--profile", "words.yaml", "--max-array", 3)
    sweep_folder = desk.directory / "runs" / "_sweeps" / "toy-1"
    logs = sweep_folder / "logs"
    desk.wait(lambda: len([log for log in logs.glob("*_*.log") if "ended" in log.read_text()]) == 7)
    lines = sorted(
        line for log in logs.glob("*_*.log") for line in log.read_text().splitlines() if line.startswith("-m slurm")
    )
    assert lines == [f"-m slurm task {sweep_folder}/manifest.jsonl {line}" for line in range(7)]
    assert "7 missing" in desk.slurm("status", "toy")
    assert "see `logs 4`" in desk.status()[3]["note"]


@pytest.mark.slow
def test_some_runs_are_cancelled_and_the_others_stay(desk, cluster):
    (desk.directory / "sleep.yaml").write_text("container: timeout 100 tail -f /dev/null --\npython: /dev/null")
    desk.slurm("submit", desk.sweep(seeds=3), "--profile", "sleep.yaml")
    desk.wait(lambda: set(desk.states().values()) == {"running"}, 30)
    assert "Cancelled 1 tasks" in desk.slurm("cancel", "toy", "--run", 2)
    desk.wait(lambda: desk.states() == {1: "running", 2: "missing", 3: "running"}, 40)
    assert "error: --run 9: toy-1 has no such run" in desk.slurm("cancel", "toy", "--run", 9, status=2)


@pytest.mark.slow  # it waits minutes for the cluster
def test_what_waits_or_runs_is_not_submitted_again(desk, cluster):
    (desk.directory / "sleep.yaml").write_text("container: timeout 100 tail -f /dev/null --\npython: /dev/null")
    desk.slurm("submit", desk.sweep(seeds=2), "--profile", "sleep.yaml")
    shown = desk.slurm("submit", desk.sweep(seeds=3), "--profile", "sleep.yaml")
    assert "2 wait or run already and are skipped: runs 1, 2" in shown
    assert "Submitted job" in shown and ": 1 runs." in shown
    assert sorted(desk.states("toy-2")) == [1, 2, 3]


@pytest.mark.slow
def test_what_follows_a_run_of_another_sweep_waits_for_it(desk, cluster):
    desk.slurm("submit", desk.sweep(fixed={"num_iterations": 100, "pause": 0.4}, seeds=1))
    both = desk.sweep(fixed={"num_iterations": 100, "pause": 0.4}, seeds=[1, 0], then=[{"command": "evaluate"}])
    # Slurm lets a task wait only for the one with its own index, and run 1 is at another line here.
    assert "1 depend on unfinished runs of another sweep and are not submitted" in desk.slurm("submit", both)
    desk.wait(lambda: desk.states()[1] == "completed")
    assert desk.states()[4] == "missing"
    assert "1 runs to continue" in desk.slurm("retry", "toy-2")
    desk.wait(lambda: set(desk.states().values()) == {"completed"})
    assert desk.record(4)["result"]["iteration"] == 100


def test_what_slurm_refuses_is_said_and_nothing_is_lost(desk, cluster):
    (desk.directory / "wrong.yaml").write_text("partition: nowhere")
    shown = desk.slurm("submit", desk.sweep(fixed={"num_iterations": 1}), "--profile", "wrong.yaml", status=2)
    assert "error: sbatch failed: " in shown and "invalid partition specified: nowhere" in shown
    assert "python -m slurm retry toy-1" in shown
    assert desk.states() == {1: "missing"}
    assert "invalid partition specified: nowhere" in desk.slurm("retry", "toy", status=2), "the profile is kept"
    desk.slurm("retry", "toy", "--profile", "local")
    desk.wait(lambda: desk.states() == {1: "completed"})


def test_two_tasks_of_srun_share_a_run(desk, cluster):
    (desk.directory / "two.yaml").write_text("ntasks: 2")
    small = {"meta_batch_size": 3, "episodes_per_task": 2, "horizon": 5, "num_eval_tasks": 1, "num_threads": 1}
    sweep = desk.sweep("shared", experiment="maml_trpo", fixed={"num_iterations": 3, **small})
    desk.slurm("submit", sweep, "--profile", "two.yaml")
    desk.wait(lambda: desk.states("shared") == {1: "completed"}, 240)
    assert "procid" in desk.record(1)["slurm"]
    assert [path.name for path in (desk.directory / "runs").glob("[0-9]*")] == ["1"]
    (log,) = (desk.directory / "runs" / "_sweeps" / "shared-1" / "logs").glob("*.log")
    desk.wait(lambda: "ended with status 0" in log.read_text(), 30)
    assert desk.record(1, "info.json")["ranks"] == 2


def test_sbatch_by_hand_does_a_line_of_a_manifest(desk, cluster):
    (desk.directory / "none.yaml").write_text("partition: nowhere")
    desk.slurm("submit", desk.sweep(fixed={"num_iterations": 2}), "--profile", "none.yaml", status=2)
    folder = desk.directory / "runs" / "_sweeps" / "toy-1"
    command = ["sbatch", "--array=0", str(ROOT / "slurm" / "array.sbatch"), str(folder / "manifest.jsonl")]
    subprocess.run(command, check=True, capture_output=True)
    desk.wait(lambda: desk.states() == {1: "completed"})
