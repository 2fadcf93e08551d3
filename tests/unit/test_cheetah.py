from __future__ import annotations

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from research import rng
from research.tasks import make_tasks
from research.tasks.cheetah import CheetahDirTasks
from research.tasks.locomotion import VelocityTasks

STEPS = 200


def gymnasiums(count):
    return SyncVectorEnv([lambda: gymnasium.make("HalfCheetah-v5")] * count, autoreset_mode=AutoresetMode.NEXT_STEP)


def actions(count, steps=STEPS, dtype=np.float32, scale=1.5):
    return np.random.default_rng(0).uniform(-scale, scale, (steps, count, 6)).astype(dtype)  # beyond the bounds too


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_gymnasiums_half_cheetah_to_the_last_bit(dtype):
    """Forward with Gymnasium's control cost is Gymnasium's own reward."""
    envs = make_tasks("cheetah_dir", horizon=STEPS + 1, control_cost=0.1).make_envs(CheetahDirTasks(np.ones(2)), 2)
    theirs = gymnasiums(4)
    np.testing.assert_array_equal(envs.reset(seed=5)[0], theirs.reset(seed=5)[0])
    replay = [gymnasium.make("HalfCheetah-v5") for _ in range(4)]  # a SyncVectorEnv casts actions to its space
    for i, env in enumerate(replay):
        env.reset(seed=5 + i)
    for action in actions(4, dtype=dtype):
        ours = envs.step(action)
        single = [env.step(a) for env, a in zip(replay, action, strict=True)]
        for part, expected in zip(ours[:4], zip(*(step[:4] for step in single), strict=True), strict=True):
            np.testing.assert_array_equal(part, np.array(expected))
        assert ours[0].dtype == single[0][0].dtype == np.float64
    assert not ours[2].any() and not ours[3].any()


def test_rewards_are_those_of_the_tasks():
    targets = np.array([0.3, 1.7])
    directions = make_tasks("cheetah_dir").make_envs(CheetahDirTasks(np.array([1.0, -1.0])), 2)
    velocities = make_tasks("cheetah_vel").make_envs(VelocityTasks(targets), 2)
    seeds = [1, 2, 1, 2]
    directions.reset(seed=seeds), velocities.reset(seed=seeds)
    peers = [gymnasium.make("HalfCheetah-v5") for _ in range(2)]
    for env, seed in zip(peers, seeds[:2], strict=True):
        env.reset(seed=seed)
    for action in actions(2, steps=20):
        infos = [env.step(a)[4] for env, a in zip(peers, action, strict=True)]
        v = np.array([info["x_velocity"] for info in infos])
        cost = np.array([0.05 * float((a.astype(float) ** 2).sum()) for a in action])
        both = np.concatenate([action, action])
        np.testing.assert_allclose(directions.step(both)[1], [*(v - cost), *(-v - cost)], rtol=1e-6, atol=1e-6)
        expected = [*(-abs(v - targets[0]) - cost), *(-abs(v - targets[1]) - cost)]
        np.testing.assert_allclose(velocities.step(both)[1], expected, rtol=1e-6, atol=1e-6)


def test_clipped_actions_cost_less_and_move_alike():
    tasks = VelocityTasks(np.array([1.0]))
    raw, clipped = (make_tasks("cheetah_vel", clip_actions=clip).make_envs(tasks, 1) for clip in (False, True))
    raw.reset(seed=0), clipped.reset(seed=0)
    action = np.array([[2.0, -3.0, 0.5, 0.0, 1.0, -1.0]])
    (a, first, *_), (b, second, *_) = raw.step(action), clipped.step(action)
    np.testing.assert_array_equal(a, b)
    assert second[0] - first[0] == pytest.approx(0.05 * (4 - 1 + 9 - 1))


def test_the_torso_observation_adds_where_gymnasium_sees_the_torso():
    tasks = make_tasks("cheetah_vel", observation="torso")
    assert tasks.observation_space.shape == (20,)
    envs = tasks.make_envs(VelocityTasks(np.array([1.0])), 1)
    peer = gymnasium.make("HalfCheetah-v5")
    observation, expected = envs.reset(seed=0)[0], peer.reset(seed=0)[0]
    for action in actions(1, steps=30):
        np.testing.assert_array_equal(observation[0], [*expected, *peer.unwrapped.get_body_com("torso")])
        observation, expected = envs.step(action)[0], peer.step(action[0])[0]
    assert abs(observation[0, 17]) > 0.01, "it has moved"


def test_the_centre_of_mass_observation_is_that_of_the_whole_body():
    envs = make_tasks("cheetah_dir", observation="com").make_envs(CheetahDirTasks(np.ones(1)), 1)
    envs.reset(seed=0)
    data, model = mujoco.MjData(envs.robot.model), envs.robot.model
    start = envs._simulations.data(0)
    data.qpos[:], data.qvel[:] = start.qpos, start.qvel
    mujoco.mj_forward(model, data)
    for action in actions(1, steps=30):
        observation = envs.step(action)[0]
        data.ctrl[:] = action[0]
        mujoco.mj_step(model, data, 5)
    assert observation.shape == (1, 20)
    expected = model.body_mass @ data.xipos / model.body_mass.sum()
    np.testing.assert_allclose(observation[0, 17:], expected, rtol=1e-12)
    assert abs(observation[0, 17] - data.xpos[1, 0]) > 1e-3, "not the torso's position"


def test_velocities_come_from_the_range():
    tasks = make_tasks("cheetah_vel", velocity_low=1.0, velocity_high=3.0)
    drawn = tasks.sample(1000, rng.generator(0, "test")).velocity
    assert 1.0 <= drawn.min() < 1.02 and 2.98 < drawn.max() <= 3.0
    assert abs(drawn.mean() - 2.0) < 0.06
    default = make_tasks("cheetah_vel").sample(1000, rng.generator(0, "test")).velocity
    assert 0.0 <= default.min() < 0.02 and 1.98 < default.max() <= 2.0


def test_both_directions_are_drawn_and_evaluated_and_it_says_so():
    tasks = make_tasks("cheetah_dir")
    drawn = tasks.sample(1000, rng.generator(0, "test")).direction
    assert set(drawn) == {-1.0, 1.0} and abs(drawn.mean()) < 0.1
    assert tasks.test_tasks(5).direction.tolist() == [1, -1, 1, -1, 1]
    assert not tasks.split.disjoint and "only two directions" in tasks.split.how
    assert make_tasks("cheetah_vel").split.disjoint


def test_start_noise_is_a_setting():
    envs = make_tasks("cheetah_vel", start_noise=0.0).make_envs(VelocityTasks(np.array([1.0])), 3)
    assert not envs.reset(seed=0)[0].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(velocity_low=2.0, velocity_high=1.0), r"velocity_low=2.0: need less than velocity_high=1.0; exchange"),
        (dict(observation="full"), "observation='full': need one of gymnasium, torso, com"),
        (dict(control_cost=-1.0), "control_cost=-1.0: need at least 0"),
        (dict(start_noise=-0.1), "start_noise=-0.1: need at least 0"),
        (dict(clip_actions=2), "clip_actions=2: need True or False"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_tasks("cheetah_vel", **settings)


def test_no_episodes_are_refused():
    with pytest.raises(ValueError, match="episodes=0: need a value above 0"):
        make_tasks("cheetah_vel").make_envs(VelocityTasks(np.array([1.0])), 0)
