"""Q-networks: outputs by hand, with and without a task axis, and the gradient without a graph."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from torch.func import functional_call

from research.policies.mlp_function import mlp_with_pullback
from research.policies.q_network import QNetworkConfig, make_q_network

OBSERVATIONS = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
ACTIONS = gymnasium.spaces.Discrete(4)


def make(seed=0, **settings):
    config = QNetworkConfig(**{"hidden_sizes": (6, 5), **settings})
    return make_q_network(config, OBSERVATIONS, ACTIONS, torch.Generator().manual_seed(seed)).double()


def layers(observation, *pairs):
    for i, (weight, bias) in enumerate(pairs):
        observation = observation @ weight.T + bias
        if i < len(pairs) - 1:
            observation = observation.clamp_min(0)
    return observation


@pytest.mark.parametrize("hidden", [(6,), (6, 5), (7, 6, 5)])
def test_a_dueling_network_adds_a_value_and_advantages_of_mean_0(hidden):
    network = make(hidden_sizes=hidden, dueling=True)
    observation = torch.randn(8, 3, dtype=torch.float64)
    weights = list(network.parameters())
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    body, value, advantage = pairs[:-4], pairs[-4:-2], pairs[-2:]
    assert [len(w) for w, _ in body] == list(hidden[:-1])
    features = layers(observation, *body).clamp_min(0) if body else observation
    own = layers(features, *advantage)
    expected = layers(features, *value) + own - own.mean(1, keepdim=True)
    torch.testing.assert_close(network(observation), expected)
    torch.testing.assert_close(network(observation).mean(1, keepdim=True), layers(features, *value))


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("is_tracked", [False, True])
def test_parameters_may_have_a_task_axis(dueling, is_tracked):
    networks = [make(seed, dueling=dueling) for seed in range(3)]
    observation = torch.randn(3, 2, 8, 3, dtype=torch.float64)
    names = [name for name, _ in networks[0].named_parameters()]
    stacked = {name: torch.stack([dict(n.named_parameters())[name] for n in networks]).detach() for name in names}
    leaves = {name: value.requires_grad_(is_tracked) for name, value in stacked.items()}
    with torch.set_grad_enabled(is_tracked):
        values = functional_call(networks[0], leaves, (observation,))
    for task, network in enumerate(networks):
        torch.testing.assert_close(values[task], network(observation[task]))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_pullback_is_the_gradient(activation):
    network = make(activation=activation)
    linear = [layer for layer in network.value if hasattr(layer, "weight")]
    observation, cotangent = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 4, dtype=torch.float64)
    weights, biases = [layer.weight for layer in linear], [layer.bias for layer in linear]
    expected = torch.autograd.grad(network(observation), [*weights, *biases], cotangent)
    output, pull = mlp_with_pullback(observation, weights, biases, type(network.value[1]))
    torch.testing.assert_close(output, network(observation))
    assert not output.requires_grad
    found = [[torch.full_like(value, math.nan) for value in values] for values in (weights, biases)]
    pull(cotangent, *found)
    for ours, theirs in zip([*found[0], *found[1]], expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(hidden_sizes=(4, 0)), r"hidden_sizes=\(4, 0\): need at least 1 unit"),
        (dict(activation="sine"), "activation='sine': need one of"),
        (dict(hidden_sizes=(), dueling=True), "dueling=True: need at least 1 hidden layer"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        QNetworkConfig(**settings)


def test_continuous_actions_are_refused():
    with pytest.raises(ValueError, match=r"action space Box\(.*\): need Discrete, a Q-network has an output for each"):
        make_q_network(QNetworkConfig(), OBSERVATIONS, OBSERVATIONS, torch.Generator())
