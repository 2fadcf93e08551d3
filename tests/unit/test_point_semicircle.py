"""The point on the half circle: rewards by hand, fastest ways by search, regret, and the mean over all goals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from research import rng
from research.oracles import semicircle
from research.tasks.point_semicircle import PointSemicircle, SemicircleTasks


def on_circle(*degrees):
    angle = np.radians(degrees)
    return SemicircleTasks(np.stack([np.cos(angle), np.sin(angle)], -1))


def test_steps_pay_within_the_radius_and_no_episode_ends_early():
    envs = PointSemicircle(horizon=12).make_envs(on_circle(1, 90), 1)
    observation, _ = envs.reset(seed=0)
    np.testing.assert_array_equal(observation, np.zeros((2, 2)))
    rewards = []
    for t in range(12):
        observation, reward, terminated, truncated, _ = envs.step(np.array([[1.0, 0.0], [1.0, 2.0]]))
        assert not terminated.any() and truncated.all() == (t == 11)
        rewards.append(reward)
    np.testing.assert_allclose(observation, [[1.2, 0.0], [1.2, 1.2]], rtol=1e-6)
    first, second = np.array(rewards).T
    np.testing.assert_array_equal(np.flatnonzero(first), [8, 9, 10], "0.9, 1.0 and 1.1 are nearer than 0.2 to the goal")
    assert not second.any(), "the diagonal misses a goal at the top"


def test_goals_are_uniform_on_the_upper_half_circle():
    goal = PointSemicircle().sample(20_000, rng.generator(0, "test")).goal
    np.testing.assert_allclose(np.linalg.norm(goal, axis=1), 1)
    angle = np.arctan2(goal[:, 1], goal[:, 0]) / np.pi
    assert angle.min() > 0 and angle.max() < 1
    assert np.abs(np.sort(angle) - np.linspace(0, 1, len(angle))).max() < 1.6 / np.sqrt(len(angle))


@pytest.mark.parametrize(("step_size", "radius"), [(0.1, 0.2), (0.3, 0.05), (0.07, 0.5)])
def test_steps_to_a_disc_are_those_of_the_nearest_point_of_a_square(step_size, radius):
    offset = np.random.default_rng(0).uniform(-1.3, 1.3, (500, 2))
    counts = np.arange(60)
    away = np.maximum(np.abs(offset)[:, None] - counts[:, None] * step_size, 0)
    expected = (np.linalg.norm(away, axis=-1) <= radius).argmax(1)
    np.testing.assert_array_equal(semicircle.steps_to_disc(offset, step_size, radius), expected)


@pytest.mark.parametrize(("step_size", "radius"), [(0.1, 0.2), (0.1, 0.05), (0.07, 0.3), (0.2, 0.5), (2.0, 0.2)])
def test_the_mean_over_all_goals_is_that_of_many(step_size, radius):
    tasks = PointSemicircle(goal_radius=radius, step_size=step_size)
    angle = (np.arange(100_000) + 0.5) * np.pi / 100_000
    many = SemicircleTasks(np.stack([np.cos(angle), np.sin(angle)], -1))
    assert tasks.mean_optimal_return() == pytest.approx(tasks.optimal_return(many).mean(), abs=2e-4)


def test_a_horizon_that_is_too_short_for_some_goals_has_no_mean():
    assert PointSemicircle(horizon=7).mean_optimal_return() is None
    assert PointSemicircle(horizon=7).bayes_optimal_return(1) is None
    assert PointSemicircle(horizon=8).mean_optimal_return() is not None


def test_the_shortest_way_has_no_regret_and_earns_the_optimal_return():
    tasks, batch = PointSemicircle(horizon=20), on_circle(3, 40, 77, 120)
    envs = tasks.make_envs(batch, 1)
    seen, done, total = [envs.reset(seed=0)[0]], [], 0.0
    for _ in range(20):
        done.append(np.clip((batch.goal - envs.state) / tasks.step_size, -1, 1))
        observation, reward, *_ = envs.step(done[-1])
        seen.append(observation)
        total = total + reward
    np.testing.assert_array_equal(total, tasks.optimal_return(batch))
    observed = np.stack(seen[:-1], 1)[:, None]
    assert not tasks.action_regret(batch, observed, np.stack(done, 1)[:, None]).any()


def test_regret_by_hand():
    """From the start a goal at 1° is 8 steps away: a step that does not come nearer costs one paid step."""
    tasks, batch = PointSemicircle(horizon=10), on_circle(1)
    assert tasks.optimal_return(batch)[0] == 3, "(0.8, 0.0175) after 8 steps is near enough"
    zero, right, left = np.zeros((1, 1, 10, 2)), np.zeros((1, 1, 10, 2)), np.zeros((1, 1, 10, 2))
    right[..., 0], left[..., 0] = 1.0, -1.0
    assert tasks.action_regret(batch, zero, right)[0, 0, 0] == 0
    assert tasks.action_regret(batch, zero, zero)[0, 0, 0] == 1
    assert tasks.action_regret(batch, zero, left)[0, 0, 0] == 2
    assert tasks.action_regret(batch, zero, left)[0, 0, 9] == 0, "nothing can be lost in the last step"
    there = np.tile([0.9, 0.0], (1, 1, 10, 1))
    assert tasks.action_regret(batch, there, zero)[0, 0, 3] == 0
    assert tasks.action_regret(batch, there, left)[0, 0, 3] == 1
    assert tasks.action_regret(batch, there, 5 * left)[0, 0, 3] == 1, "actions are clipped"


def test_a_sweep_earns_what_the_environments_pay():
    """The way of the sweep, walked in the environments, and then the straight way to where it was paid first."""
    tasks, rho = PointSemicircle(), 0.87
    angle = (np.arange(2000) + 0.5) * np.pi / 2000
    batch = SemicircleTasks(np.stack([np.cos(angle), np.sin(angle)], -1))
    envs = tasks.make_envs(batch, 1)
    way = semicircle._way(rho, tasks.horizon, tasks.step_size, tasks.goal_radius)
    envs.reset(seed=0)
    found, total = np.zeros(2000, bool), np.zeros(2000)
    for place in way:
        action = np.where(found[:, None], 0.0, (place - envs.state) / tasks.step_size)
        assert np.abs(action).max() <= 1 + 1e-9, "no faster than the point can move"
        _, reward, *_ = envs.step(action)
        found |= reward == 1
        total += reward
    assert found.all()
    assert total.mean() == pytest.approx(semicircle._sweep(rho, 1, 60, 0.1, 0.2), abs=0.02)


def test_the_sweep_is_below_the_policy_that_knows_the_goal_and_above_standing_still():
    ends = [PointSemicircle().bayes_optimal_return(episodes) for episodes in (1, 2, 3)]
    assert ends[0].low == pytest.approx(41.8, abs=0.1) and ends[0].high == pytest.approx(53.61, abs=0.01)
    gains = [later.low - earlier.low for earlier, later in itertools.pairwise(ends)]
    assert all(52.5 < gain <= ends[0].high for gain in gains), "later episodes go straight to the goal"
    assert not ends[0].is_exact


@pytest.mark.parametrize("key", ["horizon", "goal_radius", "step_size"])
def test_impossible_settings_are_refused(key):
    with pytest.raises(ValueError, match=rf"{key}=0: need a value above 0"):
        PointSemicircle(**{key: 0})
    with pytest.raises(ValueError, match="goal_radius=1: need less than 1"):
        PointSemicircle(goal_radius=1)


def test_goals_are_described_by_their_angles():
    assert PointSemicircle().describe(on_circle(0, 90, 135)) == {"angle": ["0°", "90°", "135°"]}
