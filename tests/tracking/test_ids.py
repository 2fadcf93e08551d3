"""Ids of runs: one pattern, and folders with other names disturb nobody."""

from __future__ import annotations

import json

import pytest

from research import files
from research.tracking.place import check_id, id_of
from research.tracking.records import MissingError, RecordError, read_config, read_run, run_directories

BAD = ["", " ", ".", "..", "²", "٣", "_sources", ".hidden", "../evil", "a/b", "a\\b", "1.0", "007", "1e3", "1_000",
       "0x10", "-1", "nan", "None", "true", "x\n", "x ", "x.", "9" * 19, "x" * 101, "\x1b[31mred"]  # fmt: skip


@pytest.fixture
def inner(lab, monkeypatch):
    """A working directory whose surroundings are watched, too."""
    directory = lab.directory / "inner"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.mark.parametrize("text", BAD)
def test_what_names_no_folder_of_its_own_is_no_id(text):
    with pytest.raises(ValueError, match=r"run=.*: need a number such as 7, or a name"):
        check_id(text)


@pytest.mark.parametrize(
    ("given", "expected"), [("7", 7), (0, 0), ("pilot", "pilot"), ("my run", "my run"), ("2024-01-05", "2024-01-05"),
                            ("a.b-c_d", "a.b-c_d"), ("9" * 18, int("9" * 18))],
)  # fmt: skip
def test_numbers_and_plain_names_are_ids(given, expected):
    assert check_id(given) == expected


@pytest.mark.parametrize("value", [True, 1.0, None, ["x"]])
def test_other_values_are_no_ids(value):
    with pytest.raises(ValueError, match="need a number"):
        check_id(value)


@pytest.mark.parametrize("text", [one for one in BAD if one not in ("", " ")])
@pytest.mark.parametrize("command", ["ensure", "resume", "evaluate"])
def test_a_run_of_such_a_name_is_refused_and_nothing_is_written(lab, inner, capsys, command, text):
    (inner / "o.json").write_text(json.dumps({"run": text}))
    lab.run(f"{command} --overrides=o.json")
    assert lab.exit_code == 2
    assert f"run={text!r}: need a number such as 7" in capsys.readouterr().err
    assert sorted(lab.directory.rglob("*")) == [inner, inner / "o.json"]


@pytest.mark.parametrize("text", ["''", ".", "²", "_sources", "../evil", "a/b", "1.0", "/tmp/evil"])
def test_an_option_with_such_an_id_is_refused_and_nothing_is_written(lab, inner, capsys, text):
    lab.run(f"-F runs -i {text} with num_iterations=1")
    assert lab.exit_code == 2
    assert "-i " in (shown := capsys.readouterr().err) and "need a number such as 7" in shown
    assert list(lab.directory.rglob("*")) == [inner]


def test_a_number_as_text_is_that_number(lab):
    lab.run("-i 12 with num_iterations=1")
    (lab.directory / "o.json").write_text(json.dumps({"run": "12"}))
    lab.run("resume --overrides=o.json with num_iterations=2")
    assert (lab.exit_code, lab.runs(), lab.state(12)["iteration"]) == (0, ["12"], 2)


@pytest.mark.parametrize("line", ["resume with run=1 num_iterations=2", "ensure with run=1 num_iterations=2"])
def test_a_run_that_is_continued_keeps_its_id(lab, capsys, line):
    lab.run("with num_iterations=1")
    lab.run(f"-i 5 {line}")
    assert (lab.exit_code, lab.runs()) == (2, ["1"])
    assert f"-i 5: {line.split()[0]} writes run 1; leave -i out" in capsys.readouterr().err
    lab.run(f"-i 1 {line}")
    assert (lab.exit_code, lab.state(1)["iteration"]) == (0, 2)


def test_folders_of_strange_names_disturb_nobody(lab, capsys):
    for name in ("²", "007", "9" * 25, "٣", "[red]", ".tmp", "_other", "x y\n"):
        (lab.directory / "runs" / name).mkdir(parents=True)
        (lab.directory / "runs" / name / "run.json").write_text('{"status": "COMPLETED"}')
    lab.run("with num_iterations=1")
    lab.run("with num_iterations=1")
    assert lab.exit_code == 0 and {"1", "2"} <= set(lab.runs())
    names = [path.name for path in run_directories(lab.directory / "runs")]
    assert names[:2] == ["1", "2"] and set(names[2:]) == {"²", "007", "9" * 25, "٣", "[red]", "x y\n"}
    assert [id_of(name) for name in names[:2]] == [1, 2] and id_of("007") == "007"
    assert files.next_number(lab.directory / "runs") == 3
    lab.run("resume with run=99")
    assert "no such run in runs; the last there is" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "  ", '{"status": "COMPL', "[1]", "3", '{"status": 3}', "{}", "[" * 100_000,
                                     '{"status": "COMPLETED", "experiment": []}', b"\xff\xfe{}"])  # fmt: skip
def test_a_damaged_record_is_named_with_its_reason(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecordError, match=r"run.json: .*; restore it from a copy") as caught:
        read_run(tmp_path)
    assert caught.value.path == tmp_path / "run.json" and not isinstance(caught.value, MissingError)


def test_a_missing_file_is_told_apart(tmp_path):
    for read in (read_run, read_config):
        with pytest.raises(MissingError, match="json: missing"):
            read(tmp_path)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(RecordError, match=r"config\.json: cannot be read \(Is a directory\)"):
        read_config(tmp_path)
