"""Identity of settings and runs: exact, and never by a printed form."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import stamp, write_record

from analysis.data.identity import key, read, text
from analysis.data.load import load_runs

NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SETTINGS = st.recursive(NUMBERS | st.booleans() | st.none() | TEXTS, lambda inner: st.lists(inner, max_size=3))
WORDS = ["007", "0.10", "1e-3", "none", "true", "nan", "2024_01_05", "v1"]
ODD = st.sampled_from([*WORDS, "[1]", "[1, 2]", "1", 1, 1.0, True, None, [1], [1, 2], ["1"]])


@given(SETTINGS | ODD, SETTINGS | ODD)
def test_values_have_one_name_exactly_if_they_are_equal(one, other):
    if "'" not in str(one) + str(other) or '"' not in str(one) + str(other):
        assert (text(one) == text(other)) == (key(one) == key(other))


@given(NUMBERS | st.booleans() | st.none() | st.sampled_from(WORDS))
def test_reading_a_name_gives_the_value(value):
    assert key(read(text(value))) == key(value)


def test_numbers_of_arrays_are_those_of_json():
    assert key(np.float64(0.1)) == key(0.1) and text(np.int64(3)) == text(3.0) == "3"
    assert key(np.bool_(True)) == key(True) != key(1)
    assert key(float("nan")) is key(None) is None


@pytest.fixture
def folders(tmp_path):
    """A run of two iterations that was interrupted, and a copy of its directory."""
    metrics = {"score": [1.0, 2.0], "time/update": [0.1, 0.1]}
    write_record(tmp_path / "a" / "1", metrics=metrics, status="INTERRUPTED")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    return tmp_path / "a", tmp_path / "b"


def went_on(directory, *scores, seconds=1000):
    """Resumes a record: its metrics go on with these scores, and it completes."""
    entry = json.loads((directory / "run.json").read_text())
    entry["resumed"].append({"time": stamp(seconds), "iteration": 2})
    entry |= {"status": "COMPLETED", "stop_time": stamp(seconds + 60)}
    (directory / "run.json").write_text(json.dumps(entry))
    with (directory / "metrics.jsonl").open("a") as file:
        for step, score in enumerate(scores, start=3):
            row = {"step": step, "timestamp": stamp(seconds + step), "values": {"score": score}}
            file.write(json.dumps(row) + "\n")


def test_an_identical_copy_is_one_run_and_is_named(folders):
    runs = load_runs(folders)
    assert list(runs.table.index) == ["1"]
    assert f"{folders[1] / '1'} is a copy of this record and left out" in runs.report()


@pytest.mark.parametrize("order", [1, -1])
def test_of_a_copy_that_went_on_the_longer_record_counts(folders, order):
    went_on(folders[1] / "1", 3.0)
    runs = load_runs(folders[::order])
    assert list(runs.table["directory"]) == [str(folders[1] / "1")]
    assert f"{folders[0] / '1'} is a" in runs.report() and "copy of this record and left out" in runs.report()


def test_two_records_that_went_on_from_one_are_two_runs_that_are_not_averaged(folders):
    went_on(folders[0] / "1", 3.0)
    went_on(folders[1] / "1", 4.0, seconds=2000)
    runs = load_runs(folders)
    assert list(runs.table.index) == ["a/1", "b/1"] and list(runs.table["final.score"]) == [3.0, 4.0]
    for mine, other in ((0, 1), (1, 0)):
        note = f"{folders[other] / '1'} is another continuation of this run: both count as runs"
        assert note in runs.table["problems"].iloc[mine]
    with pytest.raises(ValueError, match="a repetition is not an independent run"):
        runs.scores("score")


def test_a_completed_run_whose_copy_went_on_stays(folders):
    entry = json.loads((folders[0] / "1" / "run.json").read_text()) | {"status": "COMPLETED"}
    for folder in folders:
        (folder / "1" / "run.json").write_text(json.dumps(entry))
    went_on(folders[1] / "1", 3.0)
    assert list(load_runs(folders).table["final.score"]) == [2.0, 3.0]


def test_one_directory_that_is_reached_by_a_link_is_one_run(folders, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "9").symlink_to(folders[0] / "1")
    runs = load_runs([folders[0], tmp_path / "c"])
    assert list(runs.table.index) == ["1"] and "copy" not in runs.report()
