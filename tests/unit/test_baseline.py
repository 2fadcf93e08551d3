from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from research.policies.baseline import features, fit_values
from research.types import Trajectories

TASKS, EPISODES, TIME, OBS = 2, 5, 6, 2


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trajectories(lengths, reward=None, dtype=torch.float64):
    lengths = torch.as_tensor(lengths)
    valid = torch.arange(TIME) < lengths[..., None]
    shape = valid.shape
    reward = numbers(*shape, seed=1) if reward is None else reward
    return Trajectories(
        observation=numbers(*shape, OBS).to(dtype),
        action=numbers(*shape, 1).to(dtype),
        reward=torch.where(valid, reward, 0.0).to(dtype),
        log_prob=numbers(*shape).to(dtype),
        terminated=torch.zeros_like(valid),
        valid=valid,
        last_observation=numbers(*shape[:2], OBS, seed=2).to(dtype),
        diverged=torch.zeros(shape[:2], dtype=torch.bool),
    )


def feature_row(observation, t):
    s = np.clip(np.asarray(observation), -10, 10)
    tau = t / 100
    return np.array([*s, *s**2, tau, tau**2, tau**3, 1.0])


@pytest.mark.thorough
@given(st.integers(0, 300), st.integers(1, 4))
def test_features_by_hand(start, time):
    observation = 20 * numbers(3, time, OBS)
    phi = features(observation, torch.arange(start, start + time))
    for episode in range(3):
        for t in range(time):
            np.testing.assert_allclose(phi[episode, t], feature_row(observation[episode, t], start + t))


def fitted_by_loop(sampled, task, discount, ridge):
    """Ridge regression on one task's own returns as one least-squares problem, √ridge·I below Φ."""
    rows, targets = [], []
    for episode in range(sampled.valid.shape[1]):
        length = int(sampled.valid[task, episode].sum())
        rewards = sampled.reward[task, episode, :length].tolist()
        for t in range(length):
            rows.append(feature_row(sampled.observation[task, episode, t], t))
            targets.append(sum(discount**k * r for k, r in enumerate(rewards[t:])))
    size = len(feature_row(np.zeros(OBS), 0))
    design = np.vstack([*rows, np.sqrt(ridge) * np.eye(size)])
    weights, *_ = np.linalg.lstsq(design, np.array([*targets, *[0.0] * size]), rcond=None)
    return weights


def test_values_are_those_of_a_ridge_regression_per_task():
    sampled = trajectories([[6, 3, 1, 6, 2], [4, 6, 6, 5, 6]])
    value, last_value = fit_values(sampled, 0.9, ridge=1e-3)
    for task in range(TASKS):
        weights = fitted_by_loop(sampled, task, 0.9, 1e-3)
        for episode in range(EPISODES):
            length = int(sampled.valid[task, episode].sum())
            for t in range(length):
                expected = feature_row(sampled.observation[task, episode, t], t) @ weights
                np.testing.assert_allclose(value[task, episode, t], expected, rtol=1e-6)
            expected = feature_row(sampled.last_observation[task, episode], length) @ weights
            np.testing.assert_allclose(last_value[task, episode], expected, rtol=1e-6)


@pytest.mark.thorough
def test_returns_that_are_linear_in_the_features_are_found():
    lengths = torch.full((TASKS, EPISODES), TIME)
    phi = features(trajectories(lengths).observation, torch.arange(TIME))
    target = phi @ torch.tensor([1.0, -2, 0.5, 3, 0, 0, 0, -1]).double()
    following = torch.cat([target[..., 1:], torch.zeros(TASKS, EPISODES, 1)], -1)
    sampled = trajectories(lengths, reward=target - 0.8 * following)
    value, _ = fit_values(sampled, 0.8, ridge=1e-12)
    torch.testing.assert_close(value, target, rtol=1e-4, atol=1e-4)


def test_padding_changes_nothing():
    sampled = trajectories([[3, 2, 6, 1, 4], [6, 6, 5, 2, 2]])
    beyond = ~sampled.valid
    changed = sampled._replace(observation=torch.where(beyond[..., None], 8.0, sampled.observation))
    for ours, theirs in zip(fit_values(changed, 0.9), fit_values(sampled, 0.9), strict=True):
        kept = sampled.valid if ours.ndim == 3 else ...
        torch.testing.assert_close(ours[kept], theirs[kept])


def test_tasks_are_fitted_apart():
    both = trajectories([[6, 3, 2, 6, 4], [4, 6, 6, 5, 6]])
    one = Trajectories(*(field[1:] for field in both))
    torch.testing.assert_close(fit_values(one, 0.9)[0], fit_values(both, 0.9)[0][1:])


def test_dtype_is_kept_and_float32_loses_little():
    lengths = [[6] * EPISODES] * TASKS
    single = fit_values(trajectories(lengths, dtype=torch.float32), 0.99)
    double = fit_values(trajectories(lengths), 0.99)
    assert all(field.dtype == torch.float32 for field in single)
    torch.testing.assert_close(single[0].double(), double[0], rtol=1e-3, atol=1e-3)


def test_constant_observations_do_not_break_the_fit():
    sampled = trajectories([[6] * EPISODES] * TASKS)
    still = sampled._replace(observation=torch.zeros_like(sampled.observation))
    assert fit_values(still, 0.9)[0].isfinite().all()
