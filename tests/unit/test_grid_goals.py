"""The grid with hidden goals: moves, ends, the split, and exact values."""

from __future__ import annotations

import numpy as np
import pytest

from research import rng
from research.tasks.grid_goals import GridGoals, GridTasks

UP, DOWN, LEFT, RIGHT = range(4)


def distances(goals, size):
    """Moves from every cell to each goal, `[tasks, cells]`, counted by spreading out from the goal."""
    counts = []
    for goal in goals.tolist():
        found, edge = {tuple(goal): 0}, [tuple(goal)]
        while edge:
            row, column = edge.pop(0)
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if near not in found and all(0 <= place < size for place in near):
                    found[near] = found[row, column] + 1
                    edge.append(near)
        counts.append([found[divmod(cell, size)] for cell in range(size**2)])
    return np.array(counts)


@pytest.mark.parametrize("size", [2, 5, 7])
def test_values_are_those_of_the_shortest_paths(size):
    grid = GridGoals(size=size)
    tasks = grid.sample(3, rng.generator(0, "test"))
    far = distances(grid.cells(tasks), size)
    expected = np.where(far > 0, 0.9 ** (far - 1.0), 0.0)
    np.testing.assert_allclose(grid.optimal_values(tasks, 0.9), expected, rtol=1e-12)


def test_the_best_mean_returns_of_5_by_5_are_those_the_page_names():
    grid = GridGoals()
    everywhere = GridTasks(np.argwhere(np.ones((5, 5))) - 2.0)
    for tasks, expected in ((grid.test_tasks(8), 0.789), (everywhere, 0.793)):
        starts = grid.optimal_values(tasks, 0.9).sum(1) / 24  # any cell but the goal, where the value is 0
        assert round(starts.mean(), 3) == expected


def test_training_draws_every_goal_that_is_not_held_out_and_no_other():
    grid = GridGoals()
    held_out = {tuple(goal) for goal in grid.test_tasks(8).goal.tolist()}
    drawn = {tuple(goal) for i in range(40) for goal in grid.sample(17, rng.generator(i, "test")).goal.tolist()}
    assert len(held_out) == 8 and len(drawn) == 17 and not held_out & drawn
    assert len({tuple(goal) for goal in grid.sample(17, rng.generator(0, "test")).goal.tolist()}) == 17
    assert len(grid.sample(30, rng.generator(0, "test")).goal) == 30
    with pytest.raises(ValueError, match="num_eval_tasks=9: need at most 8"):
        grid.test_tasks(9)


def test_moves_go_where_they_say_and_walls_stop():
    envs = GridGoals(size=3).make_envs(GridTasks(np.array([[1.0, 1.0]])), 1)
    envs.reset(seed=0)
    envs.state = np.zeros((1, 2), int)
    places = []
    for action in (UP, LEFT, RIGHT, RIGHT, RIGHT, DOWN, UP, LEFT, DOWN, DOWN, RIGHT):
        observation, reward, terminated, truncated, _ = envs.step(np.array([action]))
        places.append(tuple(envs.positions()[0].astype(int) + 1))
        assert observation[0].argmax() == places[-1][0] * 3 + places[-1][1] and observation.sum() == 1
        assert reward[0] == terminated[0] == (places[-1] == (2, 2)) and not truncated[0]
    assert places == [(0, 0), (0, 0), (0, 1), (0, 2), (0, 2), (1, 2), (0, 2), (0, 1), (1, 1), (2, 1), (2, 2)]
    _, reward, terminated, truncated, _ = envs.step(np.array([LEFT]))
    assert not reward[0] and not terminated[0] and not truncated[0] and tuple(envs.positions()[0]) == (1, 1)


def test_episodes_start_anywhere_but_at_the_goal():
    grid = GridGoals(size=3)
    tasks = GridTasks(np.array([[0.0, 0.0], [-1.0, 1.0]]))
    observation, _ = grid.make_envs(tasks, 9000).reset(seed=0)
    share = observation.reshape(2, 9000, 9).mean(1)
    expected = np.full((2, 9), 1 / 8)
    expected[0, 4] = expected[1, 2] = 0
    np.testing.assert_allclose(share, expected, atol=4 * np.sqrt(1 / 8 / 9000))
    assert share[0, 4] == share[1, 2] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(size=1), "size=1: need at least 2"),
        (dict(test_fraction=1.0), "test_fraction=1.0: need a value between 0 and 1"),
        (dict(size=2, test_fraction=0.1), "test_fraction=0.1: that is 0 of 4 cells"),
        (dict(horizon=0), "horizon=0: need a value above 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GridGoals(**settings)
