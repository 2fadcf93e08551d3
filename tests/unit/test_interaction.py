"""Endless stepping: ends and starts, and coming back to where it was."""

from __future__ import annotations

import numpy as np
import pytest

from research import rng
from research.sampling.interaction import Interaction
from research.tasks import make_tasks
from research.tasks.grid_goals import GridEnvs, GridGoals

TASKS = {
    "cartpole_params": dict(horizon=23),
    "grid_goals": dict(horizon=9),
    "tabular_mdp": dict(horizon=7),
    "gym_tasks": dict(horizon=31, env_id="CartPole-v1", randomize={"gravity": [8.0, 12.0]}),
}


class SlipperyGrid(GridEnvs):
    """Rows of different length that share a generator: at every step all draw whether they slip."""

    def move(self, state, action):
        return super().move(state, np.where(self.np_random.random(self.num_envs) < 0.3, 0, action))


@pytest.fixture(params=[*TASKS, "slippery"])
def make(request):
    if request.param == "slippery":
        grid = GridGoals(horizon=9)
        return lambda: SlipperyGrid(grid, grid.sample(2, rng.generator(0, "test")), 6)
    tasks = make_tasks(request.param, **TASKS[request.param])
    batch = tasks.sample(2, rng.generator(0, "test"))
    return lambda: tasks.make_envs(batch, 2)


def acting(seed, count):
    draws = rng.generator(seed, "actions")
    return lambda observation: draws.integers(count, size=len(observation))


@pytest.mark.thorough
def test_a_stop_leaves_no_trace(make):
    """Rows of different age, rows that share a generator, and a stop at every step for a while."""
    envs = make()
    count = envs.single_action_space.n
    straight = Interaction(envs, 5)
    expected = [straight.run(1, acting(i, count)) for i in range(60)]
    stopped = Interaction(make(), 5)
    for i, (transitions, finished) in enumerate(expected):
        if i % 3 != 2:
            moment = stopped.moment()
            assert len(moment.actions) <= 31
            stopped = Interaction(make(), 5, moment)
        ours, ended = stopped.run(1, acting(i, count))
        for a, b in zip((*ours, *ended), (*transitions, *finished), strict=True):
            np.testing.assert_array_equal(a, b)
    assert sum(len(finished.returns) for _, finished in expected) > 4, "nothing ended: nothing was tested"


def test_what_follows_an_end_is_another_start_and_what_is_recorded_is_the_last_observation():
    tasks = make_tasks("grid_goals", horizon=6)
    goals = tasks.sample(3, rng.generator(0, "test"))
    interaction = Interaction(tasks.make_envs(goals, 4), 0)
    seen, finished = interaction.run(200, acting(0, 4))
    goal = np.repeat(tasks.cells(goals) @ [5, 1], 4)
    arrived = seen.next_observation.argmax(-1) == goal
    np.testing.assert_array_equal(seen.terminated, arrived)
    np.testing.assert_array_equal(seen.reward, arrived)
    goes_on = ~seen.ended[:-1]
    np.testing.assert_array_equal(seen.observation[1:][goes_on], seen.next_observation[:-1][goes_on])
    assert not (seen.observation.argmax(-1) == goal).any()
    is_cut = seen.ended & ~seen.terminated
    assert is_cut.any() and seen.terminated.any()
    assert len(finished.returns) == seen.ended.sum()
    np.testing.assert_array_equal(np.sort(finished.returns), np.sort(seen.terminated[seen.ended].astype(float)))
    assert finished.lengths.max() == 6 and finished.lengths.min() >= 1
    lengths = [np.diff(np.flatnonzero(ended), prepend=-1) for ended in seen.ended.T]
    assert sorted(np.concatenate(lengths)) == sorted(finished.lengths)


def test_environments_that_do_not_come_back_are_refused(make):
    interaction = Interaction(make(), 0)
    interaction.run(5, acting(0, 2))
    moment = interaction.moment()
    elsewhere = moment.observation + (np.arange(len(moment.observation)) == 1)[:, None]
    with pytest.raises(RuntimeError, match=r"row 1: after a replay of \d+ steps the observation differs"):
        Interaction(make(), 0, moment._replace(observation=elsewhere))
