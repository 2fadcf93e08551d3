from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.studies import tabular
from research import rng
from research.oracles.planning import optimal_action_values
from research.tasks import SolvedTasks
from research.tasks.tabular_mdp import TabularMDP, TabularTasks


def one_hot(state, states):
    return np.eye(states, dtype=np.float32)[np.array(state)]


def ring(states=3, actions=2) -> TabularTasks:
    """Action 0 stays, action 1 goes on to the next state; the reward is 10 state + action."""
    transition = np.zeros((1, states, actions, states))
    for s in range(states):
        transition[0, s, 0, s] = transition[0, s, 1, (s + 1) % states] = 1.0
    reward = 10.0 * np.arange(states)[:, None] + np.arange(actions)
    return TabularTasks(transition, reward[None])


def test_a_walk_by_hand():
    tasks = TabularMDP(horizon=4, num_states=3, num_actions=2, reward_std=0.0)
    envs = tasks.make_envs(ring(), 2)
    observation, _ = envs.reset(seed=0)
    np.testing.assert_array_equal(observation, one_hot([0, 0], 3))
    shown = []
    for actions in ([1, 0], [1, 1], [1, 1], [0, 0]):
        observation, reward, terminated, truncated, _ = envs.step(np.array(actions))
        shown.append((observation.argmax(-1).tolist(), reward.tolist(), truncated.all()))
        assert not terminated.any() and observation.dtype == np.float32
    assert shown == [
        ([1, 0], [1.0, 0.0], False),
        ([2, 1], [11.0, 1.0], False),
        ([0, 2], [21.0, 11.0], False),
        ([0, 2], [0.0, 20.0], True),
    ]


def test_moves_and_rewards_follow_the_task():
    episodes = 40_000
    tasks = TabularMDP(horizon=2, num_states=4, num_actions=3, reward_std=0.5)
    batch = tasks.sample(2, rng.generator(0, "test"))
    envs = tasks.make_envs(batch, episodes)
    envs.reset(seed=0)
    first, reward, *_ = envs.step(np.full(2 * episodes, 2))
    frequency = first.reshape(2, episodes, 4).mean(1)
    np.testing.assert_allclose(frequency, batch.transition[:, 0, 2], atol=0.01)
    reward = reward.reshape(2, episodes)
    np.testing.assert_allclose(reward.mean(1), batch.reward[:, 0, 2], atol=0.01)
    np.testing.assert_allclose(reward.std(1), 0.5, rtol=0.02)
    second, *_ = envs.step(np.ones(2 * episodes, int))
    for task in range(2):
        rows = first.reshape(2, episodes, 4)[task].argmax(-1)
        for state in range(4):
            follows = second.reshape(2, episodes, 4)[task][rows == state].mean(0)
            np.testing.assert_allclose(follows, batch.transition[task, state, 1], atol=0.03)


def test_the_best_return_is_that_of_the_other_oracle():
    tasks = TabularMDP(horizon=6, num_states=5, num_actions=3)
    batch = tasks.sample(20, rng.generator(0, "test"))
    start = torch.zeros(20, 5, dtype=torch.float64)
    start[:, 0] = 1.0
    mdps = tabular.TabularMDPs(torch.from_numpy(batch.transition), torch.from_numpy(batch.reward), start, 6)
    np.testing.assert_allclose(tasks.optimal_return(batch), tabular.optimal_return(mdps).numpy(), rtol=1e-12)
    ours, theirs = optimal_action_values(batch.transition, batch.reward, 6), tabular.optimal_action_values(mdps).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_planning_by_hand():
    values = optimal_action_values(*ring(), 3)
    # The last step takes action 1. Before: from 0 go on (1 + 11), from 1 go on (11 + 21), from 2 stay (20 + 21).
    np.testing.assert_allclose(values[0, 2], [[0, 1], [10, 11], [20, 21]])
    np.testing.assert_allclose(values[0, 1], [[1, 12], [21, 32], [41, 22]])
    np.testing.assert_allclose(values[0, 0], [[12, 33], [42, 52], [61, 33]])
    with pytest.raises(ValueError, match="horizon=0: need at least 1"):
        optimal_action_values(*ring(), 0)


def test_regrets_by_hand():
    tasks = TabularMDP(num_states=3, num_actions=2, horizon=3)
    assert isinstance(tasks, SolvedTasks)
    state, action = [[[0, 1, 2, 2, 0, 1]]], np.array([[[0, 1, 0, 1, 0, 0]]])
    regret = tasks.action_regret(ring(), one_hot(state, 3), action)
    np.testing.assert_allclose(regret, [[[33 - 12, 0, 1, 61 - 33, 12 - 1, 1]]])


def test_tasks_follow_their_distribution():
    batch = TabularMDP(num_states=4, num_actions=2).sample(5_000, rng.generator(0, "test"))
    np.testing.assert_allclose(batch.transition.sum(-1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(batch.transition.mean(0), 0.25, atol=0.015)
    # Dirichlet(1) over n outcomes: variance (n − 1) / (n² (n + 1)).
    np.testing.assert_allclose(batch.transition.var(0), 3 / (16 * 5), rtol=0.1)
    np.testing.assert_allclose(batch.reward.mean(0), 1.0, atol=0.06)
    np.testing.assert_allclose(batch.reward.std(0), 1.0, rtol=0.05)


def test_test_mdps_stay_the_same():
    # Published figures rest on these: a change of the test set must be a decision.
    batch = TabularMDP().test_tasks(2)
    np.testing.assert_allclose(batch.transition[1, 3, 2, :3], [0.03455639, 0.1780789, 0.02011739], atol=1e-8)
    np.testing.assert_allclose(batch.reward[1, 3, :3], [0.84979954, 0.42939897, 2.47049904], atol=1e-8)


@pytest.mark.parametrize(("key", "value"), [("num_states", 1), ("num_actions", 0), ("reward_std", -1)])
def test_impossible_settings_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"{key}={value}: need at least"):
        TabularMDP(**{key: value})
