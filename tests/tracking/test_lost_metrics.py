"""Metrics that were lost are missed: computed again, restored, or named."""

from __future__ import annotations

import json
import os
import signal
import zlib

import pytest
import torch
from toy_experiment import OPTIONS

from analysis.data.load import load_runs
from research.tracking.journal import Journal
from research.tracking.records import METRICS, Extent, missing_rows, parse_row, read_rows, to_line

ENSURE = f"ensure with run=7 {OPTIONS}"
ROW = {"step": 3, "timestamp": "2030-01-02T03:04:05", "values": {"loss": 0.5, "crc": 3}}


@pytest.fixture
def reference(lab):
    lab.run(f"with {OPTIONS}")
    return 1


def delete(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def zero(path):
    path.write_bytes(b"\0" * path.stat().st_size)


def cut_lines(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[3:]))


def cut_bytes(path):
    os.truncate(path, path.stat().st_size // 2)


def change_a_digit(path):
    """It is valid JSON, and another number."""
    lines = path.read_text().splitlines(keepends=True)
    at = lines[1].index('"loss": ') + 11
    lines[1] = lines[1][:at] + str((int(lines[1][at]) + 1) % 10) + lines[1][at + 1 :]
    path.write_text("".join(lines))


DAMAGES = [delete, empty, zero, cut_lines, cut_bytes, change_a_digit]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_stopped_run_computes_them_again(lab, reference, after_step, damage, capsys):
    after_step(7, lambda: signal.raise_signal(signal.SIGUSR1))
    lab.run(ENSURE)
    damage(lab.directory / "runs/7" / METRICS)
    before = lab.state(7)["iteration"]
    capsys.readouterr()
    lab.run("resume with run=7")
    assert (lab.exit_code, lab.state(7)["iteration"]) == (2, before)
    assert "of the 7 rows up to iteration 7 are missing or damaged" in capsys.readouterr().err
    lab.run(ENSURE)
    assert lab.exit_code == 0 and "their steps are computed again" in capsys.readouterr().out
    lab.assert_same(7, reference)
    lab.run(ENSURE)
    assert "Run 7 is complete" in capsys.readouterr().out


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_complete_run_computes_them_again(lab, reference, damage, capsys):
    lab.run(ENSURE)
    damage(lab.directory / "runs/7" / METRICS)
    lab.run(ENSURE)
    assert "their steps are computed again" in capsys.readouterr().out
    lab.assert_same(7, reference)


def test_what_the_best_checkpoint_counts_is_enough(lab, reference, after_step, capsys):
    after_step(7, lambda: signal.raise_signal(signal.SIGUSR1))
    lab.run(ENSURE)
    path = lab.directory / "runs/7" / METRICS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]))
    lab.run("resume with run=7")
    assert "`resume with checkpoint=runs/7/checkpoints/best.pt`" in capsys.readouterr().err
    lab.run("resume with checkpoint=runs/7/checkpoints/best.pt")
    assert [entry["iteration"] for entry in lab.record(7)["resumed"]] == [4]
    lab.assert_same(7, reference)


def test_a_run_that_goes_on_from_its_best_may_be_killed_at_once(lab, reference, monkeypatch):
    """The later checkpoint counts rows that are gone by then."""
    lab.run(f"with {OPTIONS}")
    with monkeypatch.context() as patch:
        patch.setattr("research.tracking.session.Session.train", lambda self: os.kill(os.getpid(), signal.SIGINT))
        lab.run("resume with checkpoint=runs/2/checkpoints/best")
    assert [step for step, _ in lab.metrics(2)] == list(range(1, lab.state(2, "best")["iteration"] + 1))
    lab.run("resume with run=2")
    lab.assert_same(2, reference)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_restores_them_while_it_runs(lab, reference, after_step, damage, capsys):
    after_step(7, lambda: damage(lab.directory / "runs/2" / METRICS))
    lab.run(f"-b 0 with {OPTIONS}")
    assert "another program has changed runs/2/metrics.jsonl; its 6 rows are restored" in capsys.readouterr().out
    lab.assert_same(2, reference)


def test_a_resumed_run_restores_the_rows_of_its_first_part(lab, reference, after_step):
    after_step(7, lambda: signal.raise_signal(signal.SIGUSR1))
    lab.run(f"with {OPTIONS}")
    after_step(12, lambda: delete(lab.directory / "runs/2" / METRICS))
    lab.run("resume with run=2")
    lab.assert_same(2, reference)


def test_records_of_older_versions_go_on(lab, reference, after_step):
    """Their lines have no checksums, and their checkpoints count no rows."""
    after_step(7, lambda: signal.raise_signal(signal.SIGUSR1))
    lab.run(ENSURE)
    record = lab.directory / "runs/7"
    lines = [parse_row(line) for line in (record / METRICS).read_text().splitlines()]
    (record / METRICS).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    content = torch.load(record / "checkpoints/latest.pt", weights_only=True)
    del content["record"]
    torch.save(content, record / "checkpoints/latest.pt")
    lab.run("resume with run=7")
    lab.assert_same(7, reference)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (cut_lines, "metrics.jsonl: 2 of 12 rows are missing"),
        (empty, "metrics.jsonl: 12 of 12 rows are missing"),
        (change_a_digit, "metrics.jsonl: 1 damaged lines"),
        (delete, "metrics.jsonl is missing"),
    ],
)
def test_a_table_names_them(lab, reference, damage, problem):
    damage(lab.directory / "runs/1" / METRICS)
    if damage is delete:
        assert not load_runs("runs").table.loc["1", "problems"]  # metrics.json has them all
        (lab.directory / "runs/1/metrics.json").unlink()
    assert load_runs("runs").table.loc["1", "problems"] == problem


def test_values_that_differ_from_their_checksum_are_unknown_and_not_absent(lab, reference):
    change_a_digit(lab.directory / "runs/1" / METRICS)
    metrics = load_runs("runs").metrics
    unknown = metrics[metrics["value"].isna()]
    assert set(unknown["step"]) == {2} and "loss" in set(unknown["metric"])
    assert set(metrics["step"]) == set(range(1, 13))


def test_a_line_holds_the_checksum_of_its_row():
    line = to_line(ROW)
    assert json.loads(line) == {**ROW, "crc": f"{zlib.crc32(json.dumps(ROW).encode()):08x}"}
    assert parse_row(line) == parse_row(f"{line}\n") == ROW
    assert parse_row(json.dumps(ROW)) == ROW


def test_no_changed_byte_of_a_line_is_read():
    line = to_line({**ROW, "values": {"loss": 0.1234}})
    assert parse_row(line) is not None
    for index, old in enumerate(line):
        for new in "0 9x}":
            if new != old:
                assert parse_row(line[:index] + new + line[index + 1 :]) is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "3",
        "[" * 10_000,
        '{"step": "1", "timestamp": "", "values": {}}',
        '{"step": 1, "timestamp": "", "values": []}',
        '{"step": 1, "values": {}, "crc": 3}',
    ],
)
def test_other_lines_are_no_rows(line):
    assert parse_row(line) is None


def test_rows_among_foreign_lines_are_counted(tmp_path):
    journal = Journal(tmp_path / METRICS)
    journal.append([{**ROW, "step": step} for step in range(1, 6)])
    written = journal.extent
    journal.append([{**ROW, "step": 6}])
    assert missing_rows(tmp_path, written) == 0
    lines = (tmp_path / METRICS).read_text().splitlines(keepends=True)
    (tmp_path / METRICS).write_text("".join(["nonsense\n", *lines]))
    assert missing_rows(tmp_path, written) == 0
    (tmp_path / METRICS).write_text("".join(lines[:2] + lines[3:5]))
    assert missing_rows(tmp_path, written) == 1
    (tmp_path / METRICS).write_text("".join(lines[:2] + lines[3:]))  # a later row does not stand in
    assert missing_rows(tmp_path, written) == 1
    assert missing_rows(tmp_path / "none", Extent(3, 1)) == 3


def test_a_touched_file_is_no_damage(tmp_path):
    journal = Journal(tmp_path / METRICS)
    assert not journal.check()
    journal.append([ROW])
    os.utime(tmp_path / METRICS, (1, 1))
    assert not journal.check()
    (tmp_path / METRICS).write_text("")
    assert journal.check() and not journal.check()
    assert list(read_rows(tmp_path)) == [ROW]
