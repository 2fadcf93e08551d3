"""The search for a hidden goal: Bellman's equation on the whole belief space, and the figures of variBAD's grid."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.oracles.hidden_goal import Search, arrival_steps, best_path
from research.tasks.hidden_goal import DarkRoom, GridNavi


def bayes_optimal(next_cell, start, goals, horizon, episodes, at_goal, elsewhere):
    """The value of the first state by Bellman's equation; a belief is the set of the goals that are still possible."""

    @functools.cache
    def value(episode, step, cell, possible):
        if step == horizon:
            return value(episode + 1, 0, start, possible) if episode + 1 < episodes else 0.0
        return max(of_move(episode, step, int(to), possible) for to in next_cell[cell])

    def of_move(episode, step, to, possible):
        chance = (to in possible) / len(possible)
        found = chance and chance * (at_goal + value(episode, step + 1, to, frozenset([to])))
        rest = possible - {to}
        missed = rest and (1 - chance) * (elsewhere + value(episode, step + 1, to, rest))
        return found + (missed or 0.0)

    return value(0, 0, start, frozenset(map(int, goals)))


def of_tasks(tasks, episodes):
    exact = bayes_optimal(
        tasks.next_cell(), tasks.start, tasks.goal_cells, tasks.horizon, episodes, 1.0, tasks.elsewhere
    )
    return exact, tasks.bayes_optimal_return(episodes)


@pytest.mark.parametrize(
    ("tasks", "episodes"),
    [
        (GridNavi(size=3, horizon=3), 1),
        (GridNavi(size=3, horizon=5), 2),
        (GridNavi(size=4, horizon=5), 2),
        (DarkRoom(size=3, horizon=2), 3),
        (DarkRoom(size=3, horizon=4), 2),
        (DarkRoom(size=5, horizon=4), 1),
    ],
)
def test_it_is_the_value_of_the_belief_space(tasks, episodes):
    exact, found = of_tasks(tasks, episodes)
    assert found.is_exact
    assert found.low == pytest.approx(exact, abs=1e-12)


@pytest.mark.thorough
def test_a_long_episode_of_the_large_grid_has_the_value_of_the_belief_space():
    exact, found = of_tasks(GridNavi(horizon=9), 1)
    assert found.is_exact and found.low == pytest.approx(exact, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_it_lies_between_the_bounds_for_any_moves_and_goals(data):
    """Moves in one direction, islands, goals out of reach: the bound of the remaining loss is one everywhere."""
    cells = data.draw(st.integers(1, 5))
    others = data.draw(st.lists(st.lists(st.integers(0, cells - 1), min_size=2, max_size=2), min_size=cells,
                                max_size=cells))  # fmt: skip
    next_cell = np.column_stack([np.arange(cells), np.array(others)])
    goals = np.array(sorted(data.draw(st.sets(st.integers(0, cells - 1), min_size=1))))
    start, horizon, episodes = data.draw(st.integers(0, cells - 1)), data.draw(st.integers(1, 4)), 2
    path = best_path(Search(next_cell, start, goals, horizon), episodes)
    exact = bayes_optimal(next_cell, start, goals, horizon, episodes, 1.0, 0.0)
    first = arrival_steps(next_cell)[start, goals]
    known = episodes * np.maximum(horizon - first + 1, 0).mean()
    assert known - path.lost / len(goals) <= exact + 1e-12
    assert exact <= known - path.bound / len(goals) + 1e-12


@pytest.mark.parametrize(("episodes", "expected"), [(1, 4.0000), (4, 37.2143)], ids=["one episode", "four episodes"])
def test_the_values_of_gridnavi(episodes, expected):
    found = GridNavi().bayes_optimal_return(episodes)
    assert found.is_exact and round(found.low, 4) == expected
    assert round(4 * GridNavi().mean_optimal_return(), 4) == 44.2857


def test_an_optimal_path_of_gridnavi_visits_every_goal():
    path = GridNavi().bayes_optimal_path(4)
    assert set(GridNavi().goal_cells) <= set(path.cells[:2].ravel()), "in two episodes"


def test_an_episode_of_the_dark_room_is_worth_a_new_cell_in_each_step():
    found = DarkRoom().bayes_optimal_return(1)
    assert found.is_exact and found.low == pytest.approx(sum(range(1, 21)) / 81)
    assert len(set(DarkRoom().bayes_optimal_path(1).cells.ravel())) == 20


@pytest.mark.thorough
def test_two_episodes_of_the_dark_room_are_known_within_three_hundredths():
    low, high = DarkRoom().bayes_optimal_return(2)
    assert 9.79 <= low < high <= 9.815


@pytest.mark.parametrize("tasks", [GridNavi(), DarkRoom(size=5, horizon=6)])
def test_the_path_loses_what_it_says_in_the_environments(tasks):
    """The path is walked until a reward shows the goal, then the shortest way to it, in every task."""
    episodes, count = 3, len(tasks.goal_cells)
    batch = tasks.test_tasks(count)
    envs, plan, moves = tasks.make_envs(batch, 1), tasks.bayes_optimal_path(episodes), tasks.next_cell()
    goal, is_known, total = tasks.cells(batch), np.zeros(count, bool), np.zeros(count)
    away = arrival_steps(moves) * (np.arange(len(moves))[:, None] != np.arange(len(moves)))  # 0 where it is
    for way in plan.cells:
        envs.reset(seed=0)
        for cell in way:
            here = envs.state
            searching = (moves[here] == cell).argmax(1)
            homing = away[moves[here], goal[:, None]].argmin(1)
            _, reward, *_ = envs.step(np.where(is_known, homing, searching))
            is_known |= reward == 1
            total += reward
    assert total.mean() == pytest.approx(tasks.bayes_optimal_return(episodes).low, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "episodes", "message"),
    [
        ({}, 0, "episodes=0: need at least 1"),
        (dict(horizon=0), 1, "horizon=0: need at least 1"),
        (dict(goals=np.array([1, 1])), 1, r"goals=\[1, 1\]: need at least one cell, and none twice"),
        (dict(goals=np.array([], int)), 1, r"goals=\[\]: need at least one cell"),
        (dict(next_cell=np.array([[0, 1], [0, 0]])), 1, "next_cell: need an action in every cell that stays there"),
    ],
)
def test_impossible_searches_are_refused(change, episodes, message):
    search = Search(np.array([[0, 1], [1, 0]]), 0, np.array([0, 1]), 3)
    with pytest.raises(ValueError, match=message):
        best_path(search._replace(**change), episodes)
