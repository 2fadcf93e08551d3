from __future__ import annotations

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor
from torch.func import grad

from research.distributions import Categorical, DiagGaussian
from research.losses import PolicyBatch, clipped_loss, mean_kl, ratio_clip_fraction, reinforce, surrogate, value_error

EPISODES, TIME = 3, 4
LENGTHS = torch.tensor([4, 1, 2])


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def policy(weight: Tensor):
    def forward(observation):
        mean = observation @ weight
        return DiagGaussian(mean, torch.full_like(mean, -0.3))

    return forward


def batch_under(weight: Tensor) -> PolicyBatch:
    observation, action = numbers(EPISODES, TIME, 2), numbers(EPISODES, TIME, 2, seed=1)
    log_prob = policy(weight)(observation).log_prob(action)
    valid = torch.arange(TIME) < LENGTHS[:, None]
    return PolicyBatch(observation, action, numbers(EPISODES, TIME, seed=2), log_prob, valid)


def valid_steps(batch: PolicyBatch):
    return [(e, t) for e in range(EPISODES) for t in range(LENGTHS[e])]


WEIGHT, OTHER = numbers(2, 2, seed=3), numbers(2, 2, seed=4)


def test_reinforce_equals_a_loop_over_valid_steps():
    batch = batch_under(WEIGHT)
    terms = [
        policy(OTHER)(batch.observation[e, t]).log_prob(batch.action[e, t]) * batch.advantage[e, t]
        for e, t in valid_steps(batch)
    ]
    assert len(terms) == 7
    torch.testing.assert_close(reinforce(policy(OTHER), batch), -sum(terms) / 7)


def test_surrogate_equals_a_loop_over_valid_steps():
    batch = batch_under(WEIGHT)
    distribution = policy(OTHER)(batch.observation)
    new = distribution.log_prob(batch.action)
    terms = [math.exp(new[e, t] - batch.log_prob[e, t]) * batch.advantage[e, t].item() for e, t in valid_steps(batch)]
    assert surrogate(distribution, batch).item() == pytest.approx(-sum(terms) / 7)


def test_at_the_sampling_policy_surrogate_is_the_mean_advantage_with_the_policy_gradient():
    batch = batch_under(WEIGHT)
    loss = surrogate(policy(WEIGHT)(batch.observation), batch)
    torch.testing.assert_close(loss, -batch.advantage[batch.valid].mean())
    by_surrogate = grad(lambda w: surrogate(policy(w)(batch.observation), batch))(WEIGHT)
    torch.testing.assert_close(by_surrogate, grad(lambda w: reinforce(policy(w), batch))(WEIGHT))


def test_mean_kl_equals_a_loop_over_valid_steps():
    batch = batch_under(WEIGHT)
    old, new = Categorical(numbers(EPISODES, TIME, 5)), Categorical(numbers(EPISODES, TIME, 5, seed=9))
    terms = [Categorical(old.logits[e, t]).kl(Categorical(new.logits[e, t])) for e, t in valid_steps(batch)]
    torch.testing.assert_close(mean_kl(old, new, batch.valid), sum(terms) / 7)
    assert mean_kl(old, old, batch.valid).abs() < 1e-12


def test_what_lies_beyond_an_episodes_end_changes_nothing():
    batch = batch_under(WEIGHT)
    beyond = ~batch.valid
    changed = batch._replace(
        observation=torch.where(beyond[..., None], 9.0, batch.observation),
        action=torch.where(beyond[..., None], -9.0, batch.action),
        advantage=torch.where(beyond, 5.0, batch.advantage),
    )
    for loss in (reinforce, lambda forward, b: surrogate(forward(b.observation), b)):
        torch.testing.assert_close(loss(policy(OTHER), changed), loss(policy(OTHER), batch))
        gradients = [grad(lambda w, b=b, loss=loss: loss(policy(w), b))(OTHER) for b in (changed, batch)]
        torch.testing.assert_close(*gradients)


def test_descending_raises_the_probability_of_a_good_action():
    batch = PolicyBatch(
        torch.ones(1, 1, 2), torch.ones(1, 1, 2), torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1, 1).bool()
    )
    weight = torch.zeros(2, 2)
    moved = weight - 0.1 * grad(lambda w: reinforce(policy(w), batch))(weight)
    before, after = (policy(w)(batch.observation).log_prob(batch.action) for w in (weight, moved))
    assert after > before


def test_shapes_that_do_not_match_are_refused():
    ratio, short, valid = torch.ones(2, 3), torch.ones(2, 2), torch.ones(2, 3, dtype=torch.bool)
    for call in (
        lambda: clipped_loss(ratio, short, valid, 0.2),
        lambda: ratio_clip_fraction(short, valid, 0.2),
        lambda: value_error(ratio, ratio, ratio),  # the mask is no bool
        lambda: value_error(ratio, torch.ones(1), valid),  # it would broadcast
    ):
        with pytest.raises(TypeCheckError):
            call()
