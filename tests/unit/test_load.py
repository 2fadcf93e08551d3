"""What `load_runs` makes of records: every kind of damage is named, nothing is dropped, numbers are those recorded."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import socket
import warnings

import numpy as np
import pandas as pd
import pytest
import sacred
from records import START, line, stamp, write_record
from sacred.observers import FileStorageObserver

from analysis.data import records as module
from analysis.data.from_files import Directory
from analysis.data.load import load_runs

NOW = START.replace(tzinfo=datetime.UTC).timestamp()


def stock_sacred(directory):
    """A run by Sacred's own observer."""
    experiment = sacred.Experiment("stock", save_git_info=False)
    experiment.add_config(lr=0.5, layers=(4, 4), nested={"depth": 2}, seed=7)
    experiment.observers.append(FileStorageObserver(directory))

    @experiment.main
    def work(_run):
        for step in (0, 1, 1, 2):
            _run.log_scalar("loss", 1.0 / (step + 1) if step != 1 else np.float64(len(_run.info)), step)
        made = directory / "made.txt"
        made.write_text("made")
        _run.add_artifact(made)
        made.unlink()
        return 0.25

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        experiment.run()


@pytest.fixture
def horrors(tmp_path):
    """One of each."""
    root = tmp_path / "runs"
    root.mkdir()
    stock_sacred(root)
    resumed = [{"time": stamp(1000), "iteration": 2}]
    whole = write_record(
        root / "2", metrics={"loss": [3.0, 2.0, 1.0]}, seed=1, run={"resumed": resumed, "stop_time": stamp(1020)}
    )
    (whole / "metrics.jsonl").write_text(
        line(1, loss=3.0) + line(2, loss=9.0) + line(2, loss=2.0) + later(3, 1010, 1.0)
    )
    torn = write_record(root / "3", metrics={"loss": [3.0, 2.0]}, status="INTERRUPTED")
    with (torn / "metrics.jsonl").open("a") as file:
        file.write("{broken\n" + line(4, loss=0.5) + line(5, loss=0.1)[:-9])
    live = write_record(root / "4", metrics={"loss": [3.0, 2.0]}, status="RUNNING")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "token": "t", "slurm_job": None}
    (live / ".lock").write_text(json.dumps(holder))
    os.utime(live / ".lock", (NOW, NOW))
    (root / "5").mkdir()
    half = write_record(root / "6", metrics={"loss": [3.0]})
    (half / "run.json").write_text('{"status": "COMP')
    lost = write_record(root / "7", metrics={"loss": [3.0]})
    (lost / "config.json").unlink()
    write_record(
        root / "8", metrics={"loss": [3.0]}, status="FAILED", run={"fail_trace": ["Traceback\n", "KeyError: 1\n"]}
    )
    dead = write_record(root / "9", metrics={"loss": [3.0]}, status="RUNNING")
    (dead / ".lock").write_text(json.dumps(holder))
    os.utime(dead / ".lock", (NOW - 500, NOW - 500))
    headless = write_record(root / "10", metrics={"loss": [3.0]})
    (headless / "run.json").unlink()
    (root / "notes").mkdir()
    (root / "notes" / "ideas.txt").write_text("")
    (root / "_sweeps").mkdir(exist_ok=True)
    return root


def later(step, seconds, loss):
    return json.dumps({"step": step, "timestamp": stamp(seconds), "values": {"loss": loss}}) + "\n"


def loss(runs, run):
    points = runs.metrics[(runs.metrics["run"] == run) & (runs.metrics["metric"] == "loss")]
    return dict(zip(points["step"], points["value"], strict=True))


def test_everything_in_a_directory_of_horrors_is_named(horrors):
    runs = load_runs(horrors, now=NOW)
    found = {name: (one["status"], one["problems"]) for name, one in runs.table.to_dict("index").items()}
    assert list(found) == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "notes"]
    assert found == {
        "1": ("COMPLETED", "1 points repeat a step, the last one counts"),
        "2": ("COMPLETED", "1 points repeat a step, the last one counts"),
        "3": ("INTERRUPTED", "metrics.jsonl: the last line is torn; metrics.jsonl: 1 damaged lines"),
        "4": ("RUNNING", ""),
        "5": ("EMPTY", "an empty folder"),
        "6": ("TORN", "run.json: invalid JSON"),
        "7": ("COMPLETED", "config.json is missing"),
        "8": ("FAILED", "KeyError: 1"),
        "9": ("STALE", "last beat 2030-01-02 03:04:15 UTC"),
        "10": ("TORN", "run.json is missing"),
        "notes": ("EMPTY", "no record, only ideas.txt"),
    }
    report = runs.report()
    assert report.startswith("11 runs: 3 COMPLETED, 2 EMPTY, 2 TORN, ")
    for name, (status, problems) in found.items():
        wanted = f"  run {name}: {status}, {problems}".rstrip(", ") if (status, problems) != ("COMPLETED", "") else ""
        assert wanted in report.splitlines() or not wanted


def test_of_damaged_metrics_the_rest_counts(horrors):
    runs = load_runs(horrors, now=NOW)
    assert loss(runs, "3") == {1: 3.0, 2: 2.0, 4: 0.5}
    assert loss(runs, "4") == {1: 3.0, 2: 2.0}
    assert loss(runs, "10") == {1: 3.0}
    assert loss(runs, "2") == {1: 3.0, 2: 2.0, 3: 1.0}, "of a step that is there twice, the last one"


def test_a_stock_sacred_run_is_read_as_sacred_wrote_it(horrors):
    runs = load_runs(horrors, now=NOW)
    assert loss(runs, "1") == {0: 1.0, 1: 0.0, 2: pytest.approx(1 / 3)}
    row = runs.table.loc["1"]
    assert (row["experiment"], row["command"], row["seed"], row["id"]) == ("stock", "work", 7, 1)
    assert (row["config.lr"], row["config.layers"], row["config.nested.depth"]) == (0.5, (4, 4), 2)
    assert (row["result"], row["final.loss"], row["git"]) == (0.25, pytest.approx(1 / 3), None)
    made = runs.artifacts[runs.artifacts["run"] == "1"]
    assert list(made["name"]) == ["made.txt"] and (horrors / "1" / "made.txt").samefile(made["path"].iloc[0])


def test_time_that_nobody_worked_is_left_out(horrors):
    """Steps 1 and 2 come after 10 and 20 s; the run goes on at 1000 s, step 3 comes at 1010 s, the end at 1020 s."""
    runs = load_runs(horrors, where="id=2", now=NOW)
    assert runs.table.loc["2", "seconds"] == 20 + 20
    assert runs.table.loc["2", "restarts"] == 1
    assert runs.pauses.to_dict("records") == [
        {"run": "2", "time": pd.Timestamp(stamp(1000)[:-3], tz="UTC"), "iteration": 2, "seconds": 980.0}
    ]
    assert list(runs.curves("loss", x="seconds")["x"]) == [10.0, 20.0, 30.0]


def test_a_run_stopped_twice_rests_twice(tmp_path):
    resumed = [{"time": stamp(100), "iteration": 0}, {"time": stamp(200), "iteration": 0}]
    one = write_record(tmp_path / "1", run={"resumed": resumed, "stop_time": stamp(230)})
    (one / "metrics.jsonl").write_text(later(1, 210, 1.0))
    runs = load_runs(tmp_path)
    assert list(runs.pauses["seconds"]) == [100.0, 100.0]
    assert runs.table.loc["1", "seconds"] == 30
    assert list(runs.curves("loss", x="seconds")["x"]) == [10.0]


def test_the_columns_of_the_table(tmp_path):
    write_record(tmp_path / "1", metrics={"loss": [2.0, 1.5]}, seed=3, policy={"hidden_sizes": [64, 32]}, lr=1)
    write_record(tmp_path / "2", metrics={"kl": [None, None, 0.5]}, seed=4, extra={}, lr=0.5)
    table = load_runs(tmp_path).table
    row = table.loc["1"].to_dict()
    assert row["started"] == pd.Timestamp("2030-01-02 03:04:05.678", tz="UTC")
    assert row["stopped"] - row["started"] == pd.Timedelta(seconds=25)
    assert (row["git"], row["dirty"], row["host"], row["source"]) == ("c0ffee", False, "here", str(tmp_path))
    assert (row["config.policy.hidden_sizes"], row["final.loss"]) == ((64, 32), 1.5)
    assert row["directory"] == str((tmp_path / "1").resolve())
    assert np.isnan(row["final.kl"]) and table.loc["2", "final.kl"] == 0.5
    assert table.loc["2", "config.policy.hidden_sizes"] is None
    assert table["seed"].dtype == np.int64 and table["config.lr"].dtype == np.float64
    assert not any(name.startswith("config.extra") for name in table.columns)


def test_a_tag_is_the_comment_of_the_command_line(tmp_path):
    write_record(tmp_path / "1", metrics={"loss": [1.0]}, run={"meta": {"comment": "first, try"}})
    write_record(tmp_path / "2", metrics={"loss": [1.0]}, run={"meta": {"options": {"--comment": "later"}}})
    write_record(tmp_path / "3", metrics={"loss": [1.0]}, run={"meta": {"options": {"--comment": None}}})
    assert load_runs(tmp_path).table["tag"].fillna("none").to_dict() == {"1": "first, try", "2": "later", "3": "none"}
    assert list(load_runs(tmp_path, where="tag=later").table.index) == ["2"]


def test_numbers_that_are_none_are_nan_and_what_is_no_number_is_named(tmp_path):
    one = write_record(tmp_path / "1")
    (one / "metrics.jsonl").write_text(line(1, loss=None, note="text") + line(2, loss=1.0, note=2.0))
    runs = load_runs(tmp_path)
    points = runs.metrics.set_index(["metric", "step"])["value"]
    assert np.isnan(points["loss", 1]) and points["loss", 2] == 1.0
    assert list(points["note"]) == [2.0]
    assert runs.table.loc["1", "problems"] == "note: 1 values are no numbers"


def test_blocks_and_lines_give_the_same_points(tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=300)
    write_record(tmp_path / "1", metrics={"loss": list(values), "kl": [None if i % 3 else i for i in range(300)]})
    monkeypatch.setattr("analysis.data.from_files._BLOCK", 101)
    runs = load_runs(tmp_path)
    found = dict(list(runs.metrics.groupby("metric", observed=True)))
    np.testing.assert_array_equal(found["loss"]["value"], values)
    np.testing.assert_array_equal(found["loss"]["step"], np.arange(1, 301))
    np.testing.assert_array_equal(found["kl"]["value"], np.arange(0, 300, 3))
    np.testing.assert_array_equal(found["kl"]["step"], np.arange(1, 301, 3))
    assert runs.table.loc["1", "problems"] == ""
    (record,) = Directory(tmp_path).records()
    (points,) = Directory(tmp_path).points([record])
    expected = [np.datetime64(stamp(10 * step), "ms") for step in range(1, 301)]
    np.testing.assert_array_equal(points["loss"].times, np.array(expected))


def test_adaptation_has_every_task_at_the_end_and_means_before(tmp_path):
    write_record(
        tmp_path / "1",
        metrics={"eval/score_after_0": [-9.0, -6.0], "eval/score_after_1": [-5.0, -2.0]},
        score=[[-5.0, -7.0], [-1.0, -3.0]],
    )
    old = write_record(tmp_path / "2", metrics={"loss": [1.0]}, score=[[-5.0, -7.0], [-1.0, -3.0]], seed=1)
    (old / "evaluation.json").unlink()
    runs = load_runs(tmp_path)
    rows = [tuple(one) for one in runs.adaptation[["run", "iteration", "task", "adapt_step", "value"]].to_numpy()]
    assert rows == [
        ("1", 1, -1, 0, -9.0),
        ("1", 1, -1, 1, -5.0),
        ("1", 2, 0, 0, -5.0),
        ("1", 2, 0, 1, -1.0),
        ("1", 2, 1, 0, -7.0),
        ("1", 2, 1, 1, -3.0),
        ("2", 1, -1, 0, -6.0),
        ("2", 1, -1, 1, -2.0),
    ]
    assert set(runs.adaptation["unit"]) == {"gradient steps"}
    curves = runs.adaptation_curves()
    assert [tuple(one) for one in curves[["group", "seed", "run", "adapt_step", "value"]].to_numpy()] == [
        ("maml_trpo", 0, "1", 0, -6.0),
        ("maml_trpo", 0, "1", 1, -2.0),
        ("maml_trpo", 1, "2", 0, -6.0),
        ("maml_trpo", 1, "2", 1, -2.0),
    ]
    assert list(runs.scores("result.score_after_1")["value"]) == [-2.0, -2.0]


def test_extras_of_evaluations_are_columns_by_their_names(tmp_path):
    one = write_record(tmp_path / "1", metrics={"loss": [1.0]}, score=[[1.0, 2.0]])
    write_record(tmp_path / "2", seed=1, score=[[3.0]])
    evaluation = {"score": [[1.0, 2.0]], "regret": [[0.5, 0.25]], "entropy": [[4, 2]], "unit": "pulls", "unknown": None}
    (one / "evaluation.json").write_text(json.dumps(evaluation))
    runs = load_runs(tmp_path)
    assert list(runs.adaptation.columns[4:]) == ["value", "regret", "entropy", "unit"]
    np.testing.assert_array_equal(runs.adaptation["regret"], [0.5, 0.25, np.nan])
    np.testing.assert_array_equal(runs.adaptation_curves()["entropy"], [3.0, np.nan])
    (one / "evaluation.json").write_text(json.dumps({"score": [1.0]}))
    runs = load_runs(one)
    assert runs.table.loc["1", "problems"] == "evaluation.json: damaged, the recorded mean over tasks is used"
    assert list(runs.adaptation["task"]) == [-1]


def test_runs_of_several_sources_keep_apart(tmp_path):
    for folder in ("a", "b"):
        write_record(tmp_path / folder / "1", metrics={"loss": [1.0]})
    write_record(tmp_path / "b" / "2", metrics={"loss": [1.0]})
    write_record(tmp_path / "c" / "b" / "1", metrics={"loss": [1.0]})
    assert list(load_runs([tmp_path / "a", tmp_path / "b"]).table.index) == ["a/1", "b/1", "2"]
    names = list(load_runs([tmp_path / "b", tmp_path / "c" / "b"]).table.index)
    assert names[0] == "b/1" and names[2].endswith("c/b/1") and len(set(names)) == 3
    assert list(load_runs(tmp_path / "b" / "2").table.index) == ["2"], "the directory of one run"
    assert list(load_runs([tmp_path / "b", tmp_path / "b" / "2"]).table.index) == ["1", "2"], "each run once"


def test_what_is_missing_is_listed(tmp_path):
    write_record(tmp_path / "1", seed=0, inner_loop="func")
    write_record(tmp_path / "2", seed=1, inner_loop="func", status="FAILED")
    write_record(tmp_path / "3", seed=0, inner_loop="higher")
    runs = load_runs(tmp_path)
    missing = runs.missing({"inner_loop": ["func", "higher"], "seed": range(2)})
    assert missing.to_dict("records") == [
        {"inner_loop": "func", "seed": 1, "found": "FAILED (run 2)"},
        {"inner_loop": "higher", "seed": 1, "found": ""},
    ]
    assert runs.missing([{"inner_loop": "func", "seed": 0}]).empty
    with pytest.raises(ValueError, match=r"inner_lop: no run has that; did you mean config\.inner_loop"):
        runs.missing([{"inner_lop": "func"}])


def test_the_log_ends_with_the_error(tmp_path):
    one = write_record(
        tmp_path / "1", status="FAILED", run={"fail_trace": ["Traceback\n", "  here\n", "KeyError: 1\n"]}
    )
    (one / "cout.txt").write_text("".join(f"line {number}\n" for number in range(9)))
    runs = load_runs(tmp_path)
    assert runs.log("1", lines=4) == "line 8\nTraceback\n  here\nKeyError: 1"


@pytest.mark.parametrize(("age", "status"), [(599, "RUNNING"), (601, "STALE")])
def test_without_a_lock_the_heartbeat_tells(tmp_path, age, status):
    write_record(tmp_path / "1", status="RUNNING", metrics={"loss": [1.0]})
    assert load_runs(tmp_path, now=NOW + 10 + age).table.loc["1", "status"] == status
    assert module.HEARTBEAT_SECONDS == 600


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere", "nowhere: no such directory; need one that holds runs"), (".", "no runs there")],
)
def test_sources_without_runs_are_refused(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_runs(source)


def test_no_match_says_what_there_is(horrors):
    with pytest.raises(ValueError, match="no run matches") as refused:
        load_runs(horrors, where="experiment=maml_trop,status=COMPLETED", now=NOW)
    message = str(refused.value)
    assert "no run matches; there are 11 runs: experiments maml_trpo (6), None (4), stock (1)" in message
    assert "statuses COMPLETED (3)" in message
    assert re.search(r"experiment=maml_trop: no run, the values are maml_trpo \(6\)", message)
    assert "status=COMPLETED: no run" not in message


def test_runs_too_torn_to_judge_are_named(horrors):
    runs = load_runs(horrors, where="experiment=maml_trpo,seed=0", now=NOW)
    assert list(runs.table.index) == ["3", "4", "8", "9"]
    assert list(runs.undecided.index) == ["5", "6", "7", "10", "notes"]
    assert (
        "  run 7: not counted, too damaged to decide whether it is selected: COMPLETED, config.json is missing"
        in runs.report()
    )
    assert list(load_runs(horrors, where="status=EMPTY", now=NOW).table.index) == ["5", "notes"]


def test_conditions_on_metrics_and_functions_of_rows(horrors):
    assert list(load_runs(horrors, where="final.loss<1", now=NOW).table.index) == ["1", "3"]
    assert list(load_runs(horrors, where=lambda row: row["seconds"] == 40.0, now=NOW).table.index) == ["2"]
    assert list(load_runs(horrors, where="seconds=40", now=NOW).table.index) == ["2"]
    assert list(load_runs(horrors, where="problems!=none,seed=1", now=NOW).table.index) == ["2"]


def test_a_record_that_vanishes_while_it_is_read_is_no_error(horrors):
    source = Directory(horrors, NOW)
    found = source.records()
    shutil.rmtree(horrors / "2")
    assert [len(one) for one in source.points(found)][1] == 0
