"""Bit for bit Gymnasium's robots, and rewards that are what the tasks say."""

from __future__ import annotations

import dataclasses
import math

import gymnasium
import numpy as np
import pytest

from research import rng
from research.tasks import make_tasks
from research.tasks.ant import AntGoalTasks
from research.tasks.body_params import BodyTasks
from research.tasks.locomotion import DirectionTasks, VelocityTasks
from research.tasks.reacher import ReacherTasks

FORWARD = DirectionTasks(np.array([[1.0, 0.0]]))
NEAR = ReacherTasks(np.array([[0.1, -0.05]]))
FAMILIES = ("ant_dir", "ant_vel", "ant_goal", "walker_params", "hopper_params", "humanoid_dir", "reacher_goal")
PROMP = dict(reward="promp", horizon=10_000, terminate=False)
ENDLESS = dict(horizon=10_000, terminate=False)
PLAIN_BODY = BodyTasks(*(np.ones((1, *(1,) * dims)) for dims in (1, 2, 2, 1)))  # factors of 1 for whatever there is


def same_as_gymnasium(name, settings, tasks, env_id, kwargs=None, steps=200, dtype=np.float64, scale=1.2, rows=2):
    """Steps both side by side from the same seeds, asserts equal bits, and returns Gymnasium's `terminated`."""
    envs = make_tasks(name, **settings).make_envs(tasks, rows)
    unhealthy = {} if name == "reacher_goal" else {"terminate_when_unhealthy": False}
    theirs = [gymnasium.make(env_id, **unhealthy, **(kwargs or {})).unwrapped for _ in range(rows)]
    expected = np.array([env.reset(seed=3 + row)[0] for row, env in enumerate(theirs)])
    observation = envs.reset(seed=3)[0]
    if name == "reacher_goal":
        for row, env in enumerate(theirs):
            env.set_state(envs._state["qpos"][row], envs._state["qvel"][row])
        expected = np.array([env._get_obs() for env in theirs])
    np.testing.assert_array_equal(observation, expected)
    generator, high = np.random.default_rng(0), envs.single_action_space.high
    healthy = np.ones((steps, rows), bool)
    for t in range(steps):
        action = (generator.uniform(-scale, scale, (rows, len(high))) * high).astype(dtype)
        observation, reward, terminated, truncated, _ = envs.step(action)
        peers = [env.step(own) for env, own in zip(theirs, action, strict=True)]
        np.testing.assert_array_equal(observation, [peer[0] for peer in peers])
        np.testing.assert_array_equal(reward, [peer[1] for peer in peers])
        assert not terminated.any() and not truncated.any()
        np.testing.assert_array_equal(envs._state["qpos"], [env.data.qpos for env in theirs])
        np.testing.assert_array_equal(envs._state["qvel"], [env.data.qvel for env in theirs])
        if name != "reacher_goal":
            healthy[t] = [env.is_healthy for env in theirs]
            np.testing.assert_array_equal(envs.healthy(envs._state), healthy[t])
    return healthy


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "settings", "tasks", "env_id"),
    [
        ("ant_dir", PROMP, FORWARD, "Ant-v5"),
        ("walker_params", ENDLESS, PLAIN_BODY, "Walker2d-v5"),
        ("hopper_params", ENDLESS, PLAIN_BODY, "Hopper-v5"),
        ("humanoid_dir", ENDLESS, FORWARD, "Humanoid-v5"),
        ("reacher_goal", dict(horizon=1000, observation="gymnasium"), NEAR, "Reacher-v5"),
    ],
)  # fmt: skip
def test_running_forward_is_gymnasiums_robot_to_the_last_bit(name, settings, tasks, env_id, dtype):
    healthy = same_as_gymnasium(name, settings, tasks, env_id, dtype=dtype, scale=2.5 if name == "ant_dir" else 1.2)
    if name not in ("ant_dir", "reacher_goal"):
        assert healthy.any() and not healthy.all(), "both kinds of steps were compared"


@pytest.mark.parametrize("observe_position", [False, True])
@pytest.mark.parametrize("observe_forces", [False, True])
def test_ants_observe_the_parts_that_gymnasium_names(observe_position, observe_forces):
    settings = PROMP | dict(observe_position=observe_position, observe_forces=observe_forces)
    kwargs = dict(
        exclude_current_positions_from_observation=not observe_position, include_cfrc_ext_in_observation=observe_forces
    )
    same_as_gymnasium("ant_dir", settings, FORWARD, "Ant-v5", kwargs, steps=20)


def test_humanoids_may_observe_positions_only():
    kwargs = {f"include_{part}_in_observation": False for part in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")}
    settings = ENDLESS | dict(observation="positions")
    same_as_gymnasium("humanoid_dir", settings, FORWARD, "Humanoid-v5", kwargs, steps=20)


# What Gymnasium's info calls the parts of its reward gives each task's reward by hand.
ANT_TASKS = [
    ("ant_dir", {}, DirectionTasks(np.array([[-1.0, 0.0]])), lambda x, v: -v[0], 0.05, 0.005),
    ("ant_dir", dict(directions="plane", reward="promp"), DirectionTasks(np.array([[0.6, 0.8]])),
     lambda x, v: 0.6 * v[0] + 0.8 * v[1], 1.0, 0.5),
    ("ant_vel", {}, VelocityTasks(np.array([1.5])), lambda x, v: 1 - abs(v[0] - 1.5), 0.05, 0.005),
    ("ant_vel", dict(reward="promp"), VelocityTasks(np.array([0.2])), lambda x, v: 1 - abs(v[0] - 0.2), 1.0, 0.5),
    ("ant_goal", {}, AntGoalTasks(np.array([[1.0, -2.0]])),
     lambda x, v: 4 - abs(x[0] - 1) - abs(x[1] + 2), 0.05, 0.005),
    ("ant_goal", dict(reward="promp", goals="disc"), AntGoalTasks(np.array([[-1.0, 2.0]])),
     lambda x, v: -abs(x[0] + 1) - abs(x[1] - 2), 0.0, 0.1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "tasks", "progress", "survive", "control"), ANT_TASKS)
def test_ants_are_rewarded_as_the_task_says(name, settings, tasks, progress, survive, control):
    envs = make_tasks(name, **settings).make_envs(tasks, 1)
    peer = gymnasium.make("Ant-v5").unwrapped
    envs.reset(seed=4), peer.reset(seed=4)
    contact = 0.0
    for action in np.random.default_rng(1).uniform(-1, 1, (40, 8)):
        _, reward, terminated, _, _ = envs.step(action[None])
        _, _, ended, _, info = peer.step(action)
        assert terminated[0] == ended
        position, velocity = peer.get_body_com("torso")[:2], (info["x_velocity"], info["y_velocity"])
        bonus = 0.0 if ended else survive
        expected = progress(position, velocity) + bonus - control * (action**2).sum() + info["reward_contact"]
        assert reward[0] == pytest.approx(expected, abs=1e-12)
        contact -= info["reward_contact"]
        if ended:
            break
    assert contact > 0, "forces were felt"


def test_humanoids_are_rewarded_for_running_their_way():
    envs = make_tasks("humanoid_dir").make_envs(DirectionTasks(np.array([[0.0, -1.0]])), 1)
    peer = gymnasium.make("Humanoid-v5").unwrapped
    envs.reset(seed=0), peer.reset(seed=0)
    for action in np.random.default_rng(1).uniform(-0.4, 0.4, (15, 17)):
        reward = envs.step(action[None])[1]
        info = peer.step(action)[4]
        expected = -1.25 * info["y_velocity"] + info["reward_survive"] + info["reward_ctrl"] + info["reward_contact"]
        assert reward[0] == pytest.approx(expected, abs=1e-12)


def test_a_humanoid_that_is_hit_pays_ten_at_most():
    envs = make_tasks("humanoid_dir").make_envs(FORWARD, 2)
    envs.reset(seed=0)
    forces = np.zeros((2, 14, 6))
    forces[:, 3, 5] = 1000.0, 1e6
    costs = envs.costs({"cfrc_ext": forces}, np.zeros((2, 17)))
    np.testing.assert_allclose(costs, [0.5, 10.0])


def test_reachers_hide_the_goal_and_are_rewarded_for_nearing_it():
    goal = np.array([[-0.12, 0.08]])
    settings = dict(control_cost=0.25)
    envs = make_tasks("reacher_goal", **settings).make_envs(ReacherTasks(goal), 1)
    elsewhere = make_tasks("reacher_goal", **settings).make_envs(ReacherTasks(-goal), 1)
    first, other = envs.reset(seed=0)[0], elsewhere.reset(seed=0)[0]
    assert first.shape == (1, 8)
    for action in np.random.default_rng(1).uniform(-1, 1, (30, 1, 2)):
        np.testing.assert_array_equal(first, other)
        first, reward, terminated, _, _ = envs.step(action)
        other, other_reward, _, _, _ = elsewhere.step(action)
        distance = [math.dist(first[0, 6:], way * goal[0]) for way in (1, -1)]
        cost = 0.25 * (action**2).sum()
        assert reward[0] == pytest.approx(-distance[0] - cost, abs=1e-6)
        assert other_reward[0] == pytest.approx(-distance[1] - cost, abs=1e-6)
        assert not terminated.any()
    # Two links of 0.1, and a fingertip 0.01 beyond the second.
    angles = envs._state["qpos"][0, :2]
    tip = 0.1 * np.array([np.cos(angles[0]), np.sin(angles[0])])
    tip += 0.11 * np.array([np.cos(angles.sum()), np.sin(angles.sum())])
    assert np.abs(first[0, 6:] - tip).max() < 0.02, "the tip is one physics step behind the angles"


HEALTH = {  # where qpos says the height, and which heights are healthy
    "ant_vel": (2, [(0.19, False), (0.2, True), (1.0, True), (1.01, False)]),
    "walker_params": (1, [(0.8, False), (0.81, True), (1.99, True), (2.0, False)]),
    "hopper_params": (1, [(0.7, False), (0.71, True), (50.0, True)]),
    "humanoid_dir": (2, [(1.0, False), (1.01, True), (1.99, True), (2.0, False)]),
}


def states(envs):
    """A state of all zeros for each row."""
    model = envs.robot.model
    return {"qpos": np.zeros((envs.num_envs, model.nq)), "qvel": np.zeros((envs.num_envs, model.nv))}


@pytest.mark.parametrize("name", HEALTH)
def test_an_episode_ends_when_the_torso_is_too_low_or_too_high(name):
    index, heights = HEALTH[name]
    rows = np.arange(len(heights))
    distribution = make_tasks(name)
    envs = distribution.make_envs(distribution.test_tasks(1), len(heights))
    state = states(envs)
    state["qpos"][:, index] = [height for height, _ in heights]
    healthy = np.array([well for _, well in heights])
    np.testing.assert_array_equal(envs.healthy(state), healthy)
    np.testing.assert_array_equal(envs.has_ended(rows, state), ~healthy)
    lasting = dataclasses.replace(distribution, terminate=False).make_envs(distribution.test_tasks(1), len(heights))
    assert not lasting.has_ended(rows, state).any()


@pytest.mark.parametrize(("name", "limit"), [("walker_params", 1.0), ("hopper_params", 0.2)])
def test_an_episode_ends_when_the_robot_leans_too_far(name, limit):
    distribution = make_tasks(name)
    envs = distribution.make_envs(distribution.test_tasks(1), 5)
    state = states(envs)
    state["qpos"][:, 1] = 1.2
    state["qpos"][:, 2] = np.array([-1.01, -0.99, 0.0, 0.99, 1.01]) * limit
    np.testing.assert_array_equal(envs.healthy(state), [False, True, True, True, False])
    state["qpos"][:, 2] = 0.0
    state["qvel"][0, 3], state["qpos"][1, 5] = 101.0, -101.0
    runaway = np.array([False, False, True, True, True]) if name == "hopper_params" else np.ones(5, bool)
    np.testing.assert_array_equal(envs.healthy(state), runaway)


@pytest.mark.thorough
@pytest.mark.parametrize("name", FAMILIES)
def test_permuting_rows_permutes_results_and_threads_change_nothing(name):
    distribution = make_tasks(name, horizon=25)
    tasks = distribution.sample(5, rng.generator(0, "test"))
    order = np.array([3, 0, 4, 1, 2])
    permuted = type(tasks)(*(field[order] for field in tasks))
    one, other, threaded = (distribution.make_envs(batch, 1) for batch in (tasks, permuted, tasks))
    one.num_threads, other.num_threads, threaded.num_threads = 1, 1, 4
    seeds = list(range(5))
    shown = one.reset(seed=seeds)[0]
    np.testing.assert_array_equal(shown[order], other.reset(seed=[seeds[i] for i in order])[0])
    np.testing.assert_array_equal(shown, threaded.reset(seed=seeds)[0])
    one.action_space.seed(0)
    for _ in range(25):
        action = one.action_space.sample()
        parts, permuted_parts, threaded_parts = one.step(action), other.step(action[order]), threaded.step(action)
        for part, moved, same in zip(parts[:4], permuted_parts[:4], threaded_parts[:4], strict=True):
            np.testing.assert_array_equal(part[order], moved)
            np.testing.assert_array_equal(part, same)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_episodes_of_a_task_lie_next_to_each_other(name):
    distribution = make_tasks(name)
    envs = distribution.make_envs(distribution.test_tasks(2), 3)
    envs.reset(seed=[0] * 6)
    action = np.repeat(envs.single_action_space.low[None] / 2, 6, axis=0)
    for _ in range(3):  # a body must touch the ground before it matters what it weighs
        *parts, _ = envs.step(action)
    for part in parts:
        np.testing.assert_array_equal(part, part[[0, 0, 0, 3, 3, 3]])
    assert parts[1][0] != parts[1][3]


def test_tasks_are_drawn_from_the_whole_range():
    draw = lambda name, **settings: make_tasks(name, **settings).sample(2000, rng.generator(0, "test"))[0]  # noqa: E731
    velocity = draw("ant_vel")
    assert velocity.min() >= 0 and velocity.max() <= 3 and abs(velocity.mean() - 1.5) < 0.06
    square, disc = draw("ant_goal"), draw("ant_goal", goals="disc", goal_low=-1.0, goal_high=3.0)
    assert np.abs(square).max() <= 3 and (np.abs(square).max(0) > 2.95).all()
    assert (np.linalg.norm(square, axis=1) > 3).mean() == pytest.approx(1 - math.pi / 4, abs=0.03)
    radius = np.linalg.norm(disc - 1.0, axis=1)
    assert radius.max() <= 2 and (radius < 2 / math.sqrt(2)).mean() == pytest.approx(0.5, abs=0.04)
    reach = np.linalg.norm(draw("reacher_goal"), axis=1)
    assert reach.max() <= 0.2 and (reach < 0.2 / math.sqrt(2)).mean() == pytest.approx(0.5, abs=0.04)
    for name, kind in [("ant_dir", "line"), ("humanoid_dir", "plane")]:
        direction = draw(name)
        np.testing.assert_allclose(np.linalg.norm(direction, axis=1), 1.0)
        assert np.abs(direction.mean(0)).max() < 0.05
        assert len(np.unique(direction, axis=0)) == (2 if kind == "line" else 2000)
        assert make_tasks(name).split.disjoint == (kind == "plane")
    assert make_tasks("ant_dir", directions="plane").split.disjoint


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ant_goal", dict(goal_low=3.0, goal_high=-3.0), r"goal_low=3.0: need less than goal_high=-3.0; exchange them"),
        ("ant_goal", dict(goal_low=1.0, goal_high=1.0), r"goal_low=1.0: need less than goal_high=1.0; a single value"),
        ("ant_goal", dict(goal_high=math.inf), r"goal_high=inf: need a finite number"),
        ("ant_goal", dict(goals="line"), r"goals='line': need one of square, disc"),
        ("ant_vel", dict(velocity_low=4.0), r"velocity_low=4.0: need less than velocity_high=3.0; exchange them"),
        ("ant_vel", dict(reward="rllab"), r"reward='rllab': need one of maml_rl, promp"),
        ("ant_dir", dict(directions="up"), r"directions='up': need one of line, plane"),
        ("ant_dir", dict(start_noise=-0.1), r"start_noise=-0.1: need at least 0"),
        ("humanoid_dir", dict(observation="torso"), r"observation='torso': need one of gymnasium, positions"),
        ("reacher_goal", dict(goal_radius=0.0), r"goal_radius=0.0: need a value above 0"),
        ("reacher_goal", dict(goal_radius=0.5), r"goal_radius=0.5: need at most 0.27"),
        ("reacher_goal", dict(control_cost=-1.0), r"control_cost=-1.0: need at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make_tasks(name, **settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_zero_episodes_are_refused(name):
    distribution = make_tasks(name)
    with pytest.raises(ValueError, match="episodes=0: need a value above 0"):
        distribution.make_envs(distribution.test_tasks(2), 0)
