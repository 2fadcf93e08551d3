"""What the queue and the record say together."""

from __future__ import annotations

import datetime
import json
import os
import socket
import time

import pytest

from slurm import scheduler
from slurm.errors import SlurmError
from slurm.folder import Array, Folder
from slurm.manifest import Entry, write_manifest
from slurm.scheduler import NoSlurmError, Queued
from slurm.states import STATES, survey
from slurm.tables import as_json, duration, runs_table, seconds_left, sweeps_table

NOW = 1_800_000_000.0


def utc(seconds):
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(tzinfo=None).isoformat()


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path / "runs" / "_sweeps" / "toy-1")
    made.path.mkdir(parents=True)
    entries = [Entry(run, f"h{run}", run, "x.py", "ensure", [], {"lr": run / 10, "same": 1}) for run in (1, 2)]
    write_manifest(made.manifest(0), entries)
    for run in (1, 2):
        (made.runs_dir / str(run)).mkdir()
    made.add(Array(0, 0, [0, 1], job="70"))
    return made


def record(folder, status, rows=(), lock=None, lock_age=0.0, **fields):
    directory = folder.runs_dir / "1"
    run = {"status": status, "start_time": utc(NOW - 100), "heartbeat": utc(NOW - 20), "resumed": [], **fields}
    (directory / "run.json").write_text(json.dumps(run))
    (directory / "config.json").write_text(json.dumps({"num_iterations": 50}))
    lines = (json.dumps({"step": step, "timestamp": "", "values": {"loss": loss}}) for step, loss in rows)
    (directory / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if lock is not None:
        (directory / ".lock").write_text(json.dumps({"token": "t", "slurm_job": None, **lock}))
        then = time.time() - lock_age
        os.utime(directory / ".lock", (then, then))


def first(folder, queue=None):
    return survey(folder, queue or {}, NOW)[0]


ELSEWHERE = {"host": "elsewhere", "pid": 1}
PENDING = {("70", 0): Queued("PENDING", "Priority")}
RUNNING = {("70", 0): Queued("RUNNING", "None")}
COMPLETING = {("70", 0): Queued("COMPLETING", "None")}


@pytest.mark.parametrize(
    ("queue", "fields", "expected"),
    [
        (PENDING, None, "pending"),
        (RUNNING, None, "running"),
        ({}, None, "missing"),
        (RUNNING, {"status": "RUNNING"}, "running"),
        (RUNNING, {"status": "INTERRUPTED"}, "running"),
        (PENDING, {"status": "INTERRUPTED"}, "requeued"),
        (PENDING, {"status": "RUNNING"}, "requeued"),
        (PENDING, {"status": "FAILED"}, "requeued"),
        (COMPLETING, {"status": "COMPLETED"}, "completed"),
        ({}, {"status": "COMPLETED"}, "completed"),
        ({}, {"status": "COMPLETED", "rows": [(1, None), (2, 0.5)]}, "completed"),
        ({}, {"status": "COMPLETED", "rows": [(1, 0.5), (2, None)]}, "diverged"),
        ({}, {"status": "COMPLETED", "result": {"score": [0.5, None]}}, "diverged"),
        ({}, {"status": "COMPLETED", "result": {"score": [0.5, 0.75]}}, "completed"),
        ({}, {"status": "FAILED", "rows": [(1, 0.5)]}, "failed"),
        ({}, {"status": "FAILED", "rows": [(1, None)]}, "diverged"),
        ({}, {"status": "INTERRUPTED"}, "interrupted"),
        ({}, {"status": "RUNNING", "lock": ELSEWHERE, "lock_age": 20.0}, "running"),
        ({}, {"status": "RUNNING", "lock": ELSEWHERE, "lock_age": 500.0}, "stale"),
        ({}, {"status": "RUNNING", "lock": {"host": socket.gethostname(), "pid": 2**22 + 1}}, "stale"),
        ({}, {"status": "RUNNING", "lock": {"host": socket.gethostname(), "pid": os.getpid()}}, "running"),
        ({}, {"status": "RUNNING"}, "stale"),
        ({("70", 1): Queued("RUNNING", "None"), ("71", 0): Queued("RUNNING", "None")}, None, "missing"),
    ],
)
def test_a_state_is_what_queue_and_record_say_together(folder, queue, fields, expected):
    if fields is not None:
        record(folder, **fields)
    assert expected in STATES
    assert first(folder, queue).state == expected


@pytest.mark.parametrize(
    ("metric", "has_diverged"),
    [
        ("loss", True),
        ("loss_before", True),
        ("value_loss", True),
        ("td_error", True),
        ("step_norm", True),
        ("eval/score_after_0", True),
        ("cg_residual", False),
        ("explained_variance", False),
        ("closs", False),
    ],
)
def test_a_run_has_diverged_if_its_loss_or_parameters_have_and_not_if_a_diagnostic_has_no_value(
    folder, metric, has_diverged
):
    record(folder, "COMPLETED")
    line = json.dumps({"step": 50, "timestamp": "", "values": {metric: None, "return_post": 1.0}})
    (folder.runs_dir / "1" / "metrics.jsonl").write_text(f"{line}\n")
    assert first(folder).state == ("diverged" if has_diverged else "completed")


def test_a_run_of_two_sweeps_has_one_state(folder):
    other = Folder(folder.path.with_name("toy-2"))
    other.path.mkdir()
    write_manifest(other.manifest(0), folder.stages()[0])
    assert [run.state for run in survey(other, PENDING, NOW)] == ["pending", "missing"]


def test_progress_pace_and_time_left_are_those_of_the_last_start(folder):
    resumed = [{"time": utc(NOW - 60), "iteration": 10}]
    record(folder, "RUNNING", [(step, 0.1) for step in range(1, 31)], ELSEWHERE, resumed=resumed)
    run = first(folder, RUNNING)
    assert (run.iteration, run.total, run.starts, run.slurm) == (30, 50, 2, "70_0 RUNNING")
    assert run.rate == pytest.approx((30 - 10) / (60 - 20))
    assert run.seconds_left == pytest.approx(20 / 0.5)
    assert run.fraction == pytest.approx(0.6)
    assert run.heartbeat == pytest.approx(0, abs=5)
    # The other one has all of its 50 iterations to do, at the same pace.
    waiting = survey(folder, RUNNING | {("70", 1): Queued("PENDING", "Resources")}, NOW)
    assert seconds_left(waiting) == pytest.approx((20 + 50) / 0.5)


def test_why_it_waits_and_what_it_failed_of_stand_beside_it(folder):
    assert first(folder, PENDING).note == "Priority"
    assert first(folder).note == "has no record; see `logs 1`"
    record(folder, "FAILED", fail_trace=["Traceback\n", "  File\n", "ValueError: no\n"])
    assert first(folder).note == "ValueError: no"
    assert json.loads(json.dumps(as_json(first(folder))))["note"] == "ValueError: no"


def test_a_retried_line_is_looked_up_under_its_new_job(folder):
    folder.add(Array(0, 0, [0], job="90"))
    record(folder, "FAILED")
    assert first(folder, {("90", 0): Queued("RUNNING", "None")}).slurm == "90_0 RUNNING"


def test_tables_show_what_varies_and_count_states(folder):
    from rich.console import Console

    record(folder, "COMPLETED")
    runs = survey(folder, {("70", 1): Queued("PENDING", "[x]")}, NOW)
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(runs_table(runs), sweeps_table([runs]))
    console.file.close()
    header, one, two, *rest = console.export_text().splitlines()
    assert "lr" in header and "same" not in header
    assert one.split()[:3] == ["1", "completed", "0/50"] and "0.1" in one
    assert two.split()[:2] == ["2", "pending"] and "[x]" in two
    assert rest[0].split() == ["sweep", "runs", "pending", "completed", "done", "left"]
    assert rest[1].split() == ["toy-1", "2", "1", "1", "50", "%"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (45.4, "45 s"), (200, "3 min"), (7500, "2:05 h"), (273_600, "3 d 4 h")]
)
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


def test_a_machine_without_slurm_and_one_whose_controller_is_down_are_told_apart(no_slurm, tmp_path, monkeypatch):
    assert not scheduler.is_here()
    with pytest.raises(NoSlurmError, match=r"this machine has no Slurm \(no squeue\).*--local -j 2"):
        scheduler.queue()

    def program(name, text):
        path = tmp_path / "programs" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    program("scontrol", "echo 'fatal: Could not establish a configuration source' >&2; exit 1")
    assert not scheduler.is_here()
    program("scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmError, match="scontrol failed: Unable to contact slurm controller"):
        scheduler.is_here()
    program("scontrol", "echo 'MaxArraySize            = 77'")
    assert scheduler.max_array_size() == 77
    program("squeue", "echo '12|3|RUNNING|toy|None'; echo '12|N/A|RUNNING|toy|None'; echo '9|0|PENDING|a.1|(a|b)'")
    assert scheduler.queue() == {
        ("12", 3): Queued("RUNNING", "None", "toy"),
        ("9", 0): Queued("PENDING", "(a|b)", "a.1"),
    }
