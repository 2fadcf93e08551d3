"""`python -m analysis adaptation`: the table of adaptation curves, by hand, and the runs that do not compare."""

from __future__ import annotations

import numpy as np
import pytest
from records import write_record

from analysis import __main__ as commands
from analysis import plots

SCORES = [[-3.0, -2.0], [-30.0, -4.0], [-5.0, -1.0], [-4.0, -3.0]]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Four seeds, each evaluated on two tasks whose mean is the score."""
    monkeypatch.chdir(tmp_path)
    for seed, score in enumerate(SCORES):
        write_record(tmp_path / "runs" / str(seed + 1), seed=seed, score=[[mean - 1, mean + 1] for mean in score])
    return tmp_path / "runs"


def table(line, capsys):
    assert commands.main(["adaptation", *line.split()]) == 0
    rows = [row.strip("| ").split(" | ") for row in capsys.readouterr().out.splitlines() if row.startswith("|")]
    return {name: cells for name, *cells in rows}


def refused(line, capsys):
    assert commands.main(["adaptation", *line.split()]) == 2
    return capsys.readouterr().err


def test_a_group_has_its_runs_and_their_middle(root, capsys):
    rows = table("runs/1 runs/2 runs/3 runs/4 --target=-9.5,-8", capsys)
    assert rows["mean return, run (seed)"] == ["after 0", "after 1"]
    assert rows["2 (1)"] == ["-30.00", "-4.00"]
    assert rows["**median**"] == ["**-4.50**", "**-2.50**"]
    assert rows["IQM"] == ["-4.50", "-2.50"], "without the lowest and the highest of four"
    assert rows["published"] == ["-9.50", "-8.00"]
    assert len(rows["95 % bootstrap interval of the IQM"]) == 2


def test_groups_stand_below_each_other(root, capsys):
    for seed in range(2):
        write_record(root / f"b{seed}", seed=seed, inner_lr=0.3, score=[[0.0], [seed]])
    rows = table("runs --by inner_lr", capsys)
    assert list(rows)[2:9] == ["1 (0)", "2 (1)", "3 (2)", "4 (3)", "**inner_lr=none: median**", "inner_lr=none: IQM",
                               "inner_lr=none: 95 % bootstrap interval of the IQM"]  # fmt: skip
    assert rows["inner_lr=0.3: IQM"] == ["0.00", "0.50"]


def test_one_run_has_no_interval(root, capsys):
    assert list(table("runs/1", capsys)) == ["mean return, run (seed)", "---", "1 (0)"]


def test_the_picture_has_every_run_and_the_published_values(root, capsys, monkeypatch):
    drawn = []
    save = plots.save
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure) or save(figure, path))
    table("runs --target=-9.5,nan,-8 --picture curves.png", capsys)
    lines = [list(line.get_ydata()) for line in drawn[0].axes[0].lines]
    assert all(score in lines for score in SCORES) and [-4.5, -2.5] in lines
    np.testing.assert_array_equal(lines[-1], [-9.5, np.nan, -8.0])
    assert {text.get_text() for text in drawn[0].axes[0].texts} == {"maml_trpo", "published"}
    assert (root.parent / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (dict(score=[-1.0] * 3), "different numbers of gradient steps, {'1': 1, '5': 2}; choose with --where"),
        (dict(unit="episodes"), "the runs differ in the unit of a step: gradient steps, episodes"),
        (dict(label="error"), "score: the runs were scored differently: mean return (run 1), error (run 5)"),
    ],
)
def test_runs_that_do_not_compare_are_refused(root, capsys, result, message):
    usual = {"label": "mean return", "unit": "gradient steps", "score": [-1.0, -1.0]}
    write_record(root / "5", seed=9, run={"result": usual | result})
    assert message in refused("runs/1 runs/5", capsys)
    if "label" in result:
        assert "the runs differ in the score" in refused("runs/1 runs/5 --allow-different-tasks", capsys)


def test_unfinished_and_missing_runs_are_refused(tmp_path, capsys):
    assert "no such directory" in refused(str(tmp_path / "nothing"), capsys)
    write_record(tmp_path / "1", status="RUNNING", metrics={"eval/score_after_0": [1.0]})
    assert "status=('COMPLETED',): none of the runs has it" in refused(str(tmp_path), capsys)
    assert table(f"{tmp_path} --status any", capsys)["1 (0)"] == ["1.00"]
