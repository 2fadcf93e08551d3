"""Grids with a hidden goal: definitions of the papers, moves, splits, observations, regret and beliefs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from research import rng
from research.tasks.hidden_goal import DarkRoom, GridNavi, HiddenGoalTasks

STAY, UP, RIGHT, DOWN, LEFT = range(5)


def at(tasks, *cells):
    """Tasks with goals in these cells (x, y), counted from 0."""
    return HiddenGoalTasks(np.array(cells) - tasks.middle)


def walk(tasks, goal, actions):
    """(cell, reward) after each action."""
    envs = tasks.make_envs(at(tasks, goal), 1)
    envs.reset(seed=0)
    seen = []
    for action in actions:
        _, reward, terminated, _, _ = envs.step(np.array([action]))
        assert not terminated[0]
        seen.append((tuple((envs.positions()[0] + tasks.middle).astype(int).tolist()), reward[0]))
    return seen


def test_gridnavi_is_that_of_varibad():
    """5×5, start (0, 0), 21 goals, 15 steps, +1 at the goal and −0.1 elsewhere, also when staying there."""
    tasks = GridNavi()
    assert tasks.horizon == 15 and tasks.action_space.n == 5
    goals = {tuple(goal) for goal in (tasks.test_tasks(21).goal + tasks.middle).astype(int).tolist()}
    assert goals == {(x, y) for x in range(5) for y in range(5)} - {(0, 0), (0, 1), (1, 0), (1, 1)}
    actions = (LEFT, DOWN, UP, UP, RIGHT, STAY, RIGHT, DOWN, STAY, LEFT, UP)
    assert walk(tasks, (2, 1), actions) == [
        ((0, 0), -0.1), ((0, 0), -0.1), ((0, 1), -0.1), ((0, 2), -0.1), ((1, 2), -0.1), ((1, 2), -0.1),
        ((2, 2), -0.1), ((2, 1), 1.0), ((2, 1), 1.0), ((1, 1), -0.1), ((1, 2), -0.1),
    ]  # fmt: skip


def test_the_dark_room_is_that_of_algorithm_distillation():
    """9×9, start in the middle, 20 steps, 1 at the goal and 0 elsewhere."""
    tasks = DarkRoom()
    assert tasks.horizon == 20 and len(tasks.goal_cells) == 81
    actions = (UP, UP, UP, UP, UP, RIGHT, LEFT)
    assert walk(tasks, (4, 8), actions) == [
        ((4, 5), 0.0), ((4, 6), 0.0), ((4, 7), 0.0), ((4, 8), 1.0), ((4, 8), 1.0), ((5, 8), 0.0), ((4, 8), 1.0)
    ]  # fmt: skip
    assert walk(tasks, (4, 4), (STAY, LEFT, STAY))[0] == ((4, 4), 1.0), "the goal may be where episodes start"


@pytest.mark.parametrize("kind", [GridNavi, DarkRoom])
def test_both_observations_show_the_cell(kind):
    one_hot, plain = kind(), kind(observation="coordinates")
    batch = one_hot.test_tasks(30)
    pair = [tasks.make_envs(batch, 1) for tasks in (one_hot, plain)]
    seen = [envs.reset(seed=0)[0] for envs in pair]
    for action in np.random.default_rng(0).integers(5, size=(12, 30)):
        coordinates = np.stack(np.divmod(seen[0].argmax(1), one_hot.size), 1)
        np.testing.assert_array_equal(seen[1], coordinates)
        assert (seen[0].sum(1) == 1).all() and (seen[1] in pair[1].observation_space)
        seen = [envs.step(action)[0] for envs in pair]


def test_a_batch_has_each_goal_equally_often_in_an_order_that_is_drawn():
    tasks = GridNavi()
    batch = tasks.sample(50, rng.generator(0, "test"))
    counts = Counter(tasks.cells(batch).tolist())
    assert len(counts) == 21 and set(counts.values()) == {2, 3}
    firsts = np.array([tasks.cells(tasks.sample(2, rng.generator(i, "test"))) for i in range(1050)])
    assert (firsts[:, 0] != firsts[:, 1]).all()
    share = np.bincount(firsts.ravel(), minlength=25)[tasks.goal_cells] / firsts.size
    np.testing.assert_allclose(share, 1 / 21, atol=4 * np.sqrt(1 / 21 / firsts.size))


def test_goals_that_are_held_out_are_never_drawn():
    tasks = DarkRoom(test_fraction=0.25)
    test, training = tasks.test_tasks(20), tasks.sample(61, rng.generator(0, "test"))
    assert not set(tasks.cells(test)) & set(tasks.cells(training)) and len(set(tasks.cells(training))) == 61
    assert set(tasks.cells(tasks.validation_tasks(80))) == set(tasks.cells(training))
    assert tasks.split.disjoint and not DarkRoom().split.disjoint and not GridNavi().split.disjoint
    with pytest.raises(ValueError, match="num_eval_tasks=21: need at most 20"):
        tasks.test_tasks(21)
    assert tasks.mean_optimal_return() is None and tasks.bayes_optimal_return(1) is None, "other goals are evaluated"


@pytest.mark.parametrize("tasks", [GridNavi(horizon=6), GridNavi(observation="coordinates"), DarkRoom(size=5)])
def test_regret_is_what_an_action_loses_by_backward_induction(tasks):
    batch = tasks.sample(5, rng.generator(0, "test"))
    moves, cells = tasks.next_cell(), tasks.size**2
    observed = np.eye(cells) if tasks.observation == "one_hot" else np.stack(np.divmod(np.arange(cells), tasks.size), 1)
    for task, goal in enumerate(tasks.cells(batch)):
        value = np.zeros(cells)
        for time in reversed(range(tasks.horizon)):
            q = (np.where(moves == goal, 1.0, tasks.elsewhere) + value[moves]).T  # [actions, cells]
            observation = np.zeros((1, 5, cells, tasks.horizon, observed.shape[1]))
            action = np.zeros((1, 5, cells, tasks.horizon), int)
            observation[0, :, :, time], action[0, :, :, time] = observed, np.arange(5)[:, None]
            one = HiddenGoalTasks(batch.goal[task : task + 1])
            found = tasks.action_regret(one, observation, action)[0, :, :, time]
            np.testing.assert_allclose(found, q.max(0) - q, atol=1e-12)
            value = q.max(0)
        assert tasks.optimal_return(one)[0] == pytest.approx(value[tasks.start], abs=1e-12)


def test_the_belief_is_uniform_over_the_goals_that_rewards_allow():
    tasks = GridNavi()
    goal = at(tasks, (2, 0)).goal[0]
    position = np.array([[1, 0], [1, 1], [1, 2], [2, 2], [2, 1], [2, 0], [2, 0], [3, 0]]) - tasks.middle
    belief = tasks.posterior(position, np.where((position == goal).all(1), 1.0, -0.1))
    assert belief.shape == (8, 21)
    np.testing.assert_array_equal((belief > 0).sum(1), [21, 21, 20, 19, 18, 1, 1, 1])
    np.testing.assert_allclose(belief.sum(1), 1)
    assert tuple(tasks.goals()[belief[-1].argmax()]) == tuple(goal)
    assert (belief[4][belief[4] > 0] == 1 / 18).all()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (GridNavi, dict(size=2), "size=2: need at least 3"),
        (GridNavi, dict(observation="pixels"), "observation='pixels': need one of 'one_hot', 'coordinates'"),
        (DarkRoom, dict(size=8), "size=8: need an odd number"),
        (DarkRoom, dict(test_fraction=1.0), "test_fraction=1.0: need 0, or at least 1 of 81 goals"),
        (DarkRoom, dict(test_fraction=0.001), "test_fraction=0.001: need 0, or at least 1 of 81"),
        (DarkRoom, dict(horizon=0), "horizon=0: need a value above 0"),
    ],
)
def test_impossible_settings_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_goals_are_described_by_their_cells():
    assert GridNavi().describe(at(GridNavi(), (0, 2), (4, 3))) == {"goal": ["(0, 2)", "(4, 3)"]}
