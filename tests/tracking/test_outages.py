"""Whatever happens to the database: a run completes, its files hold all of it, and `sync` makes the database whole."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import mongo
import pytest
import toy_experiment
from mongo import wait_for
from toy_experiment import start_together

from research.tracking.mongo import VARIABLE, mirror
from research.tracking.mongo.sync import main
from research.tracking.records import read_rows

STEPS = 60
OPTIONS = f"num_iterations={STEPS} pause=0.03 eval_interval=20 checkpoint_interval=15"


@pytest.fixture
def quick(monkeypatch):
    """Sacred's beats and the mirror's, several times a second."""
    monkeypatch.setattr(mirror, "INTERVAL_SECONDS", 0.2)


def watch(lab, run, at_step, act):
    """Calls `act` from a thread once a run has recorded a step."""
    path = lab.directory / "runs" / str(run) / "metrics.jsonl"

    def work():
        wait_for(lambda: path.exists() and path.read_text().count("\n") >= at_step)
        act()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def assert_whole(lab, run):
    """The files hold every step once, and all went well."""
    assert lab.record(run)["status"] == "COMPLETED"
    assert [step for step, _ in lab.metrics(run)] == list(range(1, STEPS + 1))


def run_timed(lab, line):
    began = time.monotonic()
    lab.run(line)
    assert lab.exit_code == 0
    return time.monotonic() - began


@pytest.mark.parametrize("kind", ["absent", "silent"])
def test_a_server_that_never_answers(mirrored, quick, line, content, kind, capsys, monkeypatch):
    if kind == "silent":
        line.fall_silent()
    without = time.monotonic()
    monkeypatch.delenv(VARIABLE)
    mirrored.run(f"-b 0.1 with {OPTIONS}")
    without = time.monotonic() - without
    monkeypatch.setenv(VARIABLE, line.address)
    seconds = run_timed(mirrored, f"-b 0.1 with {OPTIONS}")
    # One wait at the start, one at the end; neither grows with the run.
    assert seconds < without * 1.05 + mirror.START_SECONDS + mirror.SILENCE_SECONDS + 1
    assert_whole(mirrored, 2)
    shown = capsys.readouterr().out
    assert shown.count("warning: ") == 1
    assert "cannot be written" in shown and "python -m research.tracking sync runs --run 2" in shown
    line.cut()
    line.connect()
    assert main(["sync"]) == 0
    for run in (1, 2):
        content.assert_complete(mirrored.directory, run)


def test_a_server_that_goes_away_and_comes_back(mirrored, quick, line, content, capsys):
    line.connect()

    def outage():
        line.cut()
        wait_for(lambda: "cannot be written" in mirrored.output(1))
        line.connect()

    thread = watch(mirrored, 1, 15, outage)
    run_timed(mirrored, f"-b 0.1 with {OPTIONS} pause=0.12")  # long enough to see both
    thread.join()
    assert_whole(mirrored, 1)
    content.assert_complete(mirrored.directory, 1)  # no sync was needed
    shown = capsys.readouterr().out
    assert shown.count("warning: ") == 1 and "back, and up to date" in shown
    assert "cannot be written" in mirrored.output(1)  # the record knows of it


@pytest.mark.parametrize("act", ["cut", "fall_silent"])
def test_a_server_that_goes_away_for_good(mirrored, quick, line, content, act):
    line.connect()
    thread = watch(mirrored, 1, 20, getattr(line, act))
    run_timed(mirrored, f"-b 0.1 with {OPTIONS}")
    thread.join()
    assert_whole(mirrored, 1)
    assert content.run(1)["status"] == "RUNNING"
    line.cut()
    line.connect()
    main(["sync"])
    content.assert_complete(mirrored.directory, 1)


@pytest.mark.skipif(mongo.REAL is not None, reason="a real server is not killed")
def test_a_server_that_is_killed_ten_times(lab, quick, tmp_path, monkeypatch):
    server = mongo.MongoServer(tmp_path / "mongo")
    server.directory.mkdir()
    line = mongo.line_to(mongo.address_of(server.start())).connect()
    monkeypatch.setenv(VARIABLE, line.address)
    content = mongo.Content(mongo.address_of(server), line.database)
    kills = []

    def kill():
        for _ in range(10):
            wait_for(lambda: content.database.metrics.count_documents({}) >= 0)
            time.sleep(0.2)
            server.kill()
            kills.append(time.monotonic())
            server.start()

    thread = watch(lab, 1, 5, kill)
    lab.run(f"-b 0.1 with {OPTIONS} num_iterations=400")
    ended = time.monotonic()
    thread.join()
    assert sum(at < ended for at in kills) == 10
    assert [step for step, _ in lab.metrics(1)] == list(range(1, 401))
    wait_for(lambda: main(["sync"]) == 0)
    content.assert_complete(lab.directory, 1)
    content.close()
    line.cut()
    server.kill()


def test_eight_at_once_on_one_database(tmp_path, line, content, monkeypatch):
    """From two directories, so that all want the same numbers."""
    line.connect()
    for name in ("lab0", "lab1"):
        (tmp_path / name).mkdir()
    environment = {VARIABLE: line.address}
    assert start_together(8, lambda index: tmp_path / f"lab{index % 2}", environment) == [0] * 8
    records = [json.loads(path.read_text()) for path in tmp_path.glob("lab*/runs/*/run.json")]
    assert [record["status"] for record in records] == ["COMPLETED"] * 8
    monkeypatch.setenv(VARIABLE, line.address)
    for name in ("lab0", "lab1"):
        assert main(["sync", str(tmp_path / name / "runs")]) == 0
    numbers = content.numbers()
    assert len(numbers) == 8
    assert sorted(content.run(number)["config"]["seed"] for number in numbers) == list(range(8))
    assert {content.run(number)["record"]["uid"] for number in numbers} == {record["uid"] for record in records}
    for number in numbers:
        assert content.metrics(number)["loss"][0] == [1, 2, 3]
        assert Path(content.run(number)["record"]["directory"]).name == str(number)


OUTAGES = {
    "none": [],
    "absent from the start": [(0, "cut")],
    "silent from the start": [(0, "fall_silent")],
    "away for 60 s": [(15, "cut"), (75, "connect")],
    "silent for 60 s": [(15, "fall_silent"), (75, "cut"), (75, "connect")],
    "away for good": [(15, "cut")],
}


def start_toy(directory, **environment):
    """90 s of training in a process of its own."""
    directory.mkdir()
    command = [sys.executable, "-W", "ignore", toy_experiment.__file__, "with", "num_iterations=900", "pause=0.1"]
    settings = {**os.environ, **environment}
    return subprocess.Popen(command, cwd=directory, env=settings, stdout=subprocess.PIPE, text=True)


def training_seconds(directory):
    """From the start of the run, before its number is claimed, to the end of its work."""
    record = json.loads((directory / "runs" / "1" / "run.json").read_text())
    assert record["status"] == "COMPLETED"
    start, stop = (datetime.datetime.fromisoformat(record[key]) for key in ("start_time", "stop_time"))
    return (stop - start).total_seconds()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", OUTAGES)
def test_outages_of_a_minute_cost_next_to_nothing(tmp_path, line, content, monkeypatch, name):
    """Beside a run without a database that trains at the same time. docs/results/tracking.md keeps what this prints."""
    script = list(OUTAGES[name])
    if script and script[0][0] == 0:
        getattr(line, script.pop(0)[1])()
    else:
        line.connect()
    began = time.monotonic()
    without = start_toy(tmp_path / "without")
    mirrored = start_toy(tmp_path / "with", **{VARIABLE: line.address})
    ends = {}
    while len(ends) < 2:
        if script and time.monotonic() - began >= script[0][0]:
            getattr(line, script.pop(0)[1])()
        ends |= {one: time.monotonic() for one in (without, mirrored) if one not in ends and one.poll() is not None}
        time.sleep(0.05)
    extra = ends[mirrored] - ends[without]
    without.communicate()
    shown = mirrored.communicate()[0]
    base, seconds = training_seconds(tmp_path / "without"), training_seconds(tmp_path / "with")
    files = [row["step"] for row in read_rows(tmp_path / "with" / "runs" / "1")]
    assert files == list(range(1, 901))
    there = content.metrics(1) if "info" in (content.run(1) or {}) else {}
    stored = there.get("loss", ([], []))[0]
    monkeypatch.setenv(VARIABLE, line.address)
    line.cut()
    line.connect()
    assert main(["sync", str(tmp_path / "with" / "runs")]) == 0
    content.assert_complete(tmp_path / "with", 1)
    synced = content.metrics(1)["loss"][0]
    assert synced == files
    warnings = shown.count("warning: ")
    row = f"{base:.1f} | {seconds:.1f} | {extra:+.1f} | {len(files)} | {len(stored)} | {len(synced)} | {warnings}"
    print(f"| {name} | {row} |")  # noqa: T201
    assert seconds < 1.05 * base
    assert extra < 0.05 * base  # of the whole process, its start and its end
