from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from research.returns import discounted_returns, gae, masked_mean, normalize

unit = st.floats(0.0, 1.0)


def ragged(lengths, time):
    return torch.arange(time) < torch.as_tensor(lengths)[..., None]


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.booleans()), min_size=1, max_size=20))
def test_masked_mean_equals_the_mean_of_what_is_valid(entries):
    values, valid = zip(*entries, strict=True)
    kept = [value for value, ok in entries if ok]
    mean = masked_mean(torch.tensor(values, dtype=torch.float64), torch.tensor(valid))
    assert mean.item() == pytest.approx(math.fsum(kept) / len(kept) if kept else 0.0, rel=1e-9, abs=1e-9)


def test_discounted_returns_by_hand():
    returns = discounted_returns(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, -4.0]]), 0.5)
    torch.testing.assert_close(returns, torch.tensor([[2.75, 3.5, 3.0], [-1.0, -2.0, -4.0]]))


@given(unit, st.integers(1, 8))
def test_discounted_returns_equal_the_sum(discount, time):
    reward = numbers(2, 3, time)
    returns = discounted_returns(reward, discount)
    for t in range(time):
        expected = sum(discount**k * reward[..., t + k] for k in range(time - t))
        torch.testing.assert_close(returns[..., t], expected)


def gae_of_one_episode(reward, value, last_value, terminated, discount, gae_lambda):
    """Schulman et al. 2016, eq. 16, summed out for an episode without padding."""
    next_value = [*value[1:], 0.0 if terminated else last_value][: len(value)]
    delta = [r + discount * after - v for r, v, after in zip(reward, value, next_value, strict=True)]
    return [sum((discount * gae_lambda) ** k * delta[t + k] for k in range(len(delta) - t)) for t in range(len(delta))]


@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    ends=st.lists(st.booleans(), min_size=4, max_size=4),
    discount=unit,
    gae_lambda=unit,
    padding=st.integers(0, 2),
)
def test_gae_equals_a_loop_over_ragged_episodes(lengths, ends, discount, gae_lambda, padding):
    time = max(*lengths, 1) + padding
    valid = ragged(lengths, time)
    reward, value = (torch.where(valid, numbers(len(lengths), time, seed=s), math.nan) for s in (1, 2))
    last_value = numbers(len(lengths), seed=3)
    terminated = torch.zeros_like(valid)
    for row, (length, ended) in enumerate(zip(lengths, ends, strict=False)):
        terminated[row, length - 1] = ended and length > 0
    advantage = gae(reward, value, last_value, terminated, valid, discount, gae_lambda)
    for row, length in enumerate(lengths):
        expected = gae_of_one_episode(
            reward[row, :length].tolist(),
            value[row, :length].tolist(),
            last_value[row].item(),
            ends[row],
            discount,
            gae_lambda,
        )
        assert advantage[row, :length].tolist() == pytest.approx(expected)
        assert advantage[row, length:].tolist() == [0.0] * (time - length), "padding must stay zero"


def test_truncation_bootstraps_and_termination_does_not():
    reward, value, valid = torch.tensor([[1.0, 1.0]]), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    last_value = torch.tensor([10.0])
    truncated = gae(reward, value, last_value, torch.tensor([[False, False]]), valid, 0.5, 1.0)
    torch.testing.assert_close(truncated, torch.tensor([[1 + 0.5 * (1 + 0.5 * 10), 1 + 0.5 * 10]]))
    terminated = gae(reward, value, last_value, torch.tensor([[False, True]]), valid, 0.5, 1.0)
    torch.testing.assert_close(terminated, torch.tensor([[1.5, 1.0]]))


def test_the_last_value_of_a_terminated_episode_is_not_read():
    ones = torch.ones(1, 1)
    advantage = gae(ones, ones, torch.tensor([math.nan]), ones.bool(), ones.bool(), 0.9, 1.0)
    assert advantage.tolist() == [[0.0]]


def test_lambda_one_gives_returns_minus_values_and_zero_gives_the_td_error():
    reward, value, last_value = numbers(2, 5), numbers(2, 5, seed=1), torch.zeros(2, dtype=torch.float64)
    nothing, everything = torch.zeros(2, 5, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    full = gae(reward, value, last_value, nothing, everything, 0.9, 1.0)
    torch.testing.assert_close(full, discounted_returns(reward, 0.9) - value)
    one_step = gae(reward, value, last_value, nothing, everything, 0.9, 0.0)
    following = torch.cat([value[:, 1:], last_value[:, None]], 1)
    torch.testing.assert_close(one_step, reward + 0.9 * following - value)


@given(st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=2), min_size=1, max_size=3))
def test_normalize_scales_each_task_over_its_valid_steps(lengths):
    valid = ragged(lengths, 5)
    values = 3.0 + 7.0 * numbers(*valid.shape)
    scaled = normalize(values, valid)
    assert (scaled[~valid] == 0).all()
    for task in range(len(lengths)):
        kept = values[task][valid[task]]
        if len(kept) > 1:
            expected = (kept - kept.mean()) / kept.std(correction=0)
            torch.testing.assert_close(scaled[task][valid[task]], expected, rtol=1e-6, atol=1e-6)


def test_normalize_of_equal_values_is_zero_not_nan():
    assert normalize(torch.full((1, 4), 0.5), torch.ones(1, 4, dtype=torch.bool)).tolist() == [[0.0] * 4]


@pytest.mark.parametrize("function", [lambda r, v: masked_mean(r, v), lambda r, v: normalize(r, v)])
def test_a_mask_of_another_shape_is_refused(function):
    with pytest.raises(Exception, match="valid"):
        function(torch.zeros(2, 3), torch.zeros(3, dtype=torch.bool))
