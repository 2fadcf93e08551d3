from __future__ import annotations

import math

import numpy as np
import pytest

from research import rng
from research.tasks import SolvedTasks, make_tasks
from research.tasks.bandit import Bandit, BanditTasks


def envs_for(means, episodes=1, **settings):
    return Bandit(num_arms=len(means[0]), **settings).make_envs(BanditTasks(np.array(means)), episodes)


def test_sure_arms_by_hand():
    envs = envs_for([[0.0, 1.0], [1.0, 0.0]], episodes=2)
    observation, info = envs.reset(seed=0)
    np.testing.assert_array_equal(observation, np.zeros((4, 1)))
    assert info == {}
    observation, reward, terminated, truncated, info = envs.step(np.array([0, 1, 0, 1]))
    np.testing.assert_array_equal(observation, np.zeros((4, 1)))
    np.testing.assert_array_equal(reward, [0.0, 1.0, 1.0, 0.0])
    assert not terminated.any() and truncated.all() and info == {}
    np.testing.assert_array_equal(envs.step(np.array([1, 1, 0, 0]))[1], 0.0)


@pytest.mark.parametrize("reward", ["bernoulli", "gaussian"])
def test_rewards_have_the_mean_and_the_spread_of_the_arm(reward):
    episodes = 20_000
    envs = envs_for([[0.3, 0.9]], episodes, reward=reward, reward_std=0.5)
    envs.reset(seed=0)
    arm = np.arange(episodes) % 2
    paid = envs.step(arm)[1]
    for index, mean in enumerate((0.3, 0.9)):
        std = math.sqrt(mean * (1 - mean)) if reward == "bernoulli" else 0.5
        own = paid[arm == index]
        assert own.mean() == pytest.approx(mean, abs=4 * std / 100)
        assert own.std() == pytest.approx(std, rel=0.05)


def test_pulls_are_independent_from_row_to_row_and_from_episode_to_episode():
    envs = envs_for([[0.5, 0.5]], 10_000)
    envs.reset(seed=0)
    first = envs.step(np.zeros(10_000, int))[1]
    envs.reset()
    second = envs.step(np.zeros(10_000, int))[1]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.04


def test_what_a_row_draws_does_not_depend_on_what_others_do():
    shown = []
    for mask, others in (([True, False, True], 0), ([True, True, True], 1)):
        envs = envs_for([[0.5, 0.1]] * 3, reward="gaussian")
        envs.reset(seed=0)
        rewards = []
        for _ in range(3):
            rewards.append(envs.step(np.array([0, others, 1]))[1][[0, 2]])
            envs.reset(options={"reset_mask": np.array(mask)})
        shown.append(rewards)
    np.testing.assert_array_equal(*shown)
    assert len(np.unique(shown[0])) == 6


def test_means_follow_their_distribution():
    mean = Bandit().sample(20_000, rng.generator(0, "test")).mean
    assert mean.shape == (20_000, 5) and mean.min() >= 0 and mean.max() <= 1
    np.testing.assert_allclose(mean.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(mean.std(0), math.sqrt(1 / 12), rtol=0.02)
    gaussian = Bandit(reward="gaussian", num_arms=3).sample(20_000, rng.generator(0, "test")).mean
    np.testing.assert_allclose(gaussian.mean(0), 0.0, atol=0.03)
    np.testing.assert_allclose(gaussian.std(0), 1.0, rtol=0.02)
    np.testing.assert_allclose(np.corrcoef(gaussian.T), np.eye(3), atol=0.03)


def test_the_best_return_and_regrets_by_hand():
    tasks, batch = Bandit(num_arms=2), BanditTasks(np.array([[0.2, 0.7], [0.6, 0.5]]))
    assert isinstance(tasks, SolvedTasks)
    np.testing.assert_array_equal(tasks.optimal_return(batch), [0.7, 0.6])
    action = np.array([[[0, 1, 1]], [[1, 0, 0]]])
    regret = tasks.action_regret(batch, np.zeros((2, 1, 3, 1)), action)
    np.testing.assert_allclose(regret, [[[0.5, 0, 0]], [[0.1, 0, 0]]], atol=1e-15)


def test_test_bandits_stay_the_same():
    # Published figures rest on these: a change of the test set must be a decision.
    expected = [[0.08976483, 0.15611391, 0.52720474], [0.67144933, 0.02720977, 0.54271666]]
    np.testing.assert_allclose(Bandit(num_arms=3).test_tasks(2).mean, expected, atol=1e-8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 10}, "horizon=10: need 1, an episode of a bandit is one pull; for more pulls take more episodes"),
        ({"num_arms": 1}, "num_arms=1: need at least 2"),
        ({"reward": "cauchy"}, "reward='cauchy': need one of bernoulli, gaussian"),
        ({"reward_std": -1.0}, r"reward_std=-1.0: need at least 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_tasks("bandit", **settings)


def test_impossible_use_of_the_rows_is_refused():
    envs = envs_for([[0.5, 0.5]], episodes=2)
    envs.reset(seed=0)
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match=f"actions: got {wrong}, need integers from 0 to 1"):
            envs.step(np.array([0, wrong]))
    with pytest.raises(ValueError, match=r"actions: got shape \(3,\), need \(2,\)"):
        envs.step(np.zeros(3, int))
    with pytest.raises(ValueError, match=r"seed: got a list of 2; need one integer"):
        envs.reset(seed=[1, 2])
    with pytest.raises(ValueError, match=r"options\['reset_mask'\]=.*: need 2 booleans"):
        envs.reset(options={"reset_mask": np.array([0, 1])})
    with pytest.raises(ValueError, match="episodes=0: need a value above 0"):
        envs_for([[0.5, 0.5]], episodes=0)
