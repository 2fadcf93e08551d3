"""Bit for bit Gymnasium's CartPole-v1, whatever the cart and the pole are."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from research import rng
from research.tasks.cartpole_params import CartPoleParams, CartPoleTasks

DEFAULT = CartPoleTasks(*(np.array([value]) for value in (0.5, 0.1, 9.8, 1.0, 10.0)))


def edited_cartpole(tasks, row):
    """Gymnasium's own environment with the attributes of a task, those that it derives at construction included."""
    env = gymnasium.make("CartPole-v1", max_episode_steps=10_000).unwrapped
    env.length, env.masspole, env.gravity, env.masscart, env.force_mag = (float(field[row]) for field in tasks)
    env.total_mass = env.masspole + env.masscart
    env.polemass_length = env.masspole * env.length
    return env


def assert_same_as_gymnasium(tasks, actions, seeds):
    """Every row against an environment of its own, until that one ends."""
    envs = CartPoleParams(horizon=10_000).make_envs(tasks, 1)
    theirs = [edited_cartpole(tasks, row) for row in range(envs.num_envs)]
    observation, _ = envs.reset(seed=seeds)
    np.testing.assert_array_equal(
        observation, [env.reset(seed=seed)[0] for env, seed in zip(theirs, seeds, strict=True)]
    )
    ended_at = np.full(envs.num_envs, -1)
    for t, action in enumerate(actions):
        observation, reward, terminated, truncated, _ = envs.step(action)
        for row, env in enumerate(theirs):
            if ended_at[row] >= 0:
                continue
            expected = env.step(int(action[row]))
            np.testing.assert_array_equal(observation[row], expected[0])
            np.testing.assert_array_equal(envs.state[row], env.state)  # before it is rounded to float32
            assert (reward[row], terminated[row], truncated[row]) == expected[1:4]
            if terminated[row]:
                ended_at[row] = t
    return ended_at


def balancing(steps, rows):
    """Left, right, left, right: nearly balances, so episodes last."""
    return [np.full(rows, t % 2) for t in range(steps)]


def test_the_default_task_is_cartpole_v1():
    generator = rng.generator(0, "test")
    for seed in range(5):
        actions = generator.integers(0, 2, (200, 1))
        assert assert_same_as_gymnasium(DEFAULT, actions, [seed])[0] >= 0, "the end was compared too"


@pytest.mark.parametrize("kind", ["random", "balancing"])
def test_other_tasks_are_cartpole_with_its_attributes_edited_the_same_way(kind):
    tasks = CartPoleParams(cart_mass_range=(0.5, 2.0), force_range=(5.0, 15.0)).sample(20, rng.generator(1, "test"))
    actions = rng.generator(2, "test").integers(0, 2, (200, 20)) if kind == "random" else balancing(200, 20)
    ended_at = assert_same_as_gymnasium(tasks, actions, list(range(20)))
    assert (ended_at >= 0).all() and len(set(ended_at)) > 5


def test_rows_do_not_influence_one_another():
    distribution = CartPoleParams()
    tasks = distribution.sample(6, rng.generator(0, "test"))
    order = np.array([4, 2, 0, 5, 3, 1])
    permuted = CartPoleTasks(*(field[order] for field in tasks))
    ours, theirs = distribution.make_envs(tasks, 1), distribution.make_envs(permuted, 1)
    seeds = list(range(6))
    np.testing.assert_array_equal(ours.reset(seed=seeds)[0][order], theirs.reset(seed=[seeds[i] for i in order])[0])
    for action in rng.generator(3, "test").integers(0, 2, (60, 6)):
        for one, other in zip(ours.step(action)[:4], theirs.step(action[order])[:4], strict=True):
            np.testing.assert_array_equal(one[order], other)


def test_a_row_that_has_fallen_stands_still_and_a_mask_resets_it_alone():
    envs = CartPoleParams(horizon=50).make_envs(DEFAULT, 2)
    envs.reset(seed=0)
    fallen = np.zeros(2, bool)
    while not fallen.any():
        observation, _, terminated, _, _ = envs.step(np.array([1, 0] if not fallen[1] else [1, 1]))
        fallen |= terminated
    row = int(fallen.argmax())
    still, reward, terminated, truncated, _ = envs.step(np.array([0, 0]))
    np.testing.assert_array_equal(still[row], observation[row])
    assert reward[row] == 0 and not terminated[row] and not truncated[row]
    other = envs.state[1 - row].copy()
    envs.reset(seed=1, options={"reset_mask": fallen})
    np.testing.assert_array_equal(envs.state[1 - row], other)
    assert (np.abs(envs.state[row]) <= 0.05).all()
    assert envs.step(np.array([0, 0]))[1][row] == 1


def test_an_episode_that_lasts_is_truncated_and_not_terminated():
    envs = CartPoleParams(horizon=8).make_envs(DEFAULT, 1)
    envs.reset(seed=0)
    ends = [envs.step(action)[1:4] for action in balancing(9, 1)]
    assert [bool(truncated[0]) for _, _, truncated in ends] == [False] * 7 + [True, False]
    assert not any(terminated[0] for _, terminated, _ in ends)
    assert [float(reward[0]) for reward, _, _ in ends] == [1.0] * 8 + [0.0]


def test_every_quantity_stays_in_its_range_and_fixed_ones_are_fixed():
    tasks = CartPoleParams(gravity_range=(7.0, 8.0)).sample(500, rng.generator(0, "test"))
    for field, (low, high) in zip(tasks, [(0.25, 1.5), (0.05, 0.5), (7, 8), (1, 1), (10, 10)], strict=True):
        assert (low <= field).all() and (field <= high).all()
        assert np.ptp(field) >= 0.95 * (high - low), "the range is used up to its ends"
    assert abs(np.corrcoef(tasks.half_length, tasks.gravity)[0, 1]) < 0.15, "quantities are drawn independently"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"gravity_range": (15.0, 5.0)},
            r"gravity_range=\(15.0, 5.0\): need the lower end first; write .*\[5.0, 15.0\]",
        ),
        ({"pole_mass_range": (-0.1, 0.5)}, r"pole_mass_range=\(-0.1, 0.5\): need values above 0"),
        ({"pole_mass_range": (0.0, 0.5)}, r"pole_mass_range=\(0.0, 0.5\): need values above 0"),
        ({"force_range": (1.0, float("inf"))}, "force_range=.*need two finite numbers"),
        (
            {"half_length_range": (1.0, 1.0), "pole_mass_range": (1.0, 1.0), "gravity_range": (9.8, 9.8)},
            "every task is the same",
        ),
        ({"horizon": 0}, "horizon=0"),
    ],
)
def test_ranges_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CartPoleParams(**settings)


def test_no_episodes_are_refused():
    with pytest.raises(ValueError, match="episodes=0"):
        CartPoleParams().make_envs(DEFAULT, 0)
