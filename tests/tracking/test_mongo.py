"""What MongoDB holds is what the files hold, each point once, however it got there."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import gridfs
import mongo
import pytest
import sacred
import toy_experiment
from bson import encode
from hypothesis import given
from hypothesis.strategies import text
from pymongo import monitoring
from sacred.observers import MongoObserver

from research.conversion import ConfigError
from research.tracking.mongo import VARIABLE, mirror, uploads
from research.tracking.mongo import store as module
from research.tracking.mongo.address import Address
from research.tracking.mongo.store import bring_up_to_date
from research.tracking.mongo.sync import main
from research.tracking.records import read_run

ROOT = Path(__file__).parents[2]

OPTIONS = "num_iterations=12 eval_interval=4 checkpoint_interval=5 seed=2"


@pytest.fixture
def database(line):
    database = mirror.Server(Address(line.connect().address, "")).connect()
    yield database
    database.client.close()


def test_a_run_is_there_as_sacred_would_have_it(mirrored, line, content, capsys):
    line.connect()
    mirrored.run(f"with {OPTIONS} nan_at=3")
    content.assert_complete(mirrored.directory, 1)
    run = content.run(1)
    assert run["config"]["surface"] == {"size": 3, "curvature": [1.0, 2.0]}
    assert run["captured_out"] == mirrored.output(1)
    record = mirrored.record(1)
    for name in ("start_time", "stop_time", "heartbeat"):
        # MongoDB keeps milliseconds.
        assert abs(run[name] - datetime.datetime.fromisoformat(record[name])) < datetime.timedelta(milliseconds=1)
    files = gridfs.GridFS(content.database)
    name, source = next(pair for pair in run["experiment"]["sources"] if pair[0] == "research/train.py")
    assert files.get(source).read() == (toy_experiment.Path(record["experiment"]["base_dir"]) / name).read_bytes()
    _, artifact = run["artifacts"]
    assert files.get(artifact["file_id"]).read() == (mirrored.directory / "runs/1/curve.txt").read_bytes()
    assert "warning" not in capsys.readouterr().out


def test_the_layout_is_that_of_sacreds_own_observer(mirrored, line, content, mongo_address):
    """Whatever Sacred's observer stores is there, under the same names and of the same types."""
    line.connect()
    mirrored.run("with num_iterations=3")
    peer = sacred.Experiment("peer", save_git_info=False)
    peer.add_config(num_iterations=3)
    peer.observers.append(MongoObserver(url=mongo_address, db_name=line.database, collection_prefix="peer"))

    @peer.main
    def work(_run):
        (mirrored.directory / "made.txt").write_text("made")
        _run.add_artifact("made.txt")
        for step in range(3):
            _run.log_scalar("loss", 0.5, step)
        return {"score": 1.0}

    peer.run()
    peer.observers[0]._client.close()
    ours, theirs = content.run(1), content.database["peer_runs"].find_one()
    assert theirs.keys() <= ours.keys()
    for key in theirs.keys() - {"_id"}:
        assert type(ours[key]) is type(theirs[key]), key
    for part in ("experiment", "host"):
        assert theirs[part].keys() - ours[part].keys() <= {"cpu", "gpus"}
    assert ours["artifacts"][0].keys() == theirs["artifacts"][0].keys()
    assert ours["info"]["metrics"][0].keys() == theirs["info"]["metrics"][0].keys()
    ours, theirs = content.database["metrics"].find_one({"name": "loss"}), content.database["peer_metrics"].find_one()
    assert theirs.keys() <= ours.keys()
    assert str(ours["_id"]) in {entry["id"] for entry in content.run(1)["info"]["metrics"]}
    for key in theirs:
        assert type(ours[key]) is type(theirs[key]), key


def test_the_option_does_the_same(lab, line, content, monkeypatch):
    line.connect()
    for index, option in enumerate(("-m", "--mongo"), start=1):
        lab.run(f"{option} '{line.address}' with num_iterations=2")
        content.assert_complete(lab.directory, index)
        assert line.address not in json.dumps(lab.record(index))


def test_resuming_replaces_what_came_after_the_checkpoint(mirrored, line, content, monkeypatch):
    line.connect()
    mirrored.run(f"with {OPTIONS}")
    step = toy_experiment.Toy.step

    def crash(self, state):
        if state.iteration == 8:
            raise OSError("the machine is on fire")
        return step(self, state)

    monkeypatch.setattr(toy_experiment.Toy, "step", crash)
    mirrored.run(f"with {OPTIONS}")
    assert content.run(2)["status"] == "FAILED"
    monkeypatch.setattr(toy_experiment.Toy, "step", step)
    mirrored.run("resume with run=2")
    mirrored.assert_same(2, 1)
    content.assert_complete(mirrored.directory, 2)
    assert content.run(2)["status"] == "COMPLETED"
    assert "fail_trace" not in content.run(2)
    assert content.run(2)["start_time"] < content.run(2)["stop_time"]


def test_sync_stores_what_was_never_there_and_changes_nothing_when_repeated(lab, line, content, monkeypatch, capsys):
    for _ in range(3):
        lab.run(f"with {OPTIONS}")
    monkeypatch.setenv(VARIABLE, line.connect().address)
    capsys.readouterr()
    assert main(["sync", "runs", "--run", "2"]) == 0
    assert content.numbers() == [2]
    assert capsys.readouterr().out.startswith("run 2: ")
    for _ in range(2):
        assert main(["sync"]) == 0
        for run in (1, 2, 3):
            content.assert_complete(lab.directory, run)
    assert content.numbers() == [1, 2, 3]


def test_a_metric_beyond_one_document_goes_on_in_the_next(lab, line, content, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 5)
    monkeypatch.setattr(module, "BATCH", 7)
    lab.run(f"with {OPTIONS}")
    monkeypatch.setenv(VARIABLE, line.connect().address)
    main(["sync"])
    content.assert_complete(lab.directory, 1)
    losses = content.database.metrics.find({"run_id": 1, "name": "loss"})
    assert sorted(one["length"] for one in losses) == [2, 5, 5]


def test_a_full_document_is_far_below_what_mongodb_takes():
    now = datetime.datetime.now()
    full = {"steps": [2**40] * module.CHUNK, "values": [0.1] * module.CHUNK, "timestamps": [now] * module.CHUNK}
    assert len(encode(full)) < 12_000_000


def test_many_at_once_store_each_point_once(lab, database, content, monkeypatch):
    """The mirror of a run and several `sync`, all at work on the same run."""
    monkeypatch.setattr(module, "BATCH", 2)
    lab.run(f"with {OPTIONS}")
    errors = []

    def work():
        try:
            bring_up_to_date(database, lab.directory / "runs" / "1")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    content.assert_complete(lab.directory, 1)


def test_a_database_that_lost_something_gets_it_again(lab, database, content):
    lab.run(f"with {OPTIONS}")
    cursor = bring_up_to_date(database, lab.directory / "runs" / "1")
    content.database.metrics.delete_many({"run_id": 1, "name": "loss"})
    content.database.runs.delete_many({})
    cursor.stored = None  # as after an outage
    bring_up_to_date(database, lab.directory / "runs" / "1", cursor)
    content.assert_complete(lab.directory, 1)


def test_who_comes_late_with_an_old_version_changes_nothing(lab, database, content, monkeypatch):
    """A mirror that hung in a dead connection, say, while `sync` has stored how the run ended."""
    lab.run(f"with {OPTIONS}")
    directory = lab.directory / "runs" / "1"
    old = {**read_run(directory), "status": "RUNNING", "writes": 3}
    cursor = bring_up_to_date(database, directory)
    monkeypatch.setattr(module, "read_run", lambda _: old)
    for known in (cursor, None):
        bring_up_to_date(database, directory, known)
        content.assert_complete(lab.directory, 1)


def test_numbers_that_the_database_has_already_are_left_to_their_owners(mirrored, line, content, capsys):
    line.connect()
    for number in (1, 2, 10):
        content.database.runs.insert_one({"_id": number, "record": {"uid": "of somebody else"}})
    mirrored.run("with num_iterations=2")
    assert mirrored.runs() == ["11"]
    content.assert_complete(mirrored.directory, 11)


def test_a_run_whose_number_was_taken_meanwhile_is_stored_under_another(lab, line, content, monkeypatch, capsys):
    lab.run("with num_iterations=2")
    content.database.runs.insert_one({"_id": 1, "record": {"uid": "of somebody else"}})
    monkeypatch.setenv(VARIABLE, line.connect().address)
    capsys.readouterr()
    for _ in range(2):
        assert main(["sync"]) == 0
        assert "run 1: " in (shown := capsys.readouterr().out) and ", as 2" in shown
    content.assert_complete(lab.directory, 1, number=2)
    assert content.run(1) == {"_id": 1, "record": {"uid": "of somebody else"}}
    assert content.numbers() == [1, 2]


def copy_of(lab, name):
    """A copy of run 1 in a folder of another laboratory."""
    target = lab.directory / name / "runs"
    shutil.copytree(lab.directory / "runs", target)
    return target


def resumed(directory, time):
    """The record of a run that was resumed once more, and whose metrics differ from then on."""
    run = read_run(directory)
    run |= {"resumed": [*run["resumed"], {"time": time, "iteration": 4}], "writes": run["writes"] + 5, "command": time}
    (directory / "run.json").write_text(json.dumps(run))
    path = directory / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[: 4 + len(run["resumed"])]))


def assert_stored(content, directory, number):
    content.assert_complete(directory.parents[1], directory.name, number)
    assert content.run(number)["command"] == read_run(directory)["command"]


@pytest.mark.parametrize("first", ["original", "copy"])
def test_a_copy_that_was_resumed_does_not_overwrite_the_original(lab, line, content, monkeypatch, capsys, first):
    lab.run(f"with {OPTIONS}")
    original, copied = lab.directory / "runs", copy_of(lab, "elsewhere")
    resumed(copied / "1", "2030-01-01")
    order = [original, copied] if first == "original" else [copied, original]
    monkeypatch.setenv(VARIABLE, line.connect().address)
    for _ in range(2):
        capsys.readouterr()
        assert [main(["sync", str(runs)]) for runs in order] == [0, 0]
        for number, runs in enumerate(order, start=1):
            assert_stored(content, runs / "1", number)
    shown = capsys.readouterr().out
    assert ", as 2; its record was copied, and the copies differ; the other is stored as 1 (" in shown
    assert str(order[0] / "1") in shown
    assert content.numbers() == [1, 2]


def test_two_copies_that_were_resumed_are_two_runs(lab, database, content):
    """Also in the same folder: a copy that was put where the original had been."""
    lab.run(f"with {OPTIONS}")
    directory, copied = lab.directory / "runs" / "1", copy_of(lab, "elsewhere") / "1"
    resumed(directory, "2030-01-01")
    assert bring_up_to_date(database, directory).number == 1
    resumed(copied, "2030-01-02")
    assert bring_up_to_date(database, copied).number == 2
    shutil.rmtree(directory)
    shutil.copytree(copied, directory)
    resumed(directory, "2030-01-03")
    assert bring_up_to_date(database, directory).number == 3
    assert_stored(content, copied, 2)
    assert_stored(content, directory, 3)


def test_a_run_that_was_moved_or_is_seen_from_another_machine_keeps_its_document(lab, database, content, monkeypatch):
    lab.run(f"with {OPTIONS}")
    assert bring_up_to_date(database, lab.directory / "runs" / "1").number == 1
    moved = lab.directory / "moved" / "runs"
    moved.parent.mkdir()
    (lab.directory / "runs").rename(moved)
    resumed(moved / "1", "2030-01-01")
    assert bring_up_to_date(database, moved / "1").number == 1
    assert_stored(content, moved / "1", 1)
    monkeypatch.setattr("socket.gethostname", lambda: "another-node")
    resumed(moved / "1", "2030-01-02")  # as after a preemption
    assert bring_up_to_date(database, moved / "1").number == 1
    copied = lab.directory / "copied" / "1"
    shutil.copytree(moved.parent, lab.directory / "copied" / "all")
    (lab.directory / "copied" / "all" / "runs" / "1").rename(copied)
    resumed(copied, "2030-01-03")  # a copy on a machine that cannot see the original
    assert bring_up_to_date(database, copied).number == 2
    assert content.numbers() == [1, 2]


def test_an_untouched_copy_has_the_document_of_the_original(lab, database, content):
    lab.run(f"with {OPTIONS}")
    for directory in (lab.directory / "runs" / "1", copy_of(lab, "elsewhere") / "1"):
        assert bring_up_to_date(database, directory).number == 1
    assert content.numbers() == [1]


class Counter(monitoring.CommandListener):
    """The commands that a client sent."""

    def __init__(self):
        self.names = []

    def started(self, event):
        self.names.append(event.command_name)

    def succeeded(self, event): ...

    def failed(self, event): ...


def test_many_sources_need_few_requests(lab, line, content, monkeypatch):
    """Each request costs a round trip, and a run waits for the last of them."""
    lab.run("with num_iterations=2")
    counter = Counter()
    database = mirror.Server(Address(line.connect().address, "")).connect(counter)
    cursor = bring_up_to_date(database, lab.directory / "runs" / "1")
    sources = content.run(1)["experiment"]["sources"]
    assert len(sources) > 100 and len(cursor.files) > 100
    assert len(counter.names) <= 20
    files = gridfs.GridFS(content.database)
    for name, source in sources:
        assert files.get(source).read() == (ROOT / name).read_bytes()
    counter.names.clear()
    bring_up_to_date(database, lab.directory / "runs" / "1", cursor)
    assert len(counter.names) <= 2
    database.client.close()


def test_files_are_stored_as_gridfs_stores_them(database, content, line, tmp_path, monkeypatch):
    """Beside pymongo's own: empty ones, ones of several chunks, and more than one batch."""
    line.connect()
    monkeypatch.setattr(uploads, "BATCH_BYTES", 1000_000)
    sizes = {"empty.py": 0, "one.txt": 1, "chunk.bin": 255 << 10, "two.bin": (255 << 10) + 1, "large.bin": 1000_000}
    sizes |= {f"{index}.py": 120_000 for index in range(20)}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(os.urandom(size))
    files = [uploads.File(f"digest of {name}", tmp_path / name, name) for name in sizes]
    batches = list(uploads.store_files(database, files))
    assert 3 <= len(batches) <= 6
    stored = {digest: key for batch in batches for digest, key in batch.items()}
    peer = gridfs.GridFS(content.database)
    for file in files:
        found = peer.get(stored[file.digest])
        theirs = peer.get(peer.put(file.path.read_bytes(), filename=file.name))
        assert found.read() == theirs.read() == file.path.read_bytes()
        for field in ("length", "chunk_size", "filename"):
            assert getattr(found, field) == getattr(theirs, field)
        assert type(found.upload_date) is type(theirs.upload_date)


def test_a_run_that_the_database_refuses_does_not_stop_the_others(lab, line, content, monkeypatch, capsys):
    for _ in range(3):
        lab.run("with num_iterations=2")
    (lab.directory / "runs" / "1" / "run.json").write_text("{")
    path = lab.directory / "runs" / "2" / "info.json"
    path.write_text(json.dumps({"large": "x" * (17 << 20)}))
    monkeypatch.setenv(VARIABLE, line.connect().address)
    assert main(["sync"]) == 1
    shown = capsys.readouterr().err
    assert "run 1: not stored: " in shown and "run 2: not stored: MongoDB at 127.0.0.1" in shown
    content.assert_complete(lab.directory, 3)


def test_large_artifacts_stay_on_disk(lab, database, content, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 10)
    lab.run("with num_iterations=2")
    bring_up_to_date(database, lab.directory / "runs" / "1")
    _, artifact = content.run(1)["artifacts"]
    path = lab.directory / "runs" / "1" / "curve.txt"
    assert artifact["path"] == str(path)
    digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
    assert (artifact["sha256"], artifact["size"], artifact["file_id"]) == (digest, path.stat().st_size, None)


def test_the_output_is_capped_and_says_where_all_of_it_is(lab, database, content, monkeypatch):
    monkeypatch.setattr(module, "OUTPUT_CAP", 20)
    lab.run("with num_iterations=2")
    bring_up_to_date(database, lab.directory / "runs" / "1")
    place, _, rest = content.run(1)["captured_out"].partition("\n")
    assert str(lab.directory / "runs" / "1" / "cout.txt") in place
    assert lab.output(1).endswith(rest) and len(rest) == 20


def test_keys_and_numbers_that_bson_does_not_take():
    assert module._bson({"a.b": {"$c": 2**70}, "d": [-(2**63), True]}) == {
        "a,b": {"@c": str(2**70)},
        "d": [-(2**63), True],
    }


@pytest.mark.parametrize(
    ("address", "place", "database"),
    [
        ("mongodb://me:secret@host:27017/lab?authSource=admin", "host:27017", "lab"),
        ("mongodb+srv://me:se%2Fcret@cluster.example.org", "cluster.example.org", "sacred"),
        ("mongodb://me:se%40cret@a:1,b:2/?appname=secret", "a:1,b:2", "sacred"),
        ("host:27017:lab", "host:27017", "lab"),
        ("host:27017", "host:27017", "sacred"),
        ("lab", "localhost:27017", "lab"),
    ],
)
def test_addresses(address, place, database):
    server = mirror.Server(Address(address, "-m"))
    assert (server.address.place, server.address.database) == (place, database)
    assert "secret" not in repr(server)


@pytest.mark.parametrize("sign", "#[]!$&'()*+,;= é")
def test_signs_that_the_driver_accepts_in_a_password_change_nothing_else(sign):
    server = mirror.Server(Address(f"mongodb://me:se{sign}cret@host:27018/lab", "-m"))
    assert (server.address.place, server.address.database) == ("host:27018", "lab")
    database = server.connect()
    assert database.name == "lab"
    database.client.close()


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("mongodb://me:secret@host/my.lab", "database 'my.lab': need a name without dots"),
        ("host:27017:my.lab", "database 'my.lab': need a name without dots"),
        ("mongodb://me:secret@host/my%20lab", "InvalidURI"),
        ("mongodb://me:secret@host/lab?tlsCAFile=/nowhere/ca.pem", "tlsCAFile, cannot be read: No such file"),
        ("mongodb://me:secret@host/lab?tls=true&tlsCertificateKeyFile=/nowhere/key", "cannot be read: No such file"),
        (f"mongodb://me:secret@host/lab?tlsCAFile={__file__}", "tlsCAFile, cannot be read"),  # no certificate
        ("mongodb://me:secret@host/lab?w=0", "w=0: need at least 1"),
        ("mongodb://me:secret@host/lab?tlsCAfil=x", "an option is unknown or invalid"),
        ("mongodb://me:se/cret@host/lab", "special characters of user and password percent-encoded: / is %2F"),
        ("mongodb://me:se@cret@host/lab", "@ is %40"),
        ("mongodb://me:se%cret@host/lab", "% is %25"),
    ],
)
def test_what_is_wrong_with_an_address_is_said(address, problem):
    with pytest.raises(ConfigError) as error:
        Address(address, "-m")
    assert str(error.value).startswith("-m: ") and problem in str(error.value)
    assert "cret@" not in str(error.value) and "se/" not in str(error.value)
    assert error.value.__context__ is None  # which would hold the address


SIGNS = "az0:/@?#[]%&=.,"


@given(text(alphabet=SIGNS + "$ \\\"'é\0", max_size=12), text(alphabet=SIGNS, max_size=12))
def test_any_address_is_accepted_or_refused_by_name(password, rest):
    for address in (f"mongodb://me:{password}secret@{rest}", f"mongodb+srv://me:{password}secret@{rest}", rest):
        try:
            shown = repr(mirror.Server(Address(address, "-m")))
        except ConfigError as error:
            shown = str(error)
        assert "secret" not in shown


@pytest.mark.parametrize("address", ["mongodb://me:se cret@:x@/", "me:secret@host", "mongodb://me:secret@host:port/db"])
def test_what_is_no_address_is_refused_without_showing_it(lab, capsys, monkeypatch, address):
    monkeypatch.setenv(VARIABLE, address)
    lab.run("with num_iterations=1")
    shown = capsys.readouterr()
    assert lab.exit_code == 2
    assert "METAPOLICY_MONGO_URI: " in shown.err
    assert "cret" not in shown.err + shown.out
    assert lab.runs() == []


def test_sync_says_what_is_wrong(lab, capsys, monkeypatch):
    assert main(["sync"]) == 2
    assert "METAPOLICY_MONGO_URI is not set" in capsys.readouterr().err
    monkeypatch.setenv(VARIABLE, f"mongodb://me:secret@127.0.0.1:{mongo.free_port()}/lab")
    assert main(["sync", "--run", "7"]) == 2
    assert "--run 7: no such run in runs; there are none" in capsys.readouterr().err
    assert main(["sync"]) == 1
    shown = capsys.readouterr().err
    assert "cannot be written (ServerSelectionTimeoutError)" in shown and "secret" not in shown


def test_sync_goes_past_a_damaged_record(lab, line, content, monkeypatch, capsys):
    for _ in range(2):
        lab.run("with num_iterations=2")
    path = lab.directory / "runs" / "1" / "metrics.jsonl"
    path.write_text("garbage\n" + path.read_text())
    monkeypatch.setenv(VARIABLE, line.connect().address)
    assert main(["sync"]) == 1
    assert "run 1: not stored" in capsys.readouterr().err
    content.assert_complete(lab.directory, 2)


def test_the_password_is_nowhere(lab, monkeypatch, capfd):
    """In a process of its own, with a failure and its traceback, and a server that is not there."""
    secret = uuid.uuid4().hex  # one that uncommitted changes of this file cannot hold
    address = f"mongodb://me:{secret}@127.0.0.1:{mongo.free_port()}/lab"
    environment = {**os.environ, VARIABLE: address}
    script = [sys.executable, toy_experiment.__file__]
    shown = ""
    for line in ("with num_iterations=2", f"-l DEBUG -m {address} with num_iterations=2 lr=[]"):
        done = subprocess.run([*script, *line.split()], env=environment, capture_output=True, text=True, check=False)
        shown += done.stdout + done.stderr
    assert "IndexError" in shown and "cannot be written" in shown
    assert secret not in shown
    files = [path for path in lab.directory.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_a_run_without_a_database_loads_no_driver(lab):
    """In a process of its own, with a script as users call it."""
    program = """
import sys

import research
from experiments.maml_trpo import experiment

experiment.run_commandline(["maml_trpo", "with", "fast", "num_iterations=1"])
loaded = {"bson", "gridfs", "pymongo"} & sys.modules.keys()
assert not loaded, loaded
assert not [name for name in sys.modules if name.startswith("research.tracking.mongo.")]
"""
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    environment["PYTHONPATH"] = str(ROOT)
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert lab.record(1)["status"] == "COMPLETED"
