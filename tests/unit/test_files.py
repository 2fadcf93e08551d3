from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from research.files import (
    append_lines,
    atomic_write,
    claim_number,
    claim_numbers,
    remove_abandoned,
    remove_partial,
    whole_lines,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_never_see_a_file_that_is_being_written(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = []

    def write(file):
        file.write(b"new" * 100_000)
        file.flush()
        seen.append(path.read_bytes())

    atomic_write(path, write)
    assert seen == [b"old"]
    assert path.read_bytes() == b"new" * 100_000


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / ".latest.pt.0123.partial").write_bytes(b"half")
    (tmp_path / "latest.pt").write_bytes(b"whole")
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["latest.pt"]


KILLED = """
import os, pathlib, sys
from research.files import atomic_write
atomic_write(pathlib.Path(sys.argv[1], "file"), lambda file: os.kill(os.getpid(), 9))
"""


def test_what_a_killed_process_left_is_removed_while_others_write(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".partial")

    def write(file):
        remove_abandoned(tmp_path)
        assert not left.exists() and len(list(tmp_path.iterdir())) == 1  # the one that is being written
        file.write(b"whole")

    atomic_write(tmp_path / "other", write)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_incomplete_files_of_directories_below_are_removed_too(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / ".curve.png.00.partial").write_bytes(b"half")
    remove_partial(tmp_path)
    assert not list((tmp_path / "pictures").iterdir())


@pytest.mark.parametrize("write", [append_lines, lambda path, lines: atomic_write(path, lambda file: file.write(b"x"))])
def test_a_full_disk_names_the_file(tmp_path, monkeypatch, write):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: .*/metrics'") as raised:
            write(tmp_path / "metrics", ["two"])
    assert raised.value.filename == str(tmp_path / "metrics")


def test_a_place_that_cannot_be_written_is_named_and_not_the_partial_file(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        atomic_write(tmp_path / "nowhere" / "file", lambda file: None)
    assert raised.value.filename == str(tmp_path / "nowhere" / "file")


def test_json_is_strict(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"value": float("nan")})
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "file.json", {"value": [1, None]})
    assert json.loads((tmp_path / "file.json").read_text()) == {"value": [1, None]}


def test_lines_that_do_not_fit_leave_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    append_lines(path, ["one"])

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            append_lines(path, ["two", "three"])
    append_lines(path, ["four"])
    assert path.read_text() == "one\nfour\n"


def test_a_torn_last_line_is_not_read(tmp_path):
    path = tmp_path / "lines"
    assert list(whole_lines(path)) == []
    append_lines(path, ["one", "two"])
    append_lines(path, ["three"])
    with path.open("a") as file:
        file.write("fo")
    assert [line.strip() for line in whole_lines(path)] == ["one", "two", "three"]
    append_lines(path, ["four"])
    append_lines(path, ["five"])
    assert path.read_text() == "one\ntwo\nthree\nfo\nfour\nfive\n"


def test_numbers_go_on_after_the_highest_directory(tmp_path):
    for name in ("3", "10", "_sources", "abc"):
        (tmp_path / name).mkdir()
    assert [claim_number(tmp_path) for _ in range(2)] == [11, 12]
    assert claim_number(tmp_path / "new" / "place") == 1


def test_processes_that_start_at_once_never_share_a_number(tmp_path):
    code = "import sys, pathlib; from research.files import claim_number\nsys.stdin.read(1)\n"
    code += "print(*(claim_number(pathlib.Path(sys.argv[1])) for _ in range(25)))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    for process in processes:  # all wait for this before they begin
        process.stdin.write("x")
        process.stdin.flush()
    numbers = [int(number) for process in processes for number in process.communicate()[0].split()]
    assert sorted(numbers) == list(range(1, 201))


def test_a_disk_that_fills_up_keeps_no_number(tmp_path, monkeypatch):
    make = Path.mkdir

    def mkdir(path, *arguments, **named):
        if path.name == "4":
            raise OSError(28, "No space left on device", str(path))
        make(path, *arguments, **named)

    (tmp_path / "1").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", mkdir)
        with pytest.raises(OSError, match="No space left"):
            claim_numbers(tmp_path, 5)
    assert claim_numbers(tmp_path, 2) == [2, 3]
