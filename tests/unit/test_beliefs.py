"""Searches for a hidden goal as evaluations record, replay and draw them, and their distance from Bayes-optimal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from analysis.plots import Walk, plot_beliefs
from experiments.render import draw_beliefs
from experiments.replay import walked_trials
from research.algorithms.memory.config import RL2Config
from research.algorithms.memory.evaluation import trial_curve
from research.algorithms.memory.recurrent import RecurrentAgent
from research.algorithms.outer import initial_params
from research.evaluation import RecordedTrials
from research.policies.memory import MemoryConfig
from research.tasks.base import KnownBayesOptimum


def curve(name="gridnavi", num_tasks=21, steps=1, trials=1, eval_actions="sampled", seed=0, **settings):
    """The tasks, and the curve of an untrained policy on them; the seed is that of the actions."""
    config = RL2Config(task=name, task_args=settings, policy=MemoryConfig(4, output_scale=3.0), eval_trials=trials,
                       eval_actions=eval_actions, seed=seed)  # fmt: skip
    agent = RecurrentAgent(config)
    params = initial_params(RecurrentAgent(RL2Config(task=name, task_args=settings, policy=config.policy)).policy)
    return agent.tasks, trial_curve(agent, params, num_tasks, steps)


@pytest.mark.parametrize(("steps", "optimum"), [(1, 15.0714), (3, 37.2143)])
def test_the_distance_from_bayes_optimal_is_that_of_the_returns(steps, optimum):
    """Nothing is random on the grid, so the total without noise is the sum of the returns.

    The optimum is that of the episodes of the evaluation. Trials of training have ten.
    """
    tasks, seen = curve(steps=steps, trials=2)
    below = seen.totals["below_bayes_optimal"]
    best = (steps + 1) * (tasks.mean_optimal_return() - tasks.optimal_return(seen.tasks))
    np.testing.assert_allclose(seen.totals["total"], seen.score.sum(0) + best, atol=1e-5)
    assert below.mean() == pytest.approx(optimum - seen.score.sum(0).mean(), abs=1e-4) and below.mean() > 0
    assert seen.summary()["below_bayes_optimal"] == pytest.approx(below.mean())


def test_there_is_no_distance_where_the_optimum_is_not_known():
    tasks, seen = curve("point_semicircle", 5)
    assert isinstance(tasks, KnownBayesOptimum) and "below_bayes_optimal" not in seen.totals
    _, seen = curve("bandit", 5)
    assert "below_bayes_optimal" not in seen.totals and "total" in seen.totals


@pytest.mark.parametrize(("num_tasks", "has_it"), [(5, False), (21, True), (30, False), (42, True)])
def test_means_over_the_family_need_each_goal_equally_often(num_tasks, has_it):
    """The returns on the first goals are not what is optimal on average less their regret."""
    tasks, seen = curve(num_tasks=num_tasks)
    assert ("below_bayes_optimal" in seen.totals) == has_it
    mean = tasks.mean_optimal_return() if has_it else tasks.optimal_return(seen.tasks)
    np.testing.assert_allclose(seen.totals["total"], 2 * mean - seen.totals["total_regret"], atol=1e-9)


def test_most_probable_actions_do_not_depend_on_the_seed():
    modes = [curve(eval_actions="mode", seed=seed)[1] for seed in (1, 2)]
    np.testing.assert_array_equal(modes[0].score, modes[1].score)
    np.testing.assert_array_equal(modes[0].details.trials.action, modes[1].details.trials.action)
    samples = [curve(seed=seed)[1] for seed in (1, 2)]
    assert (samples[0].score != samples[1].score).any()


def test_trials_of_distinct_tasks_are_recorded_as_they_were():
    """With 50 tasks of 21 goals the recorded ones are different goals, and their returns are those of the curve."""
    _, seen = curve(num_tasks=50, steps=2)
    recorded = seen.details
    assert isinstance(recorded, RecordedTrials) and recorded.trials.reward.shape == (4, 1, 45)
    assert len({tuple(goal) for goal in seen.tasks.goal[recorded.tasks].tolist()}) == 4
    returns = recorded.trials.reward.double().reshape(4, 3, 15).sum(-1).T
    np.testing.assert_allclose(returns, seen.score[:, recorded.tasks], atol=1e-5)


def test_replays_walk_the_recorded_trials():
    tasks, seen = curve(num_tasks=30, trials=3)
    places = walked_trials(seen)
    assert places.shape == (4, 30, 2, 2)
    cell = seen.details.trials.observation[:, 0].argmax(-1).numpy()
    np.testing.assert_array_equal(places[:, :, 0], tasks.positions(cell))
    np.testing.assert_array_equal(places[:, 1:15, 0], places[:, :14, 1])
    corner = np.full((4, 2), -2.0)
    np.testing.assert_array_equal(places[:, 15, 0], corner, "the second episode starts in the corner again")
    paid = (places[:, :, 1] == seen.tasks.goal[seen.details.tasks][:, None]).all(-1)
    np.testing.assert_array_equal(seen.details.trials.reward[:, 0] == 1, paid)


def test_a_replay_that_differs_is_refused():
    _, seen = curve()
    seen.details.trials.observation[1, 0, 7] = torch.roll(seen.details.trials.observation[1, 0, 7], 1)
    with pytest.raises(RuntimeError, match="step 7: a replay is not where the trial was"):
        walked_trials(seen)
    with pytest.raises(ValueError, match="need a distribution, and RecordedTrials"):
        walked_trials(seen._replace(details=None))


@pytest.fixture
def saved(monkeypatch):
    """The figures that were written."""
    figures = []
    write = Figure.savefig

    def savefig(figure, *args, **kwargs):
        figures.append(figure)
        write(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def test_beliefs_are_drawn_with_what_is_left_after_each_episode(tmp_path, saved):
    tasks, seen = curve(steps=1)
    assert draw_beliefs(seen, tmp_path) == [tmp_path / "beliefs.png"]
    assert (tmp_path / "beliefs.png").read_bytes().startswith(b"\x89PNG")
    panels = [axes for axes in saved[0].axes if axes.get_xlabel()]
    assert len(panels) == 4 * 2
    visited: set[tuple[float, ...]] = set()
    for episode, axes in enumerate(panels[:2]):
        walked = walked_trials(seen)[0, 15 * episode : 15 * (episode + 1), 1]
        visited |= {tuple(place) for place in walked.tolist()}
        goal = tuple(seen.tasks.goal[seen.details.tasks[0]])
        left = 1 if goal in visited else len({tuple(place) for place in tasks.goals().tolist()} - visited)
        earned = seen.score[episode, seen.details.tasks[0]]
        rest = f"{left} goals left" if left > 1 else "goal known"
        assert axes.get_xlabel().replace("\N{MINUS SIGN}", "-") == f"return {earned:.1f}, {rest}"
    assert draw_beliefs(curve("bandit", 5)[1], tmp_path) == []


def test_trials_of_different_lengths_are_refused(tmp_path):
    goals, prior = np.zeros((1, 2)), np.ones(1)
    walk = Walk(np.zeros((3, 2)), prior, 0.0)
    for trials, hidden in (([], goals[:0]), ([[walk], [walk, walk]], np.zeros((2, 2))), ([[walk]], np.zeros((2, 2)))):
        with pytest.raises(ValueError, match="need at least one, one goal for each, and the same number of episodes"):
            plot_beliefs(goals, prior, hidden, trials, tmp_path / "beliefs.png")
