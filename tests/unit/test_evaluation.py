"""Curves of recurrent agents: regret, totals, and episodes in their order."""

from __future__ import annotations

import numpy as np
import pytest

from research import rng
from research.evaluation import AdaptationCurve, spread, trial_curve
from research.policies.gru import GRUConfig, make_gru_policy
from research.tasks import make_tasks
from research.tasks.bandit import Bandit, BanditTasks


def curve(name="bandit", tasks=5, steps=3, trials=2, seed=0, **settings):
    distribution = make_tasks(name, **settings)
    spaces = distribution.observation_space, distribution.action_space
    policy = make_gru_policy(GRUConfig(4, output_scale=3.0), *spaces, rng.torch_generator(0, "policy"))
    params = {key: value.detach() for key, value in policy.named_parameters()}
    batch = distribution.test_tasks(tasks)
    return distribution, trial_curve(
        policy, params, distribution, batch, num_tasks=tasks, num_adapt_steps=steps, trials=trials, seed=seed
    )


def test_sure_arms_make_regret_and_return_add_up(monkeypatch):
    """Arms that pay always or never: what was not earned is the regret, pull by pull."""
    monkeypatch.setattr(Bandit, "test_tasks", lambda self, n: BanditTasks(np.eye(5)[:n]))
    _, seen = curve(tasks=5, steps=9)
    assert seen.unit == "episodes of the trial" and seen.score.shape == seen.regret.shape == (10, 5)
    np.testing.assert_array_equal(seen.optimal, 1.0)
    np.testing.assert_allclose(seen.score + seen.regret, 1.0)
    assert 0 < seen.score.mean() < 1
    np.testing.assert_allclose(seen.total(), 10 * 5 / 6 - seen.regret.sum(0), err_msg="k/(k + 1) of k = 5 arms")


def test_totals_by_hand():
    score, regret = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.5, 0.0], [0.25, 1.0]])
    plain = AdaptationCurve("return", score, None)
    np.testing.assert_array_equal(plain.total(), [4.0, 6.0])
    solved = plain._replace(regret=regret, optimal=np.array([2.0, 5.0]))
    np.testing.assert_array_equal(solved.total(), [2 * 2.0 - 0.75, 2 * 5.0 - 1.0])
    np.testing.assert_array_equal(solved._replace(mean_optimal=3.0).total(), [6 - 0.75, 6 - 1.0])
    assert solved.summary() == {
        "label": "return",
        "unit": "gradient steps",
        "score": [1.5, 3.5],
        "total": 2 * 3.5 - 0.875,
        "total_regret": 0.875,
    }


@pytest.mark.parametrize(
    ("name", "settings"), [("bandit", {}), ("bandit", {"reward": "gaussian"}), ("tabular_mdp", {})]
)
def test_the_total_is_the_expected_return_with_less_noise(name, settings):
    """It agrees with the returns themselves within their noise, and its own is smaller where E R* is known."""
    distribution, seen = curve(name, tasks=2000, steps=4, trials=1, **settings)
    assert (seen.mean_optimal is not None) == (settings == {} and name == "bandit")
    drawn, expected = seen.score.sum(0), seen.optimal * 5 - seen.regret.sum(0)
    gap = drawn - expected
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(2000), "given the actions, rewards are right on average"
    assert expected.std() < drawn.std()
    if seen.mean_optimal is not None:
        assert seen.mean_optimal == 5 / 6
        assert abs(seen.total().mean() - drawn.mean()) < 4 * drawn.std() / np.sqrt(2000)
        assert abs(distribution.optimal_return(distribution.test_tasks(100_000)).mean() - 5 / 6) < 0.002


def test_tasks_without_known_optimum_have_no_regret():
    _, seen = curve("navigation_2d", horizon=5)
    assert seen.regret is seen.optimal is seen.mean_optimal is None
    np.testing.assert_array_equal(seen.total(), seen.score.sum(0))


def test_fewer_episodes_are_the_first_of_more():
    fewer, more = curve(steps=2)[1], curve(steps=6)[1]
    np.testing.assert_array_equal(fewer.score, more.score[:3])
    np.testing.assert_array_equal(fewer.regret, more.regret[:3])
    with pytest.raises(ValueError, match="num_adapt_steps=-1: need at least 0 steps"):
        curve(steps=-1)


def test_indices_spread_from_end_to_end():
    assert spread(3, 6) == [0, 1, 2]
    assert spread(1, 6) == [0]
    assert spread(100, 4) == [0, 33, 66, 99]
