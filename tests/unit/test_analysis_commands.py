"""`python -m analysis table|compare|export`: what they print, write and refuse."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from records import line, write_record

from analysis import __main__ as commands
from analysis import stats
from analysis.commands.command_line import text_table
from analysis.commands.export import escaped

FUNC, HIGHER = [1.0, 2.0, 4.0, 8.0, 9.0], [3.0, 3.0, 7.0, 9.0, 12.0]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, value in enumerate([*FUNC, *HIGHER]):
        inner_loop = "func" if number < 5 else "higher"
        write_record(
            tmp_path / "runs" / str(number + 1), seed=number % 5, inner_loop=inner_loop, metrics={"score": [0.0, value]}
        )
    write_record(
        tmp_path / "runs" / "11", seed=5, inner_loop="func", status="FAILED", run={"fail_trace": ["KeyError: 1"]}
    )
    return tmp_path


def run(line, capsys, expected=0):
    assert commands.main(line.split()) == expected
    captured = capsys.readouterr()
    return captured.err if expected else captured.out


def line_of(shown, start):
    (found,) = [line for line in shown.splitlines() if line.startswith(start)]
    return found


def test_the_table_tells_of_failures_first(root, capsys):
    shown = run("table runs", capsys).splitlines()
    assert shown[:3] == ["11 runs: 10 COMPLETED, 1 FAILED", "  run 11: FAILED, KeyError: 1", ""]
    assert shown[3].split() == ["run", "experiment", "status", "seed", "inner_loop", "seconds", "started"]
    assert shown[4].split() == ["1", "maml_trpo", "COMPLETED", "0", "func", "25", "2030-01-02", "03:04"]
    assert len(shown) == 15


def test_columns_order_and_width_are_as_asked_for(root, capsys):
    shown = run(
        "table runs --where inner_loop=func,status=COMPLETED --columns seed,final.score --sort=-final.score", capsys
    )
    cells = [line.split() for line in shown.splitlines()[2:]]
    assert cells == [
        ["run", "seed", "final.score"],
        *([str(n), str(n - 1), f"{FUNC[n - 1]:g}"] for n in (5, 4, 3, 2, 1)),
    ]
    narrow = run("table runs --width 40", capsys).splitlines()
    assert narrow[3].split() == ["run", "experiment", "status", "seed"]
    assert narrow[-1] == "not shown for lack of width: inner_loop, seconds, started (--columns)"
    assert "did you mean config.inner_loop?" in run("table runs --columns iner_loop", capsys, 2)


def test_a_comparison_says_what_the_statistics_say(root, capsys):
    shown = run("compare runs --by inner_loop --metric score", capsys)
    rng = np.random.default_rng(0)
    func, higher = stats.estimate(FUNC, rng), stats.estimate(HIGHER, rng)
    paired = stats.paired_difference(dict(enumerate(HIGHER)), dict(enumerate(FUNC)), rng)
    better = stats.probability_of_improvement(HIGHER, FUNC)
    assert shown.startswith(
        "11 runs: 10 COMPLETED, 1 FAILED\n  run 11: FAILED, KeyError: 1\n\nscore, higher is better\n"
    )
    assert func.text() in line_of(shown, "inner_loop=func")
    for text in (higher.text(), paired.estimate.text(sign=True), better.text(digits=2), " 5  0–4 "):
        assert text in line_of(shown, "inner_loop=higher")
    assert f"difference seed by seed: {paired.estimate.interval}" in shown
    lower = run("compare runs --by inner_loop --metric score --lower-is-better", capsys)
    assert stats.probability_of_improvement(FUNC, HIGHER).text(digits=2) in line_of(lower, "inner_loop=higher")
    other = run("compare runs --by inner_loop --metric score --baseline inner_loop=higher", capsys)
    assert other.splitlines()[5].startswith("inner_loop=higher")
    assert "no such group; need one of" in run("compare runs --metric score --baseline x", capsys, 2)


def test_groups_may_be_expressions_or_sources(root, capsys):
    by_key = run("compare runs --by inner_loop --metric score", capsys)
    by_expression = run("compare runs inner_loop=func inner_loop=higher --metric score", capsys)
    assert by_key == by_expression
    write_record(root / "more" / "1", seed=0, metrics={"score": [5.0]})
    by_source = run("compare more runs --where seed=0,status=COMPLETED --repeats all --metric score", capsys)
    assert "1      0  5.00 (no interval: 1 run)" in line_of(by_source, "source=more")
    assert "2      0  " in line_of(by_source, "source=runs")
    both = run("compare runs seed<3 seed<2 --metric score", capsys, 2)
    assert "run 1 is in two groups, 'seed<3' and 'seed<2'; need groups without common runs" in both
    assert "seed>7: no run matches, of 11 in runs" in run("compare runs seed<3 seed>7 --metric score", capsys, 2)
    assert "none of these is a directory" in run("compare nowhere --metric score", capsys, 2)


def test_seeds_without_a_partner_and_uneven_groups_are_named(root, capsys):
    shown = run("compare runs --by inner_loop --metric score --where id!=10", capsys)
    assert "The groups differ in size (inner_loop=func: 5, inner_loop=higher: 4); all of these runs count." in shown
    assert "seeds without a partner, left out of the difference: 4 (inner_loop=higher)" in shown


def test_groups_that_share_no_seed_are_compared_as_independent(root, capsys):
    shown = run("compare runs inner_loop=func,seed<3 inner_loop=higher,seed>2 --metric score", capsys)
    wanted = stats.difference(HIGHER[3:], FUNC[:3], np.random.default_rng(0))
    assert f"difference of groups that share no seed: {wanted.interval}" in shown
    assert wanted.text(sign=True).split()[0] in line_of(shown, "inner_loop=higher")


def test_one_seed_has_no_interval_and_it_is_said(root, capsys):
    shown = run("compare runs --by inner_loop --metric score --where seed=0", capsys)
    assert "1.00 (no interval: 1 run)" in line_of(shown, "inner_loop=func")
    assert "+2.00 (no interval: 1 pair)" in line_of(shown, "inner_loop=higher")
    assert "[" not in shown


def test_different_tasks_are_refused_unless_asked_for(root, capsys):
    write_record(root / "runs" / "12", seed=7, inner_loop="func", task="cheetah_vel", metrics={"score": [1.0]})
    refused = run("compare runs --by inner_loop --metric score", capsys, 2)
    assert "different tasks" in refused and "--allow-different-tasks" in refused
    assert "inner_loop=func" in run("compare runs --by inner_loop --metric score --allow-different-tasks", capsys)


def test_frames_are_exported_as_csv(root, capsys):
    assert run("export runs metrics -o metrics.csv", capsys).endswith("metrics.csv: 20 rows\n")
    metrics = pd.read_csv("metrics.csv")
    assert list(metrics.columns) == ["run", "metric", "step", "value", "time"]
    assert list(metrics["value"][metrics["step"] == 2]) == [*FUNC, *HIGHER]
    run("export runs table -o table.csv", capsys)
    assert list(pd.read_csv("table.csv")["run"]) == list(range(1, 12))
    run("export runs scores --metric score,seconds --by inner_loop -o scores.csv", capsys)
    scores = pd.read_csv("scores.csv")
    assert list(scores["value"][scores["metric"] == "score"]) == [*FUNC, *HIGHER] and len(scores) == 20


def test_a_latex_table_has_values_and_intervals(root, capsys):
    run("export runs scores --metric score,seconds --by inner_loop -o table.tex", capsys)
    lines = (root / "table.tex").read_text().splitlines()
    assert lines[:4] == [r"\begin{tabular}{lrrr}", r"\toprule", r" & runs & score & seconds \\", r"\midrule"]
    rng = np.random.default_rng(0)
    values = [stats.estimate(values, rng).text() for values in (FUNC, [25.0] * 5)]
    assert lines[4] == rf"inner\_loop=func & 5 & ${values[0]}$ & ${values[1]}$ \\"
    assert lines[-2].startswith(r"\multicolumn{4}{l}{\footnotesize interquartile mean; 95 \% ")
    run("export runs scores --where seed=0 --metric score --by inner_loop -o one.tex", capsys)
    one = (root / "one.tex").read_text()
    assert r"inner\_loop=func & 1 & $1.00$ \\" in one and "no interval: 1 run" in one
    assert escaped("a_b & 5 % ~") == r"a\_b \& 5 \% \textasciitilde{}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("metrics -o metrics.xlsx", "need a name that ends with one of .csv, .parquet, .tex"),
        ("metrics -o metrics.tex", "metrics: LaTeX is for tables of groups; need scores, with --metric"),
        ("scores -o scores.csv", "--metric: scores need it"),
        ("metrics --metric score -o scores.csv", "--metric: scores need it"),
    ],
)
def test_exports_that_cannot_be_are_refused(root, capsys, line, message):
    assert message in run(f"export runs {line}", capsys, 2)
    assert {path.name for path in root.iterdir()} == {"runs"}


def test_parquet_without_pyarrow_is_refused(root, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "Parquet needs pyarrow, which is not installed: pip install pyarrow" in run(
        "export runs metrics -o metrics.parquet", capsys, 2
    )


def test_commands_are_listed_and_others_refused(capsys):
    assert commands.main([]) == 2
    assert "python -m analysis table runs" in capsys.readouterr().out
    assert commands.main(["--help"]) == 0
    capsys.readouterr()
    assert "'tabel' is not a command; need one of table, compare, export" in run("tabel", capsys, 2)


def test_numbers_are_to_the_right_and_texts_to_the_left():
    assert text_table([["a", "bb"], ["text", "1"], ["t", "1,000"]]) == "a        bb\ntext      1\nt     1,000"


@pytest.fixture
def lost(root):
    """Seeds 1 and 3 of func end with null."""
    for number in (2, 4):
        (root / "runs" / str(number) / "metrics.jsonl").write_text(line(1, score=0.0) + line(2, score=None))
    return root


def test_a_group_with_diverged_runs_has_no_mean_of_the_others(lost, capsys):
    shown = run("compare runs --by inner_loop --metric score", capsys)
    assert line_of(shown, "inner_loop=func").split()[1:4] == ["5", "0–4", "diverged:"]
    assert "diverged: 2 of 5" in line_of(shown, "inner_loop=func")
    assert "diverged: 2 of 5 pairs" in line_of(shown, "inner_loop=higher")
    better = stats.probability_of_improvement(HIGHER, [1.0, np.nan, 4.0, np.nan, 9.0])
    assert better.text(digits=2) in line_of(shown, "inner_loop=higher")
    assert f"not finite: 2 of 10 runs (2, 4): {stats.NOT_FINITE}" in shown
    loses = run("compare runs --by inner_loop --metric score --lower-is-better", capsys)
    worse = stats.probability_of_improvement(-np.array(HIGHER), [-1.0, np.nan, -4.0, np.nan, -9.0])
    assert worse.text(digits=2) in line_of(loses, "inner_loop=higher")


def test_diverged_runs_are_dropped_when_it_is_asked_for_and_named(lost, capsys):
    shown = run("compare runs --by inner_loop --metric score --not-finite drop", capsys)
    assert stats.estimate([1.0, 4.0, 9.0], np.random.default_rng(0)).text() in line_of(shown, "inner_loop=func")
    assert "left out, since they have diverged: 2 of 10 runs (2, 4)" in shown


def test_tables_tell_a_value_that_is_not_finite_from_a_missing_one(lost, capsys):
    cells = [one.rstrip() for one in run("table runs --columns final.score", capsys).splitlines()[-11:]]
    assert [one.endswith("not finite") for one in cells] == [number in (2, 4) for number in range(1, 12)]
    run("export runs scores --metric score --by inner_loop -o lost.tex", capsys)
    written = (lost / "lost.tex").read_text()
    assert r"inner\_loop=func & 5 & diverged: 2 of 5 \\" in written and "worse than every finite run" in written


def test_settings_are_shown_exactly(root, capsys):
    for number, discount in ((20, 0.9999999), (21, 1.0)):
        write_record(root / "other" / str(number), seed=number, discount=discount, metrics={"score": [1.0, 2.0]})
    shown = run("table other --columns discount", capsys)
    assert "0.9999999" in line_of(shown, " 20")
    assert "discount=0.9999999" in run("compare other --metric score", capsys)


def test_several_comparisons_are_simultaneous_and_it_is_said(root, capsys):
    for number in range(5):
        write_record(root / "runs" / f"x{number}", seed=number, inner_loop="x", metrics={"score": [0.0, 2.0 * number]})
    shown = run("compare runs --by inner_loop --metric score", capsys)
    wider = stats.paired_difference(
        dict(enumerate(HIGHER)), dict(enumerate(FUNC)), np.random.default_rng(0), confidence=0.975
    )
    assert wider.estimate.text(sign=True) in line_of(shown, "inner_loop=higher")
    assert "2 comparisons with one baseline: their intervals are simultaneous" in shown
    assert "97.5 % for each" in shown
    assert "simultaneous" not in run("compare runs --by inner_loop --metric score --where inner_loop!=x", capsys)


def test_adaptation_names_runs_that_have_diverged(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        folder = write_record(tmp_path / "runs" / str(seed), seed=seed, score=[[1.0, 3.0], [4.0, 6.0 + seed]])
        if seed == 1:
            (folder / "evaluation.json").write_text('{"score": [[1.0, 3.0], [null, null]]}')
    shown = run("adaptation runs", capsys)
    assert "| 1 (1) | 2.00 | diverged |" in shown and "| IQM | 2.00 | diverged: 1 of 3 |" in shown
    assert "not finite: 1 of 3 runs (1)" in shown and "nan" not in shown
    dropped = run("adaptation runs --not-finite drop", capsys)
    assert "| diverged" not in dropped and "left out, since they have diverged: 1 of 3 runs (1)" in dropped


def test_adaptation_does_not_average_different_tasks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, task in ((2, "navigation_2d"), (83, "gym_env")):
        write_record(tmp_path / "runs" / str(number), task=task, score=[[1.0], [2.0]])
    assert "different tasks: navigation_2d (run 2), gym_env (run 83)" in run("adaptation runs/2 runs/83", capsys, 2)
    apart = run("adaptation runs/2 runs/83 --allow-different-tasks", capsys)
    assert "IQM" not in apart, "groups of one run each"


def test_a_former_command_names_its_successor(capsys):
    told = run("learning runs/1 runs/3", capsys, 2)
    assert "compare runs/1 runs/3 --metric eval/score_after_0 --value area" in told


def test_names_of_runs_do_not_reach_the_terminal_as_commands(root, capsys):
    red = "\x1b[31m\x07"
    write_record(root / "runs" / f"a{red}", seed=9, inner_loop=f"x{red}", metrics={"score": [1.0, 2.0]})
    write_record(root / "runs" / f"b{red}", status=f"FAILED{red}", run={"fail_trace": [f"KeyError: {red}"]})
    for words in ("table runs", "compare runs --by inner_loop --metric score", "compare runs --metric no",
                 f"compare runs --metric score --baseline {red}"):  # fmt: skip
        commands.main(words.split(" "))
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err and "\x07" not in captured.out + captured.err
    commands.main(["table", "runs"])
    assert r"a\x1b[31m\x07" in capsys.readouterr().out
