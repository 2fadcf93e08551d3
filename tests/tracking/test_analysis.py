"""What `load_runs` makes of runs that were recorded for real: from files and from a MongoDB."""

from __future__ import annotations

import warnings

import gridfs
import mongo
import pandas as pd
import pytest
import sacred
from sacred.observers import MongoObserver

from analysis.data.load import load_runs
from research.tracking.mongo.store import bring_up_to_date

OPTIONS = "eval_interval=2 checkpoint_interval=2 extra.a=1.5"


@pytest.fixture
def both(lab, line, content):
    """The same runs as files and in the database: complete, resumed, failed, evaluated."""
    lab.run(f"with {OPTIONS} num_iterations=4 seed=3 nan_at=3")
    lab.run(f"with {OPTIONS} num_iterations=4 seed=4")
    lab.run("resume with checkpoint=runs/2/checkpoints/latest num_iterations=6")
    lab.run(f"with {OPTIONS} num_iterations=4 seed=5 lr=[]")
    lab.run("evaluate with run=1 num_adapt_steps=4")
    line.connect()
    for directory in sorted((lab.directory / "runs").glob("[0-9]*")):
        bring_up_to_date(content.database, directory)
    return lab.directory / "runs", line.address


def same(left, right):
    """Equal frames. NX-27017 keeps 15 digits of a number."""
    pd.testing.assert_frame_equal(left, right, rtol=1e-13, atol=0, check_exact=False)


def test_files_and_the_database_give_equal_frames(both, content):
    files, database = (load_runs(source) for source in both)
    assert list(files.table["status"]) == ["COMPLETED", "COMPLETED", "FAILED", "COMPLETED"]
    assert list(files.table["restarts"]) == [0, 1, 0, 0]
    assert files.table["problems"].iloc[2].startswith("IndexError")
    same(files.table.drop(columns="source"), database.table.drop(columns="source"))
    for name in ("metrics", "adaptation", "artifacts", "pauses"):
        assert len(getattr(files, name)) > 0
        same(getattr(files, name), getattr(database, name))
    chosen = [load_runs(source, where="seed<4,command=train") for source in both]
    assert [list(runs.table.index) for runs in chosen] == [["1"], ["1"]]
    same(*(runs.curves("loss", x="seconds") for runs in chosen))
    assert "IndexError" in database.log("3") and database.log("3") == files.log("3")
    assert "mongodb://127.0.0.1" in database.table["source"].iloc[0]


def test_a_run_in_both_counts_once(both):
    runs = load_runs([both[1], both[0]])
    assert list(runs.table.index) == ["1", "2", "3", "4"]
    assert set(runs.table["source"]) == {str(both[0])}


def test_adaptation_of_every_task_is_recorded(both, lab):
    adaptation = load_runs(both[0]).adaptation
    last = adaptation[(adaptation["run"] == "1") & (adaptation["iteration"] == 4)]
    assert set(last["task"]) == {0, 1, 2, 3} and set(last["adapt_step"]) == {0, 1, 2}
    means = list(last.groupby("adapt_step")["value"].mean())
    assert means == pytest.approx(lab.record(1)["result"]["score"], rel=1e-12)
    before = adaptation[(adaptation["run"] == "1") & (adaptation["iteration"] == 2)]
    assert set(before["task"]) == {-1}
    recorded = lab.record(1, "metrics.json")["eval/score_after_2"]["values"][0]
    assert list(before["value"])[-1] == recorded


def test_metrics_in_several_documents_and_of_former_starts(lab, line, content, monkeypatch):
    monkeypatch.setattr("research.tracking.mongo.store.CHUNK", 3)
    lab.run("with num_iterations=8 seed=1")
    line.connect()
    bring_up_to_date(content.database, lab.directory / "runs" / "1")
    content.database.metrics.insert_one(
        {"run_id": 1, "name": "loss", "steps": [99], "values": [1.0], "timestamps": [pd.Timestamp(0)], "generation": 7}
    )
    assert content.database.metrics.count_documents({"run_id": 1, "name": "loss"}) == 4
    same(load_runs(lab.directory / "runs").metrics, load_runs(line.address).metrics)


def test_an_evaluation_that_is_not_in_the_database_is_named(both, content):
    (artifact,) = (one for one in content.run(1)["artifacts"] if one["name"] == "evaluation.json")
    gridfs.GridFS(content.database).delete(artifact["file_id"])
    runs = load_runs(both[1], where="id=1")
    assert runs.table.loc["1", "problems"] == "evaluation.json: damaged in the database"
    assert set(runs.adaptation["task"]) == {-1}


def test_sacreds_own_mongo_observer_is_read(lab, line, content, mongo_address):
    peer = sacred.Experiment("peer", save_git_info=False)
    peer.add_config(seed=4, nested={"lr": 0.5}, layers=(4, 4))
    peer.observers.append(MongoObserver(url=mongo_address, db_name=line.database))

    @peer.main
    def work(_run):
        (lab.directory / "made.txt").write_text("made")
        _run.add_artifact("made.txt")
        for step in range(3):
            _run.log_scalar("loss", 0.5 * step, step)
        return 0.25

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer.run()
    peer.observers[0]._client.close()
    runs = load_runs(line.connect().address)
    row = runs.table.iloc[0]
    assert (row["experiment"], row["status"], row["seed"], row["config.nested.lr"]) == ("peer", "COMPLETED", 4, 0.5)
    assert (row["config.layers"], row["result"], row["final.loss"], row["problems"]) == ((4, 4), 0.25, 1.0, "")
    assert list(runs.metrics["value"]) == [0.0, 0.5, 1.0]
    assert runs.artifacts["path"].iloc[0].startswith("gridfs:")


def test_a_silent_server_is_refused_without_the_password(monkeypatch):
    monkeypatch.setattr("analysis.data.from_mongo._SECONDS", 0.2)
    address = f"mongodb://me:secret@127.0.0.1:{mongo.free_port()}/lab"
    with pytest.raises(
        ValueError, match=r"mongodb://127\.0\.0\.1:[0-9]+/lab: no answer from a MongoDB server"
    ) as refused:
        load_runs(address)
    assert "secret" not in str(refused.value) and refused.value.__cause__ is None


def test_an_empty_database_says_so(line):
    with pytest.raises(ValueError, match="no runs there"):
        load_runs(line.connect().address)
