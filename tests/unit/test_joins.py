"""What plots eat: groups, axes, and the runs that may not stand side by side."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from records import line, write_record

from analysis.data.groups import differing, group_labels
from analysis.data.load import load_runs


def rows(frame, *columns):
    return [tuple(one) for one in frame[list(columns)].to_numpy(object)]


@pytest.fixture
def root(tmp_path):
    """Two groups of two seeds, evaluated every other iteration, and one that failed."""
    number = 0
    for inner_loop in ("func", "higher"):
        for seed in (0, 1):
            number += 1
            base = 10.0 * number
            metrics = {"score": [None, base, None, base + 1], "env_steps": [100.0] * 4}
            write_record(tmp_path / str(number), seed=seed, inner_loop=inner_loop, num_threads=number, metrics=metrics)
    write_record(tmp_path / "5", seed=2, inner_loop="func", metrics={"score": [1.0]}, status="FAILED")
    return tmp_path


def test_curves_against_every_axis(root):
    runs = load_runs(root)
    curves = runs.curves("score")
    assert list(curves.columns) == ["group", "seed", "run", "x", "value"]
    assert rows(curves, "group", "seed", "run", "x", "value")[:3] == [
        ("inner_loop=func", 0, "1", 2, 10.0),
        ("inner_loop=func", 0, "1", 4, 11.0),
        ("inner_loop=func", 1, "2", 2, 20.0),
    ]
    assert list(runs.curves("score", x="env_steps")["x"][:2]) == [200.0, 400.0]
    assert list(runs.curves("score", x="seconds")["x"][:2]) == [20.0, 40.0]
    assert list(runs.curves("score", by=["num_threads"])["group"].unique()) == [
        f"num_threads={n}" for n in (1, 2, 3, 4)
    ]


def test_only_the_statuses_asked_for_count(root):
    runs = load_runs(root)
    assert "5" not in set(runs.curves("score")["run"])
    assert "5" in set(runs.curves("score", status=None)["run"])
    assert set(runs.curves("score", status=["FAILED"])["run"]) == {"5"}
    with pytest.raises(ValueError, match=r"status=\('STALE',\): none of the runs has it, they are \{'COMPLETED': 4"):
        runs.curves("score", status=["STALE"])


@pytest.mark.parametrize("name", ["status", "started", "experiment"])
def test_a_text_or_a_time_is_no_score_and_nobody_has_diverged(root, name):
    with pytest.raises(ValueError, match=f"metric='{name}': no run has a number there"):
        load_runs(root).scores(name)


def test_a_run_whose_time_is_unknown_has_not_diverged(root):
    record = root / "1" / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"start_time": None}))
    scores = load_runs(root).scores("seconds")
    assert "1" not in set(scores["run"]) and scores["value"].notna().all()
    assert scores.attrs["note"] == "completed without seconds, not in the table: run 1"


def test_scores_are_last_values_or_columns(root):
    runs = load_runs(root)
    assert rows(runs.scores("score"), "group", "seed", "run", "value") == [
        ("inner_loop=func", 0, "1", 11.0),
        ("inner_loop=func", 1, "2", 21.0),
        ("inner_loop=higher", 0, "3", 31.0),
        ("inner_loop=higher", 1, "4", 41.0),
    ]
    assert set(runs.scores("seconds")["value"]) == {45.0}


def test_scores_may_be_areas_and_extremes_of_curves(root):
    write_record(root / "6", seed=2, inner_loop="higher", metrics={"score": [None, 50.0, None, 54.0, None, 90.0]})
    runs = load_runs(root)
    found = runs.scores("score", value="area")
    assert rows(found, "run", "value") == [("1", 10.5), ("2", 20.5), ("3", 30.5), ("4", 40.5), ("6", 52.0)]
    assert found.attrs["note"] == "area: mean height from iteration 2 to 4; 1 of 5 runs go on beyond"
    assert list(runs.scores("score", value="max")["value"]) == [11.0, 21.0, 31.0, 41.0, 90.0]
    assert list(runs.scores("score", value="min")["value"]) == [10.0, 20.0, 30.0, 40.0, 50.0]
    with pytest.raises(ValueError, match="value='best': need one of last, area, max, min"):
        runs.scores("score", value="best")
    with pytest.raises(ValueError, match="metric='seconds': no run has it"):
        runs.scores("seconds", value="area")


@pytest.mark.parametrize("ask", [lambda runs: runs.curves("scor"), lambda runs: runs.scores("scor")])
def test_an_unknown_metric_names_the_nearest(root, ask):
    with pytest.raises(ValueError, match="metric='scor': no run has it; did you mean score"):
        ask(load_runs(root))


def test_an_axis_that_is_none_is_refused(root):
    with pytest.raises(ValueError, match="x='steps': need one of iteration, env_steps, seconds"):
        load_runs(root).curves("score", x="steps")
    write_record(root / "6", seed=3, inner_loop="func", metrics={"score": [1.0]})
    with pytest.raises(ValueError, match="x='env_steps': run 6 has no metric env_steps"):
        load_runs(root).curves("score", x="env_steps")


def test_without_evaluations_there_are_no_adaptation_curves(root):
    with pytest.raises(ValueError, match="no run has an evaluation; train to the end, or set eval_interval"):
        load_runs(root).adaptation_curves()


def test_repetitions_are_refused_unless_asked_for(root):
    again = {"start_time": "2031-01-01T00:00:00"}
    write_record(root / "6", seed=1, inner_loop="func", metrics={"score": [7.0]}, run=again, num_threads=1)
    runs = load_runs(root)
    with pytest.raises(ValueError, match=r"runs 2, 6 have the same group 'inner_loop=func' and seed 1: a repetition"):
        runs.scores("score")
    last, every = (list(runs.scores("score", repeats=how)["run"]) for how in ("last", "all"))
    assert last == ["1", "3", "4", "6"] and every == ["1", "2", "3", "4", "6"]
    with pytest.raises(ValueError, match="repeats='first': need one of refuse, last, all"):
        runs.scores("score", repeats="first")


def test_runs_without_seeds_are_no_repetitions(tmp_path):
    for number in (1, 2):
        write_record(tmp_path / str(number), seed=None, metrics={"score": [1.0]})
    assert list(load_runs(tmp_path).scores("score")["run"]) == ["1", "2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(task="cheetah_vel"),
            "task: the runs were evaluated on different tasks: navigation_2d .run 1., cheetah_vel",
        ),
        (dict(num_eval_tasks=20), "num_eval_tasks: the runs were evaluated on different tasks: 40 .run 1., 20 .run 2."),
        (dict(eval_split="validation"), "eval_split: the runs were evaluated on different tasks: test .run 1., valida"),
        (dict(task_args={"radius": 2.0}), "task_args.radius: the runs were evaluated on different tasks"),
        (dict(horizon=50), "horizon: the runs were evaluated on different tasks"),
    ],
)
def test_runs_on_different_tasks_are_refused_unless_asked_for(tmp_path, change, message):
    settings = {"task": "navigation_2d", "num_eval_tasks": 40, "task_args": {"radius": 1.0}, "horizon": 100}
    settings["eval_split"] = "test"
    parts = {"metrics": {"score": [1.0]}, "score": [[1.0]]}
    write_record(tmp_path / "1", **parts, **settings)
    write_record(tmp_path / "2", **parts, **settings | change)
    runs = load_runs(tmp_path)
    for ask in (runs.scores, runs.curves):
        with pytest.raises(ValueError, match=message):
            ask("score")
        assert len(ask("score", allow_different_tasks=True)) == 2
    with pytest.raises(ValueError, match=message):
        runs.adaptation_curves()
    assert len(load_runs(tmp_path, where="id=2").scores("score")) == 1


def test_runs_that_are_scored_differently_are_refused_and_unscored_ones_are_not(tmp_path):
    """The record says what a score is: no setting of an algorithm has to be known here."""
    result = {"label": "mean discounted return", "unit": "TD steps", "score": [1.0]}
    write_record(tmp_path / "1", metrics={"score": [1.0]}, score=[[1.0]])
    write_record(tmp_path / "2", metrics={"score": [1.0]}, seed=1)
    assert len(load_runs(tmp_path).scores("score")) == 2
    write_record(tmp_path / "3", metrics={"score": [1.0]}, seed=2, run={"result": result})
    runs = load_runs(tmp_path)
    with pytest.raises(
        ValueError, match=r"scored differently: mean return \(run 1\), mean discounted return \(run 3\)"
    ):
        runs.scores("score")
    assert len(runs.scores("score", allow_different_tasks=True)) == 3


def test_labels_name_what_differs_and_nothing_else():
    table = pd.DataFrame(
        {
            "experiment": ["a", "a", "b"],
            "config.seed": [0, 1, 2],
            "config.runs_dir": ["x", "y", "z"],
            "config.lr": [0.1, 0.30000000000000004, None],
            "config.layers": [(4, 4), (4, 4), (8,)],
            "config.only_b": [None, None, 1],
        },
        index=["1", "2", "3"],
    )
    assert differing(table) == ["experiment", "config.lr"]
    assert list(group_labels(table)) == ["a, lr=0.1", "a, lr=0.30000000000000004", "b"]
    assert list(group_labels(table, ["layers", "lr"]))[1:] == [
        "layers=[4, 4], lr=0.30000000000000004",
        "layers=[8], lr=none",
    ]
    assert list(group_labels(table.iloc[:1])) == ["a"]


@pytest.mark.parametrize(
    ("one", "other"),
    [(0.9999999, 1.0), (0.12345671, 0.12345678), (0.1, 0.1 + 2**-56), (2**53, 2**53 + 1), ("1", 1), ("none", None),
     (True, 1), ([1.0000001], [1.0]), ("[1, 2]", [1, 2])],
)  # fmt: skip
@pytest.mark.parametrize("by", [None, ["k"]])
def test_settings_that_differ_at_all_are_two_groups(tmp_path, one, other, by):
    for number, value in enumerate((one, other, one, other)):
        write_record(tmp_path / str(number), seed=number, k=value, metrics={"score": [float(number % 2)]})
    scores = load_runs(tmp_path).scores("score", by=by)
    assert [sorted(part["value"]) for _, part in scores.groupby("group", sort=False)] == [[0.0, 0.0], [1.0, 1.0]]


def test_equal_numbers_of_different_types_are_one_group(tmp_path):
    for seed, value in enumerate((1, 1.0, 1)):
        write_record(tmp_path / str(seed), seed=seed, k=value, j=seed, metrics={"score": [0.0]})
    assert set(load_runs(tmp_path).scores("score", by=["k"])["group"]) == {"k=1"}


def test_damaged_records_make_no_setting_differ(tmp_path):
    for number in (1, 2, 3):
        write_record(tmp_path / str(number), seed=number, lr=0.1, metrics={"score": [1.0]})
    (tmp_path / "2" / "run.json").write_text('{"sta')
    (tmp_path / "4").mkdir()
    assert differing(load_runs(tmp_path).table) == ["experiment"]


def test_the_last_evaluation_counts_task_by_task(tmp_path):
    rng = np.random.default_rng(0)
    scores = {seed: rng.normal(size=(3, 5)) for seed in range(3)}
    for seed, score in scores.items():
        curve = {f"eval/score_after_{step}": [0.0] for step in range(3)}
        write_record(tmp_path / str(seed + 1), seed=seed, score=score.tolist(), metrics=curve)
    curves = load_runs(tmp_path).adaptation_curves()
    for seed, score in scores.items():
        part = curves[curves["seed"] == seed].sort_values("adapt_step")
        np.testing.assert_allclose(part["value"], score.mean(1), rtol=1e-12)


@pytest.fixture
def lost(tmp_path):
    """Five seeds of two settings: of the first, seeds 1 and 3 end with null, and one run has no score at all."""
    for number in range(10):
        values = [1.0, float(number)]
        settings = {"seed": number // 2, "lr": 0.1 * (1 + number % 2)}
        folder = write_record(tmp_path / str(number), metrics={"score": values}, **settings)
        if number in (2, 6):
            (folder / "metrics.jsonl").write_text(line(1, score=1.0) + line(2, score=None, nonfinite_values=1))
    write_record(tmp_path / "10", seed=7, lr=0.1, metrics={"other": [1.0]})
    return tmp_path


def test_runs_that_are_not_finite_count_as_nan(lost):
    runs = load_runs(lost)
    scores = runs.scores("score", by=["lr"])
    assert len(scores) == 10 and list(scores.loc[scores["value"].isna(), "run"]) == ["2", "6"]
    assert scores.attrs["note"] == "completed without score, not in the table: run 10"
    for value in ("area", "max", "min"):
        assert runs.scores("score", by=["lr"], value=value)["value"].isna().sum() == 2
    assert "run 2: COMPLETED, not finite at the end: score" in runs.report()


def test_runs_that_are_not_finite_are_dropped_by_name_only(lost):
    runs = load_runs(lost)
    for frame in (runs.scores, runs.curves):
        found = frame("score", by=["lr"], not_finite="drop")
        assert found["run"].nunique() == 8 and np.isfinite(found["value"]).all()
        assert "left out, since they have diverged: 2 of 10 runs (2, 6)" in found.attrs["note"]
    with pytest.raises(ValueError, match="not_finite='drop': every run has diverged, 2"):
        load_runs(lost, where="id=2").scores("score", not_finite="drop")
    with pytest.raises(ValueError, match="not_finite='forget': need one of count, drop"):
        runs.scores("score", not_finite="forget")


def test_a_mean_over_tasks_is_not_that_of_the_tasks_that_are_finite(tmp_path):
    folder = write_record(tmp_path / "1", score=[[1.0, 2.0], [3.0, 5.0]], metrics={"loss": [1.0]})
    evaluation = {"score": [[1.0, 2.0], [3.0, None]], "regret": [[1.0, 1.0], [2.0, 4.0]]}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    found = load_runs(tmp_path).adaptation_curves()
    np.testing.assert_array_equal(found["value"], [1.5, np.nan])
    np.testing.assert_array_equal(found["regret"], [1.0, 3.0])


def test_a_result_of_null_is_a_score_that_is_not_finite(tmp_path):
    for number, score in ((1, [1.0, 2.0]), (2, [1.0, None])):
        result = {"label": "mean return", "unit": "gradient steps", "score": score}
        write_record(tmp_path / str(number), seed=number, run={"result": result})
    write_record(tmp_path / "3", seed=3)
    found = load_runs(tmp_path).scores("result.score_after_1", by=["seed"])
    assert list(found["run"]) == ["1", "2"] and np.isnan(found["value"].iloc[1])
