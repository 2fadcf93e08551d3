"""A run that was stopped, in whatever way, goes on to the result of one that never was."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
import termios

import pytest
import torch
import toy_experiment
from toy_experiment import OPTIONS

from research.files import write_json
from research.tracking.observer import FileObserver
from research.tracking.signals import Stopped


@pytest.mark.parametrize(("signum", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_iteration_and_saves_it(lab, after_step, signum, exit_code):
    lab.run(f"with {OPTIONS}")
    after_step(7, lambda: signal.raise_signal(signum))
    lab.run(f"with {OPTIONS}")
    assert lab.exit_code == exit_code
    assert lab.record(2)["status"] == "INTERRUPTED"
    assert lab.state(2)["iteration"] == 7
    assert [step for step, _ in lab.metrics(2)] == list(range(1, 8))
    assert "Stopped after iteration 7 of 12" in lab.output(2)
    assert "resume with run=2" in lab.output(2)
    lab.run("resume with run=2")
    lab.assert_same(2, 1)
    assert lab.record(2)["status"] == "COMPLETED"
    assert lab.record(2, "config.json") == lab.record(1, "config.json")


def test_a_terminal_that_is_closed_stops_the_run_and_it_is_saved(lab):
    """A hang-up, and then nowhere to print to."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, toy_experiment.__file__, *f"with {OPTIONS} checkpoint_interval=0 pause=0.1".split()]
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the tests may run below nohup
    )
    os.close(theirs)
    shown = b""
    while b"/12 |" not in shown:
        shown += os.read(ours, 1 << 12)
    os.close(ours)
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait(60) == 129
    assert lab.record(1)["status"] == "INTERRUPTED"
    assert lab.state(1)["iteration"] == len(lab.metrics(1)) >= 1
    lab.run("resume with run=1")
    lab.run(f"with {OPTIONS} checkpoint_interval=0")
    assert lab.metrics(1) == lab.metrics(2)


def test_checkpoints_that_are_due_by_the_clock_change_no_number(lab):
    lab.run(f"with {OPTIONS}")
    lab.run(f"with {OPTIONS} checkpoint_interval=0 checkpoint_seconds=1e-9")
    lab.assert_same(2, 1)


def test_a_run_of_another_machines_device_goes_on_here(lab, capsys):
    lab.run(f"with {OPTIONS} num_iterations=4")
    for name in ("latest", "best"):
        path = lab.directory / "runs" / "1" / "checkpoints" / f"{name}.pt"
        content = torch.load(path, weights_only=True)
        content["config"]["device"] = "cuda:7"
        torch.save(content, path)
    write_json(lab.directory / "runs" / "1" / "config.json", lab.record(1, "config.json") | {"device": "cuda:7"})
    lab.run("resume with run=1 num_iterations=12")
    assert lab.exit_code == 2
    assert "device=cpu also continues, or evaluates, a run of another machine" in capsys.readouterr().err
    lab.run("evaluate with run=1 device=cpu")
    assert lab.exit_code == 0
    lab.run("resume with run=1 num_iterations=12 device=cpu")
    lab.run(f"with {OPTIONS}")
    lab.assert_same(1, 3)
    assert lab.record(1)["resumed"][0]["changed"]["device"] == ["cuda:7", "cpu"]


def test_a_run_that_goes_on_further_keeps_the_length_of_its_schedules(lab):
    lab.run("with num_iterations=4")
    lab.run("resume with run=1 num_iterations=6")
    assert lab.record(1, "config.json")["schedule_iterations"] == 4
    assert lab.record(1)["resumed"][0]["changed"] == {"num_iterations": [4, 6], "schedule_iterations": [None, 4]}
    assert "Schedules end after iteration 4 (schedule_iterations=4)" in lab.output(1)
    lab.run("resume with run=1 num_iterations=8")
    assert lab.record(1, "config.json")["schedule_iterations"] == 4
    lab.run("ensure with run=1 num_iterations=9")
    assert lab.exit_code == 0
    assert lab.record(1, "config.json")["schedule_iterations"] == 4
    lab.run("resume with run=1 num_iterations=10 schedule_iterations=10")
    assert lab.record(1, "config.json")["schedule_iterations"] == 10
    assert lab.record(1)["resumed"][-1]["changed"] == {"num_iterations": [9, 10], "schedule_iterations": [4, 10]}


def test_a_run_that_is_resumed_as_it_was_started_has_no_other_schedules(lab, after_step):
    after_step(2, lambda: signal.raise_signal(signal.SIGTERM))
    lab.run("with num_iterations=4")
    lab.run("resume with run=1")
    assert lab.record(1, "config.json")["schedule_iterations"] is None
    assert lab.record(1)["resumed"][0]["changed"] == {}


def test_in_a_program_a_stop_is_an_exception(lab, after_step):
    after_step(1, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped, match="Stopped after iteration 1 of 10"):
        toy_experiment.make().run()


def test_a_second_ctrl_c_stops_at_once_and_can_be_resumed(lab, after_step, capsys):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    lab.run(f"with {OPTIONS}")
    after_step(7, twice)
    lab.run(f"with {OPTIONS}")
    assert lab.exit_code == 130
    assert lab.record(2)["status"] == "INTERRUPTED"
    assert lab.state(2)["iteration"] == 5  # the last one that was due
    assert "resume with run=2" in capsys.readouterr().err
    lab.run("resume with run=2")
    lab.assert_same(2, 1)


@pytest.mark.parametrize("iteration", [1, 5, 8, 12])
def test_a_crash_is_resumed_from_the_last_checkpoint(lab, after_step, iteration):
    def crash():
        raise OSError("the machine is on fire")

    lab.run(f"with {OPTIONS}")
    start_time = lab.record(1)["start_time"]
    after_step(iteration, crash)
    lab.run(f"with {OPTIONS}")
    assert (lab.exit_code, lab.record(2)["status"]) == (1, "FAILED")
    lab.run("resume with checkpoint=runs/2/checkpoints/latest")
    lab.assert_same(2, 1)
    record = lab.record(2)
    assert record["status"] == "COMPLETED"
    assert "fail_trace" not in record
    assert record["command"] == "train"
    assert start_time < record["start_time"] < record["resumed"][0]["time"]


def test_a_finished_run_can_go_on_further(lab):
    lab.run(f"with {OPTIONS}")
    lab.run("with num_iterations=4 eval_interval=4 checkpoint_interval=5 seed=2")
    lab.run("resume with run=2 num_iterations=12")
    lab.assert_same(2, 1)
    assert lab.record(2, "config.json")["num_iterations"] == 12
    lab.run("resume with run=2")  # nothing left to do but to evaluate
    lab.assert_same(2, 1)


def test_going_on_from_the_best_checkpoint_cuts_what_came_after(lab):
    lab.run("with num_iterations=12 eval_interval=2 lr=0.9")
    best = lab.state(1, "best")["iteration"]
    assert best < 12
    lab.run("with num_iterations=12 eval_interval=2 lr=0.9")
    lab.run("resume with checkpoint=runs/2/checkpoints/best")
    assert lab.record(2)["resumed"][0]["iteration"] == best
    lab.assert_same(2, 1)


def test_a_run_in_progress_is_left_alone(lab, capsys):
    lab.run("with num_iterations=3")
    other = FileObserver(lab.directory / "runs", resume_at=0)
    other.lock(1)
    capsys.readouterr()
    lab.run("resume with run=1 num_iterations=9")
    assert lab.exit_code == 75
    assert "run=1: another process writes runs/1" in capsys.readouterr().err
    other.unlock()


def test_a_record_that_cannot_be_written_stops_the_run(lab, monkeypatch):
    def full(self, metrics_by_name, info):
        raise OSError("No space left on device")

    monkeypatch.setattr(FileObserver, "log_metrics", full)
    lab.run("with num_iterations=30 checkpoint_interval=2")
    assert lab.exit_code == 1
    assert lab.state(1)["iteration"] == 0


def test_ctrl_c_in_a_process_of_its_own_and_the_command_that_it_prints(lab):
    """The real thing: signals from outside, and the printed command as it stands."""
    lab.run(f"with {OPTIONS} pause=0.02")
    process = lab.start(f"with {OPTIONS} pause=0.02", run=2)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert lab.record(2)["status"] == "INTERRUPTED"
    command = shown.split("Resume it with:\n")[1].splitlines()[0]
    subprocess.run(shlex.split(command), check=True, timeout=60, capture_output=True)
    lab.assert_same(2, 1)
