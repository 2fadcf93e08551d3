from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st

from research import rng
from research.tasks.navigation_2d import Navigation2D, NavigationTasks

coordinate = st.floats(-2.0, 2.0)


def envs_for(goals, episodes=1, **settings):
    return Navigation2D(**settings).make_envs(NavigationTasks(np.array(goals)), episodes)


def act(envs, *actions):
    return envs.step(np.array(actions, np.float32))


def test_one_step_by_hand():
    envs = envs_for([[0.3, 0.4]])
    observation, info = envs.reset(seed=0)
    np.testing.assert_array_equal(observation, [[0.0, 0.0]])
    assert info == {}
    observation, reward, terminated, truncated, info = act(envs, [1.0, -0.5])
    np.testing.assert_allclose(observation, [[0.1, -0.05]], rtol=1e-6)
    np.testing.assert_allclose(reward, [-math.hypot(0.2, 0.45)], rtol=1e-6)
    assert not terminated[0] and not truncated[0] and info == {}


@given(coordinate, coordinate, coordinate, coordinate)
def test_actions_beyond_the_bounds_act_as_the_nearest_bound(dx, dy, goal_x, goal_y):
    envs = envs_for([[goal_x, goal_y]])
    envs.reset()
    observation, reward, *_ = act(envs, [dx, dy])
    x, y = 0.1 * min(max(dx, -1.0), 1.0), 0.1 * min(max(dy, -1.0), 1.0)
    np.testing.assert_allclose(observation, [[x, y]], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(reward, [-math.hypot(x - goal_x, y - goal_y)], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("goal", "terminates"),
    [((0.1095, 0.0), True), ((0.1105, 0.0), False), ((0.1, 0.0095), True), ((0.1, 0.0105), False), ((0.1, 0.1), False)],
)
def test_done_when_both_axes_are_within_the_radius(goal, terminates):
    envs = envs_for([goal])
    envs.reset()
    _, reward, terminated, truncated, _ = act(envs, [1.0, 0.0])
    assert terminated[0] == terminates
    assert not truncated[0]
    assert reward[0] == pytest.approx(-math.hypot(goal[0] - 0.1, goal[1])), "the arriving step is rewarded too"


def test_truncated_at_the_horizon_and_terminated_there_if_it_arrives_there():
    envs = envs_for([[0.3, 0.0], [0.5, 0.0]], horizon=3)
    envs.reset()
    for t in range(3):
        *_, terminated, truncated, _ = act(envs, [1.0, 0.0], [1.0, 0.0])
        np.testing.assert_array_equal(terminated, [t == 2, False])
        np.testing.assert_array_equal(truncated, [False, t == 2])


def test_a_done_row_stands_still_without_reward_and_the_others_go_on():
    envs = envs_for([[0.1, 0.0], [-0.5, 0.0]])
    envs.reset()
    first, *_ = act(envs, [1.0, 0.0], [1.0, 0.0])
    observation, reward, terminated, truncated, _ = act(envs, [1.0, 1.0], [1.0, 1.0])
    np.testing.assert_array_equal(observation[0], first[0])
    np.testing.assert_allclose(observation[1], [0.2, 0.1], rtol=1e-6)
    assert reward[0] == 0 and reward[1] < 0
    assert not terminated[0] and not truncated[0], "an episode ends once"


def test_reset_mask_resets_those_rows_alone():
    envs = envs_for([[0.1, 0.0], [0.5, 0.5]], horizon=2)
    envs.reset()
    act(envs, [1.0, 0.0], [1.0, 0.0])
    observation, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    np.testing.assert_allclose(observation, [[0.0, 0.0], [0.1, 0.0]], rtol=1e-6)
    observation, reward, _, truncated, _ = act(envs, [0.0, 1.0], [0.0, 1.0])
    np.testing.assert_allclose(observation, [[0.0, 0.1], [0.1, 0.1]], rtol=1e-6)
    assert reward[0] != 0, "the reset row acts again"
    np.testing.assert_array_equal(truncated, [False, True])


def test_a_full_reset_starts_everything_anew():
    envs = envs_for([[0.1, 0.0]], horizon=1)
    envs.reset()
    first = act(envs, [1.0, 0.0])
    envs.reset()
    again = act(envs, [1.0, 0.0])
    for ours, theirs in zip(first[:4], again[:4], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_rows_hold_the_episodes_of_a_task_next_to_each_other():
    envs = envs_for([[1.0, 0.0], [0.0, 2.0]], episodes=3)
    assert envs.num_envs == 6
    envs.reset()
    _, reward, *_ = envs.step(np.zeros((6, 2)))
    np.testing.assert_allclose(reward, [-1, -1, -1, -2, -2, -2])


def test_what_was_returned_is_not_changed_by_later_steps():
    envs = envs_for([[0.5, 0.5]])
    start, _ = envs.reset()
    first, reward, terminated, truncated, _ = act(envs, [1.0, 0.0])
    copies = [array.copy() for array in (start, first, reward, terminated, truncated)]
    for _ in range(100):
        act(envs, [1.0, 1.0])
    for array, copy in zip((start, first, reward, terminated, truncated), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_tasks_are_not_aliased():
    goal = np.array([[0.5, 0.5]])
    envs = envs_for(goal)
    goal[:] = 0.0
    envs.reset()
    assert act(envs, [0.0, 0.0])[1][0] != 0


def test_it_is_a_gymnasium_vector_environment():
    envs = envs_for([[0.5, 0.5], [0.1, 0.2]], episodes=2)
    assert isinstance(envs, gymnasium.vector.VectorEnv)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert envs.single_observation_space.shape == envs.single_action_space.shape == (2,)
    assert envs.observation_space.shape == envs.action_space.shape == (4, 2)
    observation, _ = envs.reset(seed=3)
    assert observation in envs.observation_space
    envs.action_space.seed(0)
    observation, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
    assert observation in envs.observation_space
    assert reward.shape == terminated.shape == truncated.shape == (4,)
    assert terminated.dtype == truncated.dtype == np.bool_
    envs.close()


def test_goals_fill_the_square_evenly():
    goal = Navigation2D(goal_range=2.0).sample(20_000, rng.generator(0, "test")).goal
    assert np.abs(goal).max() <= 2.0
    np.testing.assert_allclose(goal.mean(0), 0.0, atol=0.03)
    np.testing.assert_allclose(goal.std(0), 4.0 / math.sqrt(12), rtol=0.02)
    assert abs(np.corrcoef(goal.T)[0, 1]) < 0.03


def test_no_training_goal_is_a_test_goal():
    tasks = Navigation2D()
    test = {tuple(goal) for goal in tasks.test_tasks(200).goal}
    assert len(test) == 200
    for seed in range(20):
        for iteration in range(20):
            goals = tasks.sample(40, rng.generator(seed, "tasks", iteration)).goal
            assert not test & {tuple(goal) for goal in goals}


def test_test_goals_stay_the_same():
    # Published figures rest on these: a change of the test set must be a decision.
    expected = [[-0.02502836, -0.38640645], [-0.32658753, -0.07065583], [0.39716736, 0.12788888]]
    np.testing.assert_allclose(Navigation2D().test_tasks(3).goal, expected, atol=1e-8)


@pytest.mark.parametrize("key", ["horizon", "goal_range", "step_size", "done_radius"])
@pytest.mark.parametrize("value", [0, -1])
def test_impossible_settings_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"{key}={value}: need a value above 0"):
        Navigation2D(**{key: value})


def test_no_episodes_are_refused():
    with pytest.raises(ValueError, match="episodes=0: need a value above 0"):
        envs_for([[0.0, 0.0]], episodes=0)


def test_the_goals_of_the_authors_of_maml():
    """40 goals of NumPy's old generator with seed 1, at a mean distance of 0.401."""
    tasks = Navigation2D(test_goals="maml").test_tasks(40)
    np.testing.assert_allclose(tasks.goal[:2], [[-0.082978, 0.220324], [-0.499886, -0.197667]], atol=1e-6)
    assert np.linalg.norm(tasks.goal, axis=1).mean() == pytest.approx(0.4008, abs=1e-4)
    np.testing.assert_array_equal(Navigation2D(test_goals="maml").test_tasks(3).goal, tasks.goal[:3])
    with pytest.raises(ValueError, match="num_eval_tasks=41: need at most 40"):
        Navigation2D(test_goals="maml").test_tasks(41)
    with pytest.raises(ValueError, match=r"goal_range=1\.0: test_goals='maml' needs 0\.5"):
        Navigation2D(test_goals="maml", goal_range=1.0)
    with pytest.raises(ValueError, match="test_goals='mine': need one of 'drawn', 'maml'"):
        Navigation2D(test_goals="mine")
