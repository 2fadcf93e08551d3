"""Tables of how runs learned: areas by hand, variants apart, and records that do not count."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.commands.learning import Run, area, load_run, main, table


def record(directory, values, seed=0, status="COMPLETED", **settings):
    directory.mkdir()
    (directory / "run.json").write_text(json.dumps({"status": status}))
    (directory / "config.json").write_text(json.dumps({"seed": seed, "runs_dir": str(directory), **settings}))
    rows = [{"step": 2 * i + 2, "values": {"eval/score_after_0": value}} for i, value in enumerate(values)]
    rows.insert(1, {"step": 3, "values": {"epsilon": 0.5}})
    (directory / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return directory


def test_the_area_weighs_by_the_training_before():
    assert area(np.array([2.0, 4.0, 10.0]), np.array([1.0, 2.0, 5.0])) == pytest.approx((2 + 4 + 30) / 10)


def test_a_run_counts_with_its_area_and_its_best_point(tmp_path):
    run = load_run(record(tmp_path / "1", [1.0, 9.0, 2.0], seed=3, inner={"lr": 0.1}, k=5))
    assert run == Run(("inner.lr=0.1", "k=5"), 3, 4.0, 9.0)


def test_variants_are_told_apart_by_their_settings(tmp_path, capsys):
    runs = [record(tmp_path / f"a{i}", [float(i)] * 2, seed=i, k=0, lr=0.1) for i in range(4)]
    runs += [record(tmp_path / f"b{i}", [10.0 + i] * 2, seed=i, k=5, lr=0.1) for i in range(4)]
    assert main(list(map(str, runs))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:]] == [["| k=0", "4"], ["| k=5", "4"]]
    assert "| 1.5 [" in lines[2] and lines[2].endswith("| – |")
    assert "| 11.5 [" in lines[3] and "+10.0 [+" in lines[3]


def test_runs_of_one_variant_need_no_name():
    assert "| the same | 2 | 1.5 [" in table([Run(("k=0",), 0, 1.0, 2.0), Run(("k=0",), 1, 2.0, 3.0)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(status="FAILED"), "its status is FAILED; only COMPLETED runs count"),
        (dict(values=[]), "it recorded no eval/score_after_0; need eval_interval above 0"),
    ],
)
def test_what_does_not_count_is_refused(tmp_path, capsys, change, message):
    record(tmp_path / "1", **{"values": [1.0], **change})
    assert main([str(tmp_path / "1")]) == 2
    assert message in capsys.readouterr().err
    assert main([str(tmp_path / "2")]) == 2
    assert "no run record there" in capsys.readouterr().err
