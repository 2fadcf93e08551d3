"""The table of adaptation curves reads run records and nothing else."""

import json

import numpy as np
import pytest

from analysis.commands import adaptation


def write_run(directory, seed, score, status="COMPLETED"):
    directory.mkdir()
    result = {"iteration": 1, "label": "mean return", "score": score}
    (directory / "run.json").write_text(json.dumps({"status": status, "result": result}))
    (directory / "config.json").write_text(json.dumps({"seed": seed}))
    return directory


@pytest.fixture
def runs(tmp_path):
    scores = [[-3.0, -2.0], [-30.0, -4.0], [-5.0, -1.0], [-4.0, -3.0]]
    return [write_run(tmp_path / str(seed), seed, score) for seed, score in enumerate(scores)]


def test_table_and_picture(runs, tmp_path, capsys):
    picture = tmp_path / "curves.png"
    assert adaptation.main([*map(str, runs), "--target=-9.5,-8", "--picture", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines if "|" in line
    }
    assert rows[f"{runs[1]} (1)"] == ["-30.00", "-4.00"]
    assert rows["**median**"] == ["**-4.50**", "**-2.50**"]
    assert rows["IQM"] == ["-4.50", "-2.50"], "without the lowest and the highest of four"
    assert rows["published"] == ["-9.50", "-8.00"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_run_has_no_interval(runs, capsys):
    assert adaptation.main([str(runs[0])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[2].endswith("(0) | -3.00 | -2.00 |")


def test_scores_are_read_as_recorded(runs):
    run = adaptation.load_run(runs[0])
    assert run.seed == 0
    np.testing.assert_array_equal(run.score, [-3.0, -2.0])


def test_runs_that_do_not_compare_are_refused(runs, tmp_path, capsys):
    longer = write_run(tmp_path / "longer", 9, [-1.0, -1.0, -1.0])
    assert adaptation.main([str(runs[0]), str(longer)]) == 2
    assert "do not compare" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "message"), [("RUNNING", "its status is RUNNING"), (None, "no run record")])
def test_unfinished_and_missing_runs_are_refused(tmp_path, capsys, status, message):
    directory = tmp_path / "run"
    if status:
        write_run(directory, 0, [0.0], status)
    assert adaptation.main([str(directory)]) == 2
    assert message in capsys.readouterr().err
