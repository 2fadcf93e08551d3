from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from analysis.studies import classical, rl2_paper, tabular_agents
from analysis.studies.classical import (
    BANDIT_VARIANTS,
    BANDITS,
    MDP_VARIANTS,
    MDPS,
    bandit_rows,
    bandit_total,
    main,
    mdp_rows,
)
from analysis.studies.classical_tables import (
    Family,
    Row,
    Total,
    chosen,
    differences_table,
    search_table,
    shortfalls,
    totals_table,
    write_csv,
)
from analysis.studies.pages import END, mark
from research import rng
from research.oracles import bandits
from research.oracles.planning import optimal_action_values
from research.tasks.bandit import Bandit

NAMED = [pytest.param(family, id=family.label) for family in BANDITS + BANDIT_VARIANTS]
NAMED_MDPS = [pytest.param(family, id=family.label) for family in MDPS + MDP_VARIANTS]


def row(label, value, *, column="ucb1", arms=5, size=10, error=0.1, spread=0.0):
    family = Family(column, label, lambda setting, n: None)
    return Row(family, 0.0, arms, size, Total(value, error, spread, instances=7), published=10.0)


def test_the_papers_tables_were_copied_right():
    # A figure of each table, and of each a sum over all of it.
    assert rl2_paper.BANDITS["gittins"][50, 500] == 463.7 and rl2_paper.BANDITS["ucb1"][10, 100] == 82.4
    assert rl2_paper.MDPS["beb"][75] == 1422.6 and rl2_paper.MDPS["greedy"][25] == 368.8
    assert sum(sum(column.values()) for column in rl2_paper.BANDITS.values()) == pytest.approx(11499.9)
    assert sum(sum(column.values()) for column in rl2_paper.MDPS.values()) == pytest.approx(35353.4)


def test_a_rows_figures_by_hand():
    own = row("a", 10.2, error=0.3, spread=0.4 * math.sqrt(1000))
    assert own.difference == pytest.approx(2.0)
    assert own.surprise == pytest.approx(0.2 / 0.5)
    assert own.game == "n = 10, k = 5" and row("a", 1.0, arms=0).game == "n = 10"


def test_tables_put_every_game_in_its_place():
    rows = [
        row("second", 11.0, size=100, error=1.0),
        row("second", 9.0, size=10, error=0.5),
        row("first", 10.0, size=100),
        row("first", 12.0, size=10),
    ]
    table = totals_table(rows).splitlines()
    assert table[0] == "|  | second | first |"
    assert table[2] == "| n = 10, k = 5 | 9.00 ± 0.98 (10.0, -10.0) | 12.00 ± 0.20 (10.0, +20.0) |"
    assert table[3] == "| n = 100, k = 5 | 11.00 ± 1.96 (10.0, +10.0) | 10.00 ± 0.20 (10.0, +0.0) |"
    differences = differences_table(rows[:3]).splitlines()
    assert differences[0] == "|  | n = 10, k = 5 | n = 100, k = 5 | largest | surprise |"
    assert differences[2] == "| second | -10.0 | +10.0 | 10.0 | -2.0 |"
    assert differences[3] == "| first | – | +0.0 | 0.0 | +0.0 |"


def test_the_search_reports_the_nearest_of_the_good_settings():
    rows = [row("best", 12.0), row("near", 11.9), row("nearer", 11.8), row("nearest", 10.0)]
    assert shortfalls(rows) == pytest.approx({"best": 0, "near": 100 / 120, "nearer": 100 / 60, "nearest": 100 / 6})
    assert chosen(rows) == "nearer" and chosen(rows, tolerance=1.0) == "near"
    assert chosen(rows, noise=1.1) == "near", "a distance that is no greater but for noise, and a better setting"
    table = search_table([*rows, row("other", 3.0, column="greedy")]).splitlines()
    assert table[4] == "| **nearer** | 1.67 | 18.00 |" and table[5] == "| nearest | 16.67 | 0.00 |"
    assert table[6] == "| **other** | 0.00 | 70.00 |"


def test_the_csv_has_a_line_for_each_game(tmp_path):
    write_csv(tmp_path / "a.csv", [row("a", 12.0, error=0.5, spread=1.0), row("b", 5.0, arms=0, size=25)])
    with (tmp_path / "a.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["problem"], first["label"], first["k"], first["n"]) == ("bandit", "a", "5", "10")
    assert float(first["total"]) == 12.0 and float(first["half_width"]) == pytest.approx(0.98)
    assert float(first["difference_percent"]) == pytest.approx(20.0)
    assert (second["problem"], second["k"], second["n"]) == ("tabular_mdp", "", "25")


def test_the_estimate_of_a_total_is_its_mean_with_less_noise():
    policy, arms, pulls, num = bandits.thompson, 4, 20, 4000
    estimate = bandit_total(policy, arms, pulls, num, seed=3)
    chance = rng.generator(0, "test")
    mean, uniform = chance.random((num, arms)), chance.random((num, pulls))
    plain = bandits.play(policy, mean, uniform, chance).reward.sum(1)
    error = plain.std() / math.sqrt(num)
    assert estimate.value == pytest.approx(plain.mean(), abs=4 * error)
    assert estimate.spread == pytest.approx(plain.std(), rel=0.05)
    assert estimate.error < 0.5 * error and estimate.instances == num


def test_the_bandits_of_the_analysis_are_those_of_the_task():
    own = rng.generator(0, "test").random((500, 5))
    np.testing.assert_array_equal(own, Bandit(num_arms=5).sample(500, rng.generator(0, "test")).mean)


def test_totals_of_mdps_are_means_of_returns_and_their_optimum_is_known(short):
    totals = classical.mdp_totals(tabular_agents.random, (2, 4), 600, seed=0, prior_mean=0.0)
    for n, total in zip((2, 4), totals, strict=True):
        assert total.value == pytest.approx(10.0 * n, abs=4 * total.error)
    tasks = classical.TabularMDP()
    batch = tasks.sample(600, rng.generator(2, "test"))
    numbers = tabular_agents.draw_random_numbers(rng.generator(3, "test"), 2, 10, 600)
    returns = tabular_agents.play(tabular_agents.random, *batch, numbers, rng.generator(4, "test")).sum(1)
    noisy = returns + numbers.noise.sum((0, 1))
    assert totals[0].spread == pytest.approx(noisy.std(), rel=0.1)
    assert noisy.std() > 1.2 * returns.std(), "the rewards' noise counts"
    best, error = classical.mean_optimum()
    batch = tasks.sample(2000, rng.generator(1, "test"))
    values = optimal_action_values(batch.transition, batch.reward, 10)[:, 0, 0].max(-1)
    assert best == pytest.approx(values.mean(), abs=4 * values.std() / math.sqrt(2000))
    assert error == pytest.approx(values.std() / math.sqrt(6000), rel=0.1)


@pytest.fixture
def short(monkeypatch):
    """Games that take seconds."""
    monkeypatch.setattr(rl2_paper, "PULLS", (10, 100))
    monkeypatch.setattr(rl2_paper, "ARMS", (5,))
    monkeypatch.setattr(rl2_paper, "EPISODES", (10,))
    monkeypatch.setattr(classical, "_MDPS_OF_OPTIMUM", 6_000)
    classical.mean_optimum.cache_clear()
    yield
    classical.mean_optimum.cache_clear()


@pytest.mark.parametrize("family", [family for family in NAMED if family.values[0] in BANDITS])
def test_policies_come_within_the_noise_of_the_paper(short, family):
    for found in bandit_rows(family, family.setting, 200, seed=2):
        # The paper rounds to 0.1, has a standard error of its own, and 2 % more for what it does not tell.
        noise = math.hypot(found.total.error, found.total.spread / math.sqrt(1000))
        assert abs(found.total.value - found.published) < 4 * noise + 0.05 + 0.02 * found.published


@pytest.mark.thorough
@pytest.mark.parametrize("family", [family for family in NAMED_MDPS if family.values[0] in MDPS])
def test_agents_come_within_the_noise_of_the_paper(short, family):
    (found,) = mdp_rows(family, family.setting, 120, seed=2)
    noise = math.hypot(found.total.error, found.total.spread / math.sqrt(1000))
    assert abs(found.total.value - found.published) < 4 * noise + 0.05 + 0.02 * found.published


def test_other_readings_of_the_paper_are_told_from_it(short):
    """The tolerance of the tests above is no licence for anything."""
    for family in BANDIT_VARIANTS[1:]:
        rows = list(bandit_rows(family, family.setting, 200, seed=2))
        assert max(abs(found.surprise) for found in rows) > 6


@pytest.mark.thorough
def test_the_command_writes_the_same_tables_again(short, tmp_path, monkeypatch, capsys):
    for name in ("BANDITS", "BANDIT_VARIANTS", "MDPS", "MDP_VARIANTS"):
        monkeypatch.setattr(classical, name, getattr(classical, name)[:4])
    page = tmp_path / "page.md"
    page.write_text(f"{mark(classical.COMMAND)}\n{END}\n{mark(classical.SEARCH)}\n{END}\n")
    command = [f"--page={page}", "--bandits=10", "--mdps=8"]
    assert main(command) == 0
    first = page.read_text()
    assert "| Bayes-optimal, exact | 6.660 |" in first and first.count("\n| PSRL |") == 1
    assert len(page.with_suffix(".csv").read_text().splitlines()) == 1 + 4 * 2 + 3 * 2 + 4 + 4
    assert main(command) == 0 and page.read_text() == first
    assert main([*command, "--search"]) == 0
    assert "UCB1" not in page.read_text().split(mark(classical.SEARCH))[1]
    found = page.read_text().split(mark(classical.SEARCH))[1]
    assert found.count("most probable of ") == 5 and found.count("**most probable") == 1
    assert found.count("optimistic PSRL, ") == 4
    capsys.readouterr()


def test_bad_use_of_the_command_is_an_error_with_its_name(tmp_path, capsys):
    assert main(["--bandits=1"]) == 2
    assert "--bandits=1: need at least 2" in capsys.readouterr().err
    assert main(["--mdps=0"]) == 2
    assert "--mdps=0: need at least 2" in capsys.readouterr().err
    assert main([f"--page={tmp_path / 'none.md'}"]) == 2
    assert "none.md" in capsys.readouterr().err


def test_long_games_are_left_to_those_that_can_play_them(short):
    family = Family("greedy", "greedy", lambda setting, n: bandits.greedy, longest=10)
    assert [found.size for found in bandit_rows(family, 0.0, 10, seed=0)] == [10]
    assert [found.size for found in bandit_rows(family._replace(longest=100), 0.0, 10, seed=0)] == [10, 100]


def test_every_column_of_the_paper_is_played_and_settings_are_candidates():
    for families, columns in ((BANDITS, rl2_paper.BANDITS), (MDPS, rl2_paper.MDPS)):
        assert {family.column for family in families} == set(columns) - {"rl2"}
        for family in families:
            assert not family.candidates or family.setting in family.candidates
