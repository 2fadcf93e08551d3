"""Adaptation curves as records have them, and those of recurrent agents: regret, totals, and the order of episodes."""

from __future__ import annotations

import numpy as np
import pytest

from research.algorithms.memory.config import RL2Config
from research.algorithms.memory.evaluation import expected_total, trial_curve
from research.algorithms.memory.recurrent import RecurrentAgent
from research.algorithms.outer import initial_params
from research.evaluation import AdaptationCurve, spread
from research.policies.gru import GRUConfig
from research.tasks.bandit import Bandit, BanditTasks


def curve(name="bandit", tasks=5, steps=3, trials=2, **settings):
    """The tasks, and the curve of an untrained policy on them."""
    horizon = settings.pop("horizon", None)
    policy = GRUConfig(4, output_scale=3.0)
    config = RL2Config(task=name, task_args=settings, horizon=horizon, policy=policy, eval_trials=trials)
    agent = RecurrentAgent(config)
    return agent.tasks, trial_curve(agent, initial_params(agent.policy), tasks, steps)


def test_sure_arms_make_regret_and_return_add_up(monkeypatch):
    """Arms that pay always or never: what was not earned is the regret, pull by pull."""
    monkeypatch.setattr(Bandit, "test_tasks", lambda self, n: BanditTasks(np.eye(5)[:n]))
    _, seen = curve(tasks=5, steps=9)
    regret = seen.extras["regret"]
    assert seen.unit == "episodes of the trial" and seen.score.shape == regret.shape == (10, 5)
    np.testing.assert_allclose(seen.score + regret, 1.0)
    assert 0 < seen.score.mean() < 1
    np.testing.assert_allclose(seen.totals["total"], 10 * 5 / 6 - regret.sum(0), err_msg="k/(k + 1) of k = 5 arms")
    np.testing.assert_array_equal(seen.totals["total_regret"], regret.sum(0))


def test_totals_by_hand():
    regret, optimal = np.array([[0.5, 0.0], [0.25, 1.0]]), np.array([2.0, 5.0])
    np.testing.assert_array_equal(expected_total(regret, optimal), [2 * 2.0 - 0.75, 2 * 5.0 - 1.0])
    np.testing.assert_array_equal(expected_total(regret, optimal, mean_optimal=3.0), [6 - 0.75, 6 - 1.0])


def test_records_have_what_one_kind_adds_under_its_names():
    plain = AdaptationCurve("return", np.array([[1.0, 2.0], [3.0, 4.0]]), None)
    assert plain.summary() == {"label": "return", "unit": "gradient steps", "score": [1.5, 3.5]}
    by_task = {"label": "return", "unit": "gradient steps", "lower_is_better": False, "score": [[1.0, 2.0], [3.0, 4.0]]}
    assert plain.by_task() == by_task
    regret = np.array([[0.5, 0.0], [0.25, 1.0]])
    solved = plain._replace(extras={"regret": regret}, totals={"total": np.array([3.25, 9.0])})
    assert solved.summary() == plain.summary() | {"total": 6.125}
    assert solved.by_task() == by_task | {"regret": [[0.5, 0.0], [0.25, 1.0]]}
    assert list(solved.by_task()) == [*by_task, "regret"]


@pytest.mark.parametrize(
    ("name", "settings"), [("bandit", {}), ("bandit", {"reward": "gaussian"}), ("tabular_mdp", {})]
)
def test_the_total_is_the_expected_return_with_less_noise(name, settings):
    """It agrees with the returns themselves within their noise, and its own is smaller where E R* is known."""
    distribution, seen = curve(name, tasks=2000, steps=4, trials=1, **settings)
    optimal, regret = distribution.optimal_return(seen.tasks), seen.extras["regret"]
    drawn, expected = seen.score.sum(0), optimal * 5 - regret.sum(0)
    gap = drawn - expected
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(2000), "given the actions, rewards are right on average"
    assert expected.std() < drawn.std()
    if (name, settings) == ("bandit", {}):
        expected = 5 * 5 / 6 - regret.sum(0)
        assert abs(expected.mean() - drawn.mean()) < 4 * drawn.std() / np.sqrt(2000)
        assert abs(distribution.optimal_return(distribution.test_tasks(100_000)).mean() - 5 / 6) < 0.002
    np.testing.assert_allclose(seen.totals["total"], expected)


def test_tasks_without_known_optimum_have_no_regret():
    _, seen = curve("navigation_2d", horizon=5)
    assert seen.extras == seen.totals == {}


def test_fewer_episodes_are_the_first_of_more():
    fewer, more = curve(steps=2)[1], curve(steps=6)[1]
    np.testing.assert_array_equal(fewer.score, more.score[:3])
    np.testing.assert_array_equal(fewer.extras["regret"], more.extras["regret"][:3])
    with pytest.raises(ValueError, match="num_adapt_steps=-1: need at least 0 steps"):
        curve(steps=-1)


def test_indices_spread_from_end_to_end():
    assert spread(3, 6) == [0, 1, 2]
    assert spread(1, 6) == [0]
    assert spread(100, 4) == [0, 33, 66, 99]
