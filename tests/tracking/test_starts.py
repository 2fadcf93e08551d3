"""A record exists when it is whole: starts that were stopped, queued runs, torn files, and two starts at once."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from toy_experiment import OPTIONS

from analysis.load import load_runs
from research.tracking import observer as observer_module
from research.tracking import restart
from research.tracking.lock import BusyError, Lock
from research.tracking.observer import FileObserver
from research.tracking.records import has_record

ENSURE = f"ensure with run=7 {OPTIONS}"


@pytest.fixture
def reference(lab):
    lab.run(f"with {OPTIONS}")
    return 1


@pytest.mark.parametrize("place", ["_store", "write_json", "_sync"])
def test_ctrl_c_during_the_start_leaves_no_record(lab, reference, monkeypatch, place):
    """While sources are copied, before config.json, and between config.json and run.json."""

    def interrupted(*_, **__):
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        if place == "_sync":
            patch.setattr(FileObserver, "_update", lambda self, **_: interrupted())
        else:
            patch.setattr(observer_module, place, interrupted)
        lab.run(ENSURE)
    assert lab.exit_code == 130
    record = lab.directory / "runs" / "7"
    assert not has_record(record)
    Lock(record).release()
    lab.run(ENSURE)
    assert (lab.exit_code, lab.record(7)["resumed"]) == (0, [])
    lab.assert_same(7, reference)


def test_a_second_ctrl_c_during_the_start_leaves_no_record_either(lab, reference, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(observer_module, "_store", interrupted)
        patch.setattr(FileObserver, "interrupted_event", interrupted)
        lab.run(f"with {OPTIONS}")
        assert lab.exit_code == 130 and not has_record(lab.directory / "runs" / "2")
        lab.run(ENSURE)
    lab.run(ENSURE)
    lab.assert_same(7, reference)


@pytest.mark.parametrize("status", ["INTERRUPTED", "FAILED"])
def test_a_stub_of_an_older_version_counts_as_none(lab, reference, status):
    record = lab.directory / "runs" / "7"
    record.mkdir()
    (record / "run.json").write_text(json.dumps({"status": status, "stop_time": "2030-01-02T03:04:05", "writes": 1}))
    assert not has_record(record)
    lab.run(ENSURE)
    lab.assert_same(7, reference)
    assert lab.record(7)["writes"] > 2 and lab.record(7)["command"] == "ensure"


def test_settings_without_a_record_count_as_none(lab, reference):
    record = lab.directory / "runs" / "7"
    record.mkdir()
    (record / "config.json").write_text('{"seed": 99, "num_iter')
    lab.run(ENSURE)
    lab.assert_same(7, reference)


@pytest.mark.parametrize("line", ["resume with run=1 num_iterations=20", f"ensure with run=1 {OPTIONS}"])
def test_the_lock_is_taken_before_anything_is_read(lab, reference, monkeypatch, line):
    read = []

    def note(function):
        def noted(path):
            with pytest.raises(BusyError):
                Lock(lab.directory / "runs" / "1")
            read.append(Path(path).name)
            return function(path)

        return noted

    for module, name in ((restart, "read_run"), (restart, "read_config"), (restart.checkpoint, "load")):
        monkeypatch.setattr(module, name, note(getattr(module, name)))
    lab.run(line)
    assert lab.exit_code == 0
    assert read


def test_of_two_that_resume_the_second_sees_what_the_first_did(lab, capsys):
    """The second one was suspended before it had the lock; meanwhile the first one has trained and ended."""
    lab.run("with num_iterations=4")
    real = Lock.__init__
    is_first = [True]

    def late(self, directory):
        if is_first.pop() if is_first else False:
            lab.run("resume with run=1 num_iterations=8")
        real(self, directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lock, "__init__", late)
        lab.run("resume with run=1 num_iterations=6")
    assert lab.exit_code == 2
    assert "num_iterations=6: runs/1/checkpoints/latest.pt has finished 8 already" in capsys.readouterr().err
    assert [step for step, _ in lab.metrics(1)] == list(range(1, 9))


@pytest.mark.parametrize("content", ["", '{"status": "COMPL', "[]", '{"status": 1}'])
@pytest.mark.parametrize("name", ["run.json", "config.json"])
def test_a_torn_file_is_named_and_its_loss_is_mended(lab, reference, capsys, name, content):
    lab.run(ENSURE.replace("num_iterations=12", "num_iterations=6"))
    path = lab.directory / "runs" / "7" / name
    whole = path.read_text()
    path.write_text(content)
    if name == "config.json" and content == '{"status": 1}':
        path.write_text("3")
    metrics = lab.metrics(7)
    for line in ("resume with run=7 num_iterations=12", ENSURE):
        capsys.readouterr()
        lab.run(line)
        if line is not ENSURE and name == "config.json":
            assert lab.exit_code == 2
        assert lab.exit_code == 2 and f"runs/7/{name}: " in (shown := capsys.readouterr().err)
        assert "restore it from a copy; without the file, `ensure` makes it again" in shown and "Traceback" not in shown
    lab.run("evaluate with run=7")
    assert (lab.exit_code, lab.metrics(7)) == (0, metrics)
    path.unlink()
    lab.run(ENSURE)
    assert lab.exit_code == 0
    lab.assert_same(7, reference)
    if name == "run.json":
        uid = json.loads(whole)["uid"]
        assert lab.record(7)["uid"] == uid and lab.record(7)["start_time"] and len(lab.record(7)["resumed"]) == 1
        assert lab.record(7)["writes"] > 10_000, "a copy in a database is replaced"


def test_a_queued_run_is_started(lab, reference):
    lab.run(f"-q -i 7 with {OPTIONS}")
    queued = lab.record(7)
    assert queued["status"] == "QUEUED"
    lab.run("resume with run=7")
    assert (lab.exit_code, lab.record(7)) == (2, queued)
    lab.run(ENSURE.replace("seed=2", "seed=3"))
    assert (lab.exit_code, lab.record(7)) == (2, queued)
    lab.run(ENSURE)
    record = lab.record(7)
    assert record["start_time"] and record["host"]["hostname"] and record["stop_time"] > record["start_time"]
    assert (record["uid"], record["resumed"], record["status"]) == (queued["uid"], [], "COMPLETED")
    assert record["writes"] > queued["writes"]
    runs = load_runs("runs/7")
    assert runs.table.loc["7", ["started", "seconds"]].notna().all()
    assert runs.curves("loss", x="seconds")["x"].between(0, 600).all()
    lab.assert_same(7, reference)


def test_an_id_with_the_remains_of_a_run_is_not_free(lab, reference, capsys):
    (lab.directory / "runs/1/run.json").unlink()
    lab.run(f"-i 1 with {OPTIONS}")
    assert lab.exit_code == 2 and "-i 1: runs/1 exists already" in capsys.readouterr().err
    assert len(lab.metrics(1)) == 12


def test_a_refusal_of_an_id_keeps_nobody_out(lab, reference, capsys):
    (lab.directory / "runs/1/run.json").write_text("{")
    lab.run(f"-i 1 with {OPTIONS}")
    assert lab.exit_code == 2 and "runs/1/run.json: no valid JSON" in capsys.readouterr().err
    Lock(lab.directory / "runs" / "1").release()


def test_a_setting_that_is_new_below_a_key_stops_no_older_run(lab, reference, after_step):
    after_step(7, lambda: signal.raise_signal(signal.SIGTERM))
    lab.run(f"with {OPTIONS}")
    record = lab.directory / "runs" / "2"
    config = json.loads((record / "config.json").read_text())
    del config["surface"]["curvature"]  # as an older version wrote it
    (record / "config.json").write_text(json.dumps(config))
    for path in (record / "checkpoints").iterdir():
        content = torch.load(path, weights_only=True)
        del content["config"]["surface"]["curvature"]
        torch.save(content, path)
    lab.run("resume with run=2")
    assert lab.exit_code == 0
    lab.assert_same(2, reference)
