"""Full disks, places that cannot be written, damaged files, clocks that jump: clear errors, and nothing is lost."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import toy_experiment

from research.tracking import journal as journal_module
from research.tracking import run as run_module
from research.tracking.observer import FileObserver
from research.tracking.records import RecordError, has_record, progress, read_metrics, read_rows

OPTIONS = "num_iterations=12 eval_interval=4 checkpoint_interval=5 seed=2"

FULL_DISK = """
import resource, sys, toy_experiment
step = toy_experiment.Toy.step
def fill(self, state):
    if state.iteration == 7:  # no file can grow beyond this many bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (1200, resource.RLIM_INFINITY))
    return step(self, state)
toy_experiment.Toy.step = fill
toy_experiment.make().run_commandline(sys.argv)
"""


def test_a_full_disk_stops_the_run_and_nothing_recorded_is_lost(lab):
    lab.run(f"with {OPTIONS}")
    support = Path(toy_experiment.__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{support}:{support.parents[1]}"}
    command = [sys.executable, "-W", "ignore", "-c", FULL_DISK, "-b", "0", "with", *OPTIONS.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: runs/2/") and "cannot be written (File too large); the run stops" in last
    assert "Traceback" not in done.stderr
    # Whole lines, up to where the disk was full at least.
    steps = [step for step, _ in lab.metrics(2)]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 7
    assert (lab.directory / "runs/2/metrics.jsonl").read_bytes().endswith(b"\n")
    assert not list((lab.directory / "runs/2").rglob("*.partial"))
    lab.run("resume with run=2")
    lab.assert_same(2, 1)
    assert lab.record(2)["status"] == "COMPLETED"


def fill_disk(patch, name):
    """Whatever is written to a file with this in its name meets a full disk, without a path in the error."""
    real_open, real_write = Path.open, os.pwrite

    def open_(path, mode="r", *arguments, **named):
        if name in path.name and set(mode) & set("wxa"):
            return real_open(Path("/dev/full"), mode.replace("x", "w").replace("a", "w"), *arguments, **named)
        return real_open(path, mode, *arguments, **named)

    def write(descriptor, content, offset):
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        return real_write(descriptor, content, offset)

    patch.setattr(Path, "open", open_)
    patch.setattr("os.pwrite", write)


def error_line(capsys):
    """The only line of standard error that begins with `error:`."""
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("error:")]
    return line


EARLY = [("/.lock", "1/.lock"), ("rng_", "_sources/rng_"), ("config.json", "1/config.json"), ("run.json", "1/run.json")]


@pytest.mark.parametrize(("name", "path"), EARLY)
def test_a_full_disk_at_the_start_is_one_line_and_leaves_nothing(lab, capsys, monkeypatch, name, path):
    for line in ("with", "-q with"):
        with monkeypatch.context() as patch:
            fill_disk(patch, name)
            lab.run(f"{line} {OPTIONS}")
        assert lab.exit_code == 2
        said = error_line(capsys)
        assert f"runs/{path}" in said and "cannot be written (No space left on device); choose another place" in said
        assert lab.runs() == []


@pytest.mark.parametrize(("name", "path"), EARLY)
def test_a_full_disk_at_the_start_of_a_run_with_an_id(lab, capsys, monkeypatch, name, path):
    with monkeypatch.context() as patch:
        fill_disk(patch, name)
        lab.run(f"ensure with run=1 {OPTIONS}")
    assert lab.exit_code == 2 and f"runs/{path}" in error_line(capsys)
    assert not has_record(lab.directory / "runs/1")
    lab.run(f"with {OPTIONS}")
    lab.run(f"ensure with run=1 {OPTIONS}")
    lab.assert_same(1, 2)


@pytest.mark.parametrize("name", ["run.json", "config.json", "cout.txt", "latest.pt"])
def test_a_full_disk_is_one_line_at_any_time_and_the_run_continues(lab, capsys, monkeypatch, name):
    lab.run(f"with {OPTIONS}")
    capsys.readouterr()
    with monkeypatch.context() as patch:
        fill_disk(patch, name)
        lab.run("resume with run=1 num_iterations=14")
    assert lab.exit_code == (1 if name in ("cout.txt", "latest.pt") else 2)
    assert f"{name} cannot be written (No space left on device)" in error_line(capsys)
    assert lab.record(1)["status"] == ("COMPLETED" if name == "run.json" else "FAILED"), "no process runs it"
    lab.run("resume with run=1 num_iterations=14")
    assert lab.exit_code == 0 and lab.record(1)["status"] == "COMPLETED"
    assert [step for step, _ in lab.metrics(1)] == list(range(1, 15))


@pytest.mark.parametrize("method", ["_fold", "_update"])
def test_a_beat_that_fails_half_way_repeats_nothing(lab, monkeypatch, method):
    """Space may be there again by the time that the run writes its last words."""
    lab.run(f"with {OPTIONS}")
    whole = getattr(FileObserver, method)

    def fail(self, *arguments, **named):
        if len(list(read_rows(self.directory))) == 8:
            monkeypatch.setattr(FileObserver, method, whole)
            raise OSError(28, "No space left on device")
        return whole(self, *arguments, **named)

    monkeypatch.setattr(FileObserver, method, fail)
    monkeypatch.setattr(FileObserver, "_folded", property(lambda self: 0, lambda self, value: None), raising=False)
    lab.run(f"-b 0 with {OPTIONS}")
    assert lab.exit_code == 1
    assert lab.record(2)["status"] == "FAILED"
    assert [step for step, _ in lab.metrics(2)] == list(range(1, 9))
    assert lab.state(2)["iteration"] == 8
    lab.run("resume with run=2")
    lab.assert_same(2, 1)


def test_what_could_not_be_appended_is_appended_later(lab, monkeypatch):
    """The checkpoint that an error leaves behind must not be ahead of the metrics."""
    append = journal_module.append_lines

    def fail(path, lines):
        if json.loads(lines[-1])["step"] == 7:
            monkeypatch.setattr(journal_module, "append_lines", append)
            raise OSError(28, "No space left on device")
        append(path, lines)

    monkeypatch.setattr(journal_module, "append_lines", fail)
    lab.run(f"-b 0 with {OPTIONS}")
    assert lab.exit_code == 1
    assert lab.state(1)["iteration"] == 6
    assert [step for step, _ in lab.metrics(1)] == list(range(1, 8))  # the seventh was measured, and is kept


@pytest.mark.parametrize(
    "line", ["with runs_dir=/proc/here", "-F /proc/here with seed=1", "ensure with run=3 runs_dir=/proc"]
)
def test_a_place_that_cannot_be_written_is_refused(lab, capsys, line):
    lab.run(line)
    assert lab.exit_code == 2
    assert "cannot be written (No such file or directory); choose another place" in capsys.readouterr().err


def test_a_record_that_became_read_only_is_refused(lab, capsys, monkeypatch):
    lab.run(f"with {OPTIONS}")

    def refuse(path, *_):
        raise OSError(30, "Read-only file system", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("os.open", refuse)
        lab.run("resume with run=1 num_iterations=20")
    assert lab.exit_code == 2
    assert ".lock cannot be written (Read-only file system)" in capsys.readouterr().err


def test_damaged_metrics_are_named_and_mended(lab):
    lab.run(f"with {OPTIONS}")
    lab.run(f"with {OPTIONS}")
    path = lab.directory / "runs" / "2" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[10] = lines[10][:30] + "\0\0\0"
    path.write_text("\n".join(lines) + '\n{"step": 13, "tor')
    with pytest.raises(RecordError, match=r"metrics\.jsonl: line 11: damaged"):
        list(read_rows(path.parent))
    assert progress(path.parent) == 12
    lab.run("resume with checkpoint=runs/2/checkpoints/best")
    lab.assert_same(2, 1)
    assert lines[10] in (path.parent / "metrics.cut.jsonl").read_text()


def test_a_checkpoint_that_was_deleted_is_named(lab, capsys):
    lab.run(f"with {OPTIONS}")
    (lab.directory / "runs/1/checkpoints/latest.pt").unlink()
    before = lab.record(1)
    capsys.readouterr()
    lab.run("resume with run=1")
    assert lab.exit_code == 2
    assert "latest.pt: no such checkpoint; in runs/1/checkpoints there is best.pt" in capsys.readouterr().err
    assert lab.record(1) == before


def test_a_clock_that_jumps_back_changes_times_only(lab, monkeypatch):
    lab.run(f"with {OPTIONS}")
    real = datetime.datetime

    class Jumping(real):
        count = 0

        @classmethod
        def utcnow(cls):
            cls.count += 1
            back = datetime.timedelta(hours=1 if cls.count > 20 else 0)
            return real.now(datetime.UTC).replace(tzinfo=None) - back

    with monkeypatch.context() as patch:
        patch.setattr("sacred.metrics_logger.datetime.datetime", Jumping)
        patch.setattr(run_module, "_utc_now", Jumping.utcnow)
        lab.run(f"-b 0 with {OPTIONS}")
    lab.assert_same(2, 1)
    stamps = read_metrics(lab.directory / "runs" / "2")["loss"].timestamps
    assert (np.diff(stamps) < np.timedelta64(-50, "m")).sum() == 1  # it did jump
    assert lab.record(2)["status"] == "COMPLETED"
    lab.run("resume with run=2 num_iterations=14")
    assert [step for step, _ in lab.metrics(2)] == list(range(1, 15))


def test_who_polls_a_live_run_never_sees_half_a_file(tmp_path):
    """10,000 reads while another thread writes without a pause."""
    now = datetime.datetime(2030, 1, 2)
    observer = FileObserver(tmp_path)
    experiment = {"name": "toy", "base_dir": str(tmp_path), "sources": [], "repositories": []}
    observer.started_event(experiment, "train", {}, now, {"seed": 1}, {}, None)
    is_done = threading.Event()
    written = []

    def write():
        while not is_done.is_set():
            step = len(written) + 1
            series = {"steps": [step], "values": [0.5], "timestamps": [now]}
            observer.log_metrics({f"metric/{index}": series for index in range(20)}, {})
            observer.heartbeat_event({"note": "x" * (step % 50)}, "o" * step, now, None)
            written.append(step)

    writer = threading.Thread(target=write)
    writer.start()
    record = tmp_path / "1"
    last = reads = 0
    while reads < 10_000 or len(written) < 50:
        for name in ("run.json", "config.json", "metrics.json", "info.json"):
            if (record / name).exists():
                json.loads((record / name).read_text())
                reads += 1
        steps = progress(record)
        assert steps >= last
        last = steps
        reads += 1
    is_done.set()
    writer.join()
    assert [row["step"] for row in read_rows(record)] == written
    observer.completed_event(now, None)
    assert json.loads((record / "metrics.json").read_text())["metric/0"]["steps"] == written


def test_many_that_start_at_once_have_records_of_their_own(tmp_path):
    now = datetime.datetime(2030, 1, 2)
    barrier = threading.Barrier(64)
    numbers = []

    def work(index):
        observer = FileObserver(tmp_path)
        experiment = {"name": "toy", "base_dir": str(tmp_path), "sources": [], "repositories": []}
        barrier.wait()
        number = observer.started_event(experiment, "train", {}, now, {"seed": index}, {}, None)
        numbers.append(number)
        observer.log_metrics({"loss": {"steps": [1], "values": [index], "timestamps": [now]}}, {})
        observer.completed_event(now, index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(numbers)) == 64
    results = {json.loads((tmp_path / str(number) / "run.json").read_text())["result"] for number in numbers}
    assert results == set(range(64))
    for number in numbers:
        (row,) = read_rows(tmp_path / str(number))
        config = json.loads((tmp_path / str(number) / "config.json").read_text())
        assert row["values"]["loss"] == config["seed"]
