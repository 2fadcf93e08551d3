from __future__ import annotations

import datetime
import json
import math
from pathlib import Path

import numpy as np
import pytest

from research.conversion import ConfigError
from research.tracking.lock import BusyError
from research.tracking.observer import FileObserver, to_json
from research.tracking.records import fold, read_rows

NOW = datetime.datetime(2030, 1, 2, 3, 4, 5)
LATER = datetime.datetime(2030, 1, 2, 4, 0, 0)


def strict(path: Path):
    def refuse(constant):
        raise AssertionError(f"{path} holds {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


def experiment_info(tmp_path: Path):
    root = tmp_path / "project"
    (root / "pkg").mkdir(parents=True, exist_ok=True)
    (root / "pkg" / "code.py").write_text("x = 1\n")
    return {
        "name": "toy",
        "base_dir": str(root),
        "sources": [("pkg/code.py", "md5")],
        "dependencies": ["numpy==2"],
        "repositories": [{"url": "u", "commit": "c", "dirty": False}],
        "mainfile": "pkg/code.py",
    }


def start(observer: FileObserver, tmp_path: Path, _id=None, time=NOW, config=None, meta=None):
    return observer.started_event(
        experiment_info(tmp_path), "train", {"hostname": "h"}, time, config or {"seed": 1}, meta or {}, _id
    )


def points(*steps, name="loss", value=0.5):
    return {
        name: {"steps": list(steps), "values": [value] * len(steps), "timestamps": [NOW] * len(steps), "name": name}
    }


def test_the_record_has_the_layout_of_sacreds_file_storage(tmp_path):
    observer = FileObserver(tmp_path / "runs")
    assert start(observer, tmp_path) == 1
    observer.log_metrics(points(1, 2), {})
    observer.output_event("o")
    observer.output_event("ut\n")
    observer.heartbeat_event({"note": 1}, "", LATER, None)
    observer.completed_event(LATER, {"score": 2})
    record = tmp_path / "runs" / "1"
    run = strict(record / "run.json")
    assert run["status"] == "COMPLETED"
    assert run["result"] == {"score": 2}
    assert (run["start_time"], run["stop_time"]) == (NOW.isoformat(), LATER.isoformat())
    (name, stored), *_ = run["experiment"]["sources"]
    assert name == "pkg/code.py"
    assert (tmp_path / "runs" / stored).read_text() == "x = 1\n"
    assert strict(record / "config.json") == {"seed": 1}
    assert strict(record / "info.json") == {"note": 1}
    assert (record / "cout.txt").read_text() == "out\n"
    assert strict(record / "metrics.json") == {
        "loss": {"steps": [1, 2], "values": [0.5, 0.5], "timestamps": [NOW.isoformat()] * 2}
    }


def test_ids_count_up_and_a_chosen_one_is_never_shared(tmp_path):
    assert [start(FileObserver(tmp_path / "runs"), tmp_path) for _ in range(3)] == [1, 2, 3]
    assert start(FileObserver(tmp_path / "runs"), tmp_path, _id="mine") == "mine"
    with pytest.raises(ConfigError, match="File exists"):
        start(FileObserver(tmp_path / "runs"), tmp_path, _id="mine")


def test_a_beat_writes_only_what_is_new(tmp_path, monkeypatch):
    observer = FileObserver(tmp_path / "runs")
    start(observer, tmp_path)
    lines = tmp_path / "runs" / "1" / "metrics.jsonl"
    sizes = []
    for step in range(4):
        observer.log_metrics(points(step), {})
        sizes.append(lines.stat().st_size)
    assert np.ptp(np.diff(sizes)) == 0
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("a beat without news must touch no metrics"))
    observer.log_metrics({}, {})


def test_rows_hold_the_metrics_of_one_step(tmp_path):
    observer = FileObserver(tmp_path / "runs")
    start(observer, tmp_path)
    observer.log_metrics(points(1, 2, 2, name="a") | points(2, name="b", value=math.nan), {})
    rows = list(read_rows(tmp_path / "runs" / "1"))
    assert [(row["step"], row["values"]) for row in rows] == [
        (1, {"a": 0.5}),
        (2, {"a": 0.5, "b": None, "nonfinite_values": 1}),
        (2, {"a": 0.5}),
    ]
    assert fold(rows)["a"]["steps"] == [1, 2, 2]
    assert fold(rows)["b"]["values"] == [None]


def test_what_json_does_not_have_becomes_null_or_text():
    value = {1: math.nan, "inf": [math.inf, np.float32("nan")], "n": np.int64(3), "a": np.arange(2), "p": Path("x")}
    assert to_json(value) == {"1": None, "inf": [None, None], "n": 3, "a": [0, 1], "p": "x"}
    assert to_json({"t": NOW, "b": True, "f": np.bool_(False)}) == {"t": NOW.isoformat(), "b": True, "f": False}


def test_a_run_that_is_gone_on_with_has_each_step_once(tmp_path):
    runs = tmp_path / "runs"
    first = FileObserver(runs)
    start(first, tmp_path, config={"seed": 1, "num_iterations": 5, "run": None})
    (tmp_path / "a.txt").write_text("picture")
    first.artifact_event("a.txt", str(tmp_path / "a.txt"))
    first.log_metrics(points(1, 2, 3, 4), {})
    first.output_event("before\n")
    first.heartbeat_event({}, "", NOW, None)
    first.failed_event(NOW, ["trace"])
    with (runs / "1" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "tor')  # as a killed process leaves it
    second = FileObserver(runs, resume_at=2, kept_config=frozenset({"run"}))
    resumed_config = {"seed": 1, "num_iterations": 9, "run": 1}
    assert start(second, tmp_path, _id=1, time=LATER, config=resumed_config) == 1
    run = strict(runs / "1" / "run.json")
    assert run["status"] == "RUNNING"
    assert run["start_time"] == NOW.isoformat()
    assert run["artifacts"] == ["a.txt"]
    assert not {"stop_time", "fail_trace", "result"} & run.keys()
    assert [(entry["time"], entry["iteration"]) for entry in run["resumed"]] == [(LATER.isoformat(), 2)]
    assert strict(runs / "1" / "config.json") == {"seed": 1, "num_iterations": 9, "run": None}
    second.log_metrics(points(3, 4, 5), {})
    second.output_event("after\n")
    second.heartbeat_event({}, "", LATER, None)
    second.completed_event(LATER, None)
    assert strict(runs / "1" / "metrics.json")["loss"]["steps"] == [1, 2, 3, 4, 5]
    assert (runs / "1" / "cout.txt").read_text() == "before\nafter\n"


def test_two_processes_cannot_write_one_record(tmp_path):
    writer = FileObserver(tmp_path / "runs")
    start(writer, tmp_path)
    intruder = FileObserver(tmp_path / "runs", resume_at=0)
    with pytest.raises(BusyError, match="run=1: another process writes"):
        intruder.lock(1)
    writer.completed_event(LATER, None)
    intruder.lock(1)


def test_artifacts_stay_inside_the_record_and_off_its_own_files(tmp_path):
    observer = FileObserver(tmp_path / "runs")
    start(observer, tmp_path)
    source = tmp_path / "x.txt"
    source.write_text("x")
    for name in ("run.json", "metrics.jsonl", "../2/x.txt", "/etc/x"):
        with pytest.raises(ValueError, match="artifact name"):
            observer.artifact_event(name, str(source))
    for content in ("one", "two"):
        source.write_text(content)
        observer.artifact_event("sub/x.txt", str(source))
    assert (tmp_path / "runs" / "1" / "sub" / "x.txt").read_text() == "two"
    assert strict(tmp_path / "runs" / "1" / "run.json")["artifacts"] == ["sub/x.txt"]


def test_an_artifact_that_lies_in_the_record_is_left_there(tmp_path):
    observer = FileObserver(tmp_path / "runs")
    start(observer, tmp_path)
    picture = tmp_path / "runs" / "1" / "picture.png"
    picture.write_bytes(b"png")
    observer.artifact_event("picture.png", str(picture))
    assert picture.read_bytes() == b"png"


def test_resources_are_kept_by_content(tmp_path):
    observer = FileObserver(tmp_path / "runs")
    start(observer, tmp_path)
    (tmp_path / "data.csv").write_text("1,2")
    observer.resource_event(str(tmp_path / "data.csv"))
    ((original, stored),) = strict(tmp_path / "runs" / "1" / "run.json")["resources"]
    assert original == str(tmp_path / "data.csv")
    assert Path(stored).read_text() == "1,2"


def test_no_credentials_reach_the_record(tmp_path):
    observer = FileObserver(tmp_path / "runs")
    start(observer, tmp_path, meta={"options": {"--sql": "postgres://me:secret@host/db", "UPDATE": ["a=b@c"]}})
    text = (tmp_path / "runs" / "1" / "run.json").read_text()
    assert "secret" not in text
    assert "postgres://host/db" in text
    assert "a=b@c" in text


def test_a_queued_run_is_recorded_as_such(tmp_path):
    observer = FileObserver(tmp_path / "runs")
    assert observer.queued_event(experiment_info(tmp_path), "train", {}, NOW, {"seed": 1}, {}, None) == 1
    assert strict(tmp_path / "runs" / "1" / "run.json")["status"] == "QUEUED"
