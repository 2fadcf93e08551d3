"""Adaptation curves as records have them, and those of recurrent agents: regret, totals, and the order of episodes."""

from __future__ import annotations

import numpy as np
import pytest

from research.algorithms.memory.config import RL2Config
from research.algorithms.memory.evaluation import expected_total, trial_curve
from research.algorithms.memory.recurrent import RecurrentAgent
from research.algorithms.outer import initial_params
from research.evaluation import AdaptationCurve, spread
from research.policies.memory import MemoryConfig
from research.rng import generator
from research.tasks import make_tasks
from research.tasks.bandit import Bandit, BanditTasks
from research.tasks.base import Split
from research.tasks.splits import evaluation_tasks


def curve(name="bandit", tasks=5, steps=3, trials=2, **settings):
    """The tasks, and the curve of an untrained policy on them."""
    horizon = settings.pop("horizon", None)
    policy = MemoryConfig(4, output_scale=3.0)
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
    split = {"split": "test", "held_out": None}
    assert plain.summary() == {"label": "return", "unit": "gradient steps", "score": [1.5, 3.5], **split}
    by_task = {
        "label": "return",
        "unit": "gradient steps",
        "lower_is_better": False,
        **split,
        "tasks": {"how": "", "distinct": [0, 1], "describe": None},
        "score": [[1.0, 2.0], [3.0, 4.0]],
    }
    assert plain.by_task() == by_task
    regret = np.array([[0.5, 0.0], [0.25, 1.0]])
    solved = plain._replace(extras={"regret": regret}, totals={"total": np.array([3.25, 9.0])})
    assert solved.summary() == plain.summary() | {"total": 6.125}
    assert solved.by_task() == by_task | {"regret": [[0.5, 0.0], [0.25, 1.0]]}
    assert list(solved.by_task()) == [*by_task, "regret"]


def of_split(name, split, count=5, **settings):
    tasks = make_tasks(name, **settings)
    batch, evaluated = evaluation_tasks(tasks, split, count)
    return AdaptationCurve("return", np.zeros((2, count)), batch, distribution=tasks, evaluated=evaluated)


def test_the_record_says_which_tasks_are_the_same_and_what_they_are():
    record = of_split("cheetah_dir", "validation").by_task()
    assert (record["split"], record["held_out"]) == ("validation", False)
    assert record["tasks"] == {
        "how": "there are only two directions, so evaluation has those of training",
        "distinct": [0, 1, 0, 1, 0],
        "describe": {"direction": ["forward", "backward"]},
    }
    record = of_split("cheetah_vel", "test").by_task()
    assert (record["split"], record["held_out"]) == ("test", True)
    assert (record["tasks"]["distinct"], record["tasks"]["describe"]) == ([0, 1, 2, 3, 4], None)
    assert of_split("gym_env", "test").summary()["held_out"] is False
    assert of_split("gym_env", "test").distinct().tolist() == [0] * 5
    many = of_split("tabular_mdp", "test", 40)
    assert many.distinct().tolist() == list(range(40)), "several fields of several numbers"


@pytest.mark.parametrize(
    ("name", "settings", "split", "words"),
    [
        ("navigation_2d", {}, "test", "held-out test tasks"),
        ("navigation_2d", {}, "validation", "held-out validation tasks"),
        ("navigation_2d", {}, "train", "training tasks"),
        ("grid_goals", {}, "test", "held-out test tasks"),
        ("grid_goals", {}, "validation", "validation tasks (those of training)"),
        ("ant_dir", {}, "test", "test tasks (those of training)"),
        ("ant_dir", {"directions": "plane"}, "test", "held-out test tasks"),
        ("gym_env", {}, "test", "test tasks (those of training)"),
        ("gym_tasks", {"choose": {"g": [1.0, 2.0, 3.0]}}, "validation", "validation tasks (those of training)"),
    ],
)
def test_the_words_for_the_tasks_follow_what_the_family_says(name, settings, split, words):
    curve = of_split(name, split, count=1, **settings)
    assert curve.evaluated.tasks() == words
    assert curve.evaluated.tasks(1) == words.replace("tasks", "task")


@pytest.mark.parametrize(
    ("name", "count", "settings", "expected"),
    [
        ("gridnavi", 21, {}, True),
        ("gridnavi", 42, {}, True),
        ("gridnavi", 20, {}, False),
        ("gridnavi", 43, {}, False),
        ("dark_room", 9, {"size": 3}, True),
        ("dark_room", 2, {"size": 3, "test_fraction": 0.2}, False),
        ("cheetah_dir", 4, {}, True),
        ("cheetah_dir", 5, {}, False),
        ("navigation_2d", 21, {}, False),
    ],
)
def test_an_evaluation_knows_whether_it_has_all_tasks_of_the_family(name, count, settings, expected):
    for split in ("test", "validation"):
        if not (settings.get("test_fraction") and split == "validation"):
            assert of_split(name, split, count, **settings).has_all_tasks() == expected


class Unsaid:
    """A family of a user that knows nothing of validation."""

    split = Split(True, "one fixed sequence")

    def sample(self, num_tasks, rng):
        return BanditTasks(rng.random((num_tasks, 2)))

    def test_tasks(self, num_tasks):
        return self.sample(num_tasks, generator(0, "unsaid/test"))


def test_without_validation_tasks_they_are_draws_from_a_stream_of_their_own():
    (tasks, evaluated), again = (evaluation_tasks(Unsaid(), "validation", 3) for _ in range(2))
    np.testing.assert_array_equal(tasks.mean, again[0].mean)
    assert evaluated.tasks() == "validation tasks", "nothing is claimed"
    others = [Unsaid().test_tasks(3), evaluation_tasks(Unsaid(), "train", 3)[0]]
    assert not any(np.isin(tasks.mean, other.mean).any() for other in others)


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
