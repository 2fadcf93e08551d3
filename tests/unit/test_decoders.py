"""Decoders: the split first layer, against one product over every pair of belief and step."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from research.policies.decoders import (
    DecoderConfig,
    Decoders,
    StepDecoder,
    make_step_decoders,
    make_task_decoder,
)
from research.spaces import OneHot, is_constant

PLANE = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
CELLS = OneHot(4)
NOTHING = gymnasium.spaces.Box(0.0, 0.0, (1,), np.float32)


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("hidden_sizes", [(7, 5), (7,), ()])
def test_a_step_decoder_is_a_perceptron_on_belief_and_step(hidden_sizes):
    decoder = StepDecoder(2, 3, hidden_sizes, 4, generator()).double()
    belief, step = (torch.randn(5, n, size, dtype=torch.float64) for n, size in ((2, 2), (6, 3)))
    ours = decoder(belief, step)
    assert ours.shape == (5, 2, 6, 4)
    pairs = torch.cat([belief[:, :, None].expand(-1, -1, 6, -1), step[:, None].expand(-1, 2, -1, -1)], -1)
    hidden = pairs @ torch.cat([decoder.weight_belief, decoder.weight_step], 1).T + decoder.bias
    if hidden_sizes:
        for weight, bias in zip(decoder.rest.weight, decoder.rest.bias, strict=True):
            hidden = hidden.clamp_min(0) @ weight.T + bias
    torch.testing.assert_close(ours, hidden, rtol=1e-12, atol=1e-13)


def test_spaces_choose_the_decoders():
    config = DecoderConfig((6,))
    decoders = make_step_decoders(config, 2, PLANE, 5, True, True, generator())
    assert decoders.decoder_reward.weight_step.shape == (6, 3 + 5 + 3)
    assert decoders.decoder_transition.weight_step.shape == (6, 3 + 5)
    assert decoders.decoder_transition.rest.weight[-1].shape == (3, 6) and decoders.decoder_task is None
    per_state = make_step_decoders(DecoderConfig((6,), reward_per_state=True), 2, CELLS, 5, True, False, generator())
    assert per_state.decoder_reward.states.weight[-1].shape == (4, 6) and per_state.decoder_transition is None
    sizes = [make_task_decoder(config, 2, space, generator()).decoder_task.bias[-1].numel()
             for space in (gymnasium.spaces.Discrete(21), PLANE)]  # fmt: skip
    assert sizes == [21, 6]
    assert all(name.startswith("decoder_") for name, _ in decoders.named_parameters())
    assert not list(Decoders().parameters())


def test_observations_are_told_apart():
    assert [is_constant(space) for space in (PLANE, CELLS, NOTHING)] == [False, False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(hidden_sizes=(3, 0)), "hidden_sizes=0: need at least 1"),
        (dict(reward="poisson"), "reward='poisson': need one of 'gaussian', 'bernoulli'"),
        (dict(reward_std=0.0), "reward_std=0.0: need a value above 0"),
        (dict(reward="bernoulli", reward_std=0.3), "reward_std=0.3: it is for reward='gaussian', got reward='bernou"),
        (dict(transition_std=-1.0), "transition_std=-1.0: need a value above 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**settings)


def test_outputs_for_each_state_need_states():
    for space in (PLANE, gymnasium.spaces.Box(0.0, 1.0, (4,))):
        with pytest.raises(
            ValueError, match=r"decoder.reward_per_state=True: it is for one-hot observations .*, got Box"
        ):
            make_step_decoders(DecoderConfig(reward_per_state=True), 2, space, 5, True, True, generator())
