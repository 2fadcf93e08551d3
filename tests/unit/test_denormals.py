"""Denormal numbers are taken for zero where it was asked for, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from research.algorithms.value.lookahead_dqn import LookaheadDQN
from research.denormals import flushed_denormals

DENORMAL = torch.full((4,), 1e-39)


def survives() -> bool:
    return bool((DENORMAL * 1.5).view(torch.int32).all())


def test_they_are_zero_within_and_only_there():
    assert survives()
    with flushed_denormals():
        assert not survives()
        with flushed_denormals():
            assert not survives()
        assert not survives()
    assert survives()


def test_an_error_within_restores_what_was():
    with pytest.raises(KeyError), flushed_denormals():
        raise KeyError
    assert survives()


@pytest.mark.thorough
def test_the_averages_of_dead_units_become_zero_in_a_td_learner():
    config = LookaheadDQN.Config(
        num_iterations=5, phases_per_iteration=1, train_freq=64, gradient_steps=400, learning_starts=64, inner_lr=0.5
    )
    algorithm = LookaheadDQN(config)
    state = algorithm.init()
    for _ in range(4):
        state, _ = algorithm.step(state)
    average = state.learner.optimizer["state"][0]["exp_avg"]
    denormal = (average.view(torch.int32) & 0x7FFFFFFF < 0x00800000) & (average.view(torch.int32) & 0x7FFFFFFF > 0)
    assert (average == 0).float().mean() > 0.3, "no unit died: this test shows nothing"
    assert not denormal.any()
