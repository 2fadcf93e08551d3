"""The command `report` without a browser: what it refuses, how curves are thinned, packed and averaged."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab_runs import write_run

from analysis import stats
from analysis.commands.report import main
from analysis.report_page import curves, pictures, summary
from analysis.stats import iqm


@pytest.fixture
def runs(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / "runs" / str(seed), seed)
    return tmp_path / "runs"


def refused(arguments, capsys):
    assert main([str(argument) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


def test_no_run_that_matches_is_refused_with_what_there_is(runs, capsys, tmp_path):
    path = tmp_path / "page.html"
    assert "maml_trpo" in refused([runs, "--where", "experiment=maml_dqn", "-o", path], capsys)
    assert not path.exists()


def test_an_unknown_metric_is_refused_with_the_nearest(runs, capsys, tmp_path):
    message = refused([runs, "--metric", "return_pst", "-o", tmp_path / "page.html"], capsys)
    assert "return_pst" in message and "return_post" in message


def test_an_output_that_cannot_be_is_refused_before_anything_is_read(capsys, tmp_path):
    assert "there is no folder" in refused(["nowhere", "-o", tmp_path / "none" / "page.html"], capsys)
    assert "is a folder" in refused(["nowhere", "-o", tmp_path], capsys)


@pytest.mark.parametrize(("text", "told"), [("1,x", "'x' is not a seed"), ("3-", "'3-' is not a seed")])
def test_seeds_that_are_none_are_refused(runs, capsys, tmp_path, text, told):
    assert told in refused([runs, "--seeds", text, "-o", tmp_path / "page.html"], capsys)


def test_a_negative_weight_of_pictures_is_refused(runs, capsys, tmp_path):
    assert "need 0 or more MiB" in refused([runs, "--pictures=-1", "-o", tmp_path / "page.html"], capsys)


@pytest.mark.thorough
def test_averages_over_different_tasks_are_refused_unless_asked_for(runs, capsys, tmp_path):
    write_run(runs / "3", 3, task="ant_goal")
    path = tmp_path / "page.html"
    arguments = [str(runs), "--by", "inner_lr", "-o", str(path)]
    assert "different tasks" in refused(arguments, capsys)
    assert main([*arguments, "--allow-different-tasks"]) == 0
    assert main([str(runs), "-o", str(path)]) == 0, "groups of their own may stand side by side"
    assert "Groups were evaluated on different tasks" in path.read_text()


def test_expected_seeds_that_no_run_completed_are_missing(runs, tmp_path):
    assert main([str(runs), "--seeds", "1-3,9", "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "maml_trpo: seeds 3, 9" in page and "2 missing" in page


def test_the_password_of_a_database_is_not_in_the_page(runs, tmp_path, monkeypatch):
    import analysis.commands.report

    load = analysis.commands.report.load_runs
    monkeypatch.setattr("analysis.commands.report.load_runs", lambda sources, where: load(sources[0], where))
    path = tmp_path / "page.html"
    assert main([str(runs), "mongodb://ada:secret@lab:27017/sacred", "-o", str(path)]) == 0
    assert "secret" not in path.read_text() and "mongodb://lab:27017/sacred" in path.read_text()


numbers = st.one_of(st.floats(-1e6, 1e6), st.just(np.nan))


@given(st.lists(numbers, min_size=1, max_size=300), st.integers(4, 50))
def test_thinning_keeps_the_ends_and_the_extremes(values, most):
    array = np.array(values)
    kept = curves.thin(array, most)
    assert len(kept) <= most or len(kept) == len(array) <= most
    assert kept[0] == 0 and kept[-1] == len(array) - 1 and (np.diff(kept) > 0).all()
    finite = array[np.isfinite(array)]
    if len(finite):
        assert np.nanmin(array[kept]) == finite.min() and np.nanmax(array[kept]) == finite.max()


def curve(run, values, stride=1):
    step = np.arange(1, len(values) + 1) * stride
    return curves.Curve(run, step, np.array(values, float), 2.0 * step, None)


def test_bands_average_the_runs_that_count_as_far_as_all_go():
    groups = curves.Groups(["a", "b"], [0, 0, 0, 0, 0, 1], [True, True, True, True, False, True])
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 6))
    mine = [curve(run, row) for run, row in enumerate(values)]
    mine[3] = curve(3, values[3][:5])
    first, second = curves.bands([*mine, curve(4, [99.0] * 6), curve(5, [1.0, 2.0])], groups, 100)
    assert first["count"] == 4 and first["iteration"] == [1, 2, 3, 4, 5] and first["env_steps"] is None
    assert first["seconds"] == [2, 4, 6, 8, 10]
    np.testing.assert_allclose(first["y"], iqm(values[:, :5].T), rtol=1e-5)
    assert all(low < middle < high for low, middle, high in zip(first["low"], first["y"], first["high"], strict=True))
    assert "1 of 4 runs end before 6" not in second["note"] and "end before 6" in first["note"]
    assert second["low"] == [None, None] and "no interval" in second["note"]


def test_a_group_without_one_finite_value_says_so():
    (band,) = curves.bands([curve(0, [np.nan, np.nan])], curves.Groups(["a"], [0], [True]), 100)
    assert band["y"] == [] and "no average: diverged: 1 of 1 runs, the first at 1" in band["note"]


def test_a_band_ends_where_a_run_diverges():
    mine = [curve(0, [1.0, 2.0, np.nan]), curve(1, [3.0, 4.0, 5.0])]
    (band,) = curves.bands(mine, curves.Groups(["a"], [0, 0], [True, True]), 100)
    assert band["y"] == [2, 3, None] and band["low"][-1] is band["high"][-1] is None
    assert "diverged: 1 of 2 runs, the first at 3; no value of the group at 1 of 3 points" in band["note"]


def test_a_last_value_that_is_not_finite_is_told_from_a_missing_one(runs, tmp_path):
    path = runs / "1" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[-1]["values"]["return_post"] = None
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([str(runs), "--metric", "return_post", "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert ">not finite<" in page and stats.NOT_FINITE in page


def test_packed_curves_find_their_steps_again():
    groups = curves.Groups(["a"], [0], [True])
    packer = curves.Packer(100, groups, 2)
    often, rarely = curve(0, np.arange(50.0)), curve(0, [1.0, np.nan, 3.0], stride=20)
    packer.add([often])
    packer.add([rarely])
    (grid,) = packer.grids()
    for packed, given_curve in zip(packer.payloads([grid]), (often, rarely), strict=True):
        (one,) = packed["curves"]
        places = range(len(one["y"])) if one["at"] is None else one["at"]
        assert [grid["iteration"][place] for place in places] == given_curve.step.tolist()
        assert [grid["seconds"][place] for place in places] == given_curve.seconds.tolist()
        expected = [None if np.isnan(value) else value for value in given_curve.value]
        assert one["y"] == expected


def test_of_repeated_seeds_the_last_counts(runs, tmp_path):
    write_run(runs / "3", 2)
    record = json.loads((runs / "3" / "run.json").read_text())
    (runs / "3" / "run.json").write_text(json.dumps({**record, "start_time": "2026-03-02T12:00:00"}))
    assert main([str(runs), "-o", str(tmp_path / "page.html")]) == 0
    assert "Not averaged, since a later run has their settings and seed: 2." in (tmp_path / "page.html").read_text()


def test_output_of_a_terminal_becomes_text():
    assert summary.readable("\x1b[1;31mred\x1b[0m\n 10 %\r 20 %\r\nend\x07\n\n") == "red\n 20 %\nend"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (float("nan"), None),
        (True, "true"),
        (0.1, "0.1"),
        (3.0, "3"),
        ((64, (1, None)), "[64, [1, none]]"),
    ],
)
def test_settings_are_written_as_a_reader_would(value, shown):
    assert summary.text(value) == shown


def test_pictures_beyond_the_limit_are_named(tmp_path):
    import pandas as pd

    (tmp_path / "a.png").write_bytes(bytes(600))
    (tmp_path / "b.svg").write_bytes(bytes(600))
    rows = [("1", "a.png", tmp_path / "a.png"), ("1", "b.svg", tmp_path / "b.svg"), ("2", "c.gif", tmp_path / "c.gif")]
    frame = pd.DataFrame([*rows, ("2", "model.pt", tmp_path / "model.pt")], columns=["run", "name", "path"])
    shown, left_out = pictures.inline(frame, 1000, {"1": str(tmp_path), "2": str(tmp_path)})
    assert [(picture.run, picture.name) for picture in shown] == [("1", "a.png")]
    assert shown[0].uri.startswith("data:image/png;base64,AAAA")
    assert [(picture.name, picture.reason.split(":")[0]) for picture in left_out] == [
        ("b.svg", "0.00057 MiB"),
        ("c.gif", "the file is not there"),
    ]


def test_no_file_from_outside_of_a_run_gets_into_the_page(tmp_path):
    import pandas as pd

    secret, run = tmp_path / "secret.png", tmp_path / "runs" / "1"
    run.mkdir(parents=True)
    secret.write_bytes(b"secret")
    (run / "inside.png").write_bytes(b"inside")
    (run / "link.png").symlink_to(secret)
    (run / "loop.png").symlink_to(run / "loop.png")
    names = ["inside.png", "link.png", "loop.png", "../../secret.png", str(secret), "nul\0.png"]
    frame = pd.DataFrame([("1", name, str(run / name)) for name in names], columns=["run", "name", "path"])
    shown, left_out = pictures.inline(frame, 1000, {"1": str(run)})
    assert [picture.name for picture in shown] == ["inside.png"]
    assert [picture.name for picture in left_out] == names[1:]
    assert {picture.reason for picture in left_out} == {"not a file of the run's directory, so it is not read"}
    shown, _ = pictures.inline(frame, 1000, {"1": ""})
    assert shown == [], "a database that names no directory"
