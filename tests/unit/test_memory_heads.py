"""Heads of policies with memory: initial values, hand-computed outputs, and which settings are refused."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from research import rng
from research.policies.memory import MemoryConfig, make_memory_policy
from research.policies.memory.heads import FilmHead, GeneratedLinear, HyperHead
from research.spaces import OneHot

HYPER = MemoryConfig(5, head="hyper", head_hidden_sizes=(4, 3), output_scale=0.1)
SIZES = (5, 2, 2)
"""Of memory, observation and output."""


def head(config, kind=HyperHead, seed=0):
    return kind(config, SIZES, torch.Generator().manual_seed(seed), config.output_scale)


def memories(rows=7, seed=1):
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("hyper_size", [0, 3])
def test_at_the_start_every_memory_generates_the_weights_of_an_ordinary_initialisation(hyper_size):
    """Bias-HyperInit: exactly, for every layer; Glorot's bounds, biases 0, the last layer scaled."""
    own = head(dataclasses.replace(HYPER, hyper_size=hyper_size))
    memory = memories()[:, : hyper_size or 5]
    for layer, (inputs, outputs), scale in zip(own.layers, [(2, 4), (4, 3), (3, 2)], [1, 1, 0.1], strict=True):
        weights = layer.generate(memory)
        assert weights.shape == (7, outputs, inputs + 1)
        assert (weights == weights[0]).all() and torch.equal(weights[0], layer.bias)
        assert (weights[..., -1] == 0).all()
        bound = scale * (6 / (inputs + outputs)) ** 0.5
        assert 0 < weights[..., :-1].abs().max() <= bound
        assert weights[0, :, :-1].unique().numel() == inputs * outputs


def test_the_generated_network_is_at_first_the_ordinary_network_with_the_same_draws():
    own, memory = head(HYPER), memories()
    observation = memories(seed=2)[:, :2]
    film = head(dataclasses.replace(HYPER, head="film"), FilmHead)  # its perceptron draws the same weights
    hidden = observation
    *layers, last = film.layers
    for layer in layers:
        hidden = layer(hidden).tanh()
    torch.testing.assert_close(own(memory, observation), last(hidden), rtol=0, atol=1e-7)
    assert torch.equal(own(memory, observation), own(memory.flip(0), observation))


def test_modulation_starts_at_the_identity():
    own, memory, observation = head(dataclasses.replace(HYPER, head="film"), FilmHead), memories(), memories()[:, :2]
    hidden = observation
    *layers, last = own.layers
    for layer in layers:
        hidden = layer(hidden).tanh()
    assert torch.equal(own(memory, observation), last(hidden))


def test_kaiming_draws_the_generating_layer_and_leaves_weights_that_depend_on_the_memory():
    own = head(dataclasses.replace(HYPER, hyper_init="kaiming", hyper_size=3, output_scale=0.01))
    for layer in own.layers:
        assert (layer.bias == 0).all()
        assert 1.0 < layer.weight.abs().max() <= 2**0.5
        weights = layer.generate(memories()[:, :3])
        assert (weights[0] != weights[1]).all()


def test_a_generated_layer_by_hand():
    layer = GeneratedLinear(2, nn.Linear(2, 1))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]))  # [output, (x1, x2, 1), memory]
        layer.bias.copy_(torch.tensor([[0.5, 0.0, -1.0]]))
    memory, inputs = torch.tensor([[1.0, -1.0], [0.0, 2.0]]), torch.tensor([[2.0, 3.0], [1.0, 0.0]])
    # W(m) = [1 − 2 + ½, 3 − 4], b(m) = 5 − 6 − 1, and [4 + ½, 8], 12 − 1
    torch.testing.assert_close(layer(memory, inputs), torch.tensor([[-1.0 - 3.0 - 2.0], [4.5 + 11.0]]))


def test_modulation_by_hand():
    config = MemoryConfig(1, head="film", head_hidden_sizes=(2,), head_activation="relu")
    own = FilmHead(config, (1, 1, 1), torch.Generator().manual_seed(0), 1.0)
    with torch.no_grad():
        first, last = own.layers
        first.weight.copy_(torch.tensor([[1.0], [2.0]]))
        first.bias.copy_(torch.tensor([0.0, 1.0]))
        last.weight.copy_(torch.tensor([[1.0, 10.0]]))
        own.film.weight.copy_(torch.tensor([[1.0], [0.0], [0.0], [-1.0]]))
    # m = 3: factors (4, 1), addends (0, −3); x = 2: relu(4 · 2), relu(5 − 3)
    torch.testing.assert_close(own(torch.tensor([[3.0]]), torch.tensor([[2.0]])), torch.tensor([[8.0 + 20.0]]))


@pytest.mark.thorough
def test_without_hidden_layers_a_hypernetwork_contains_the_heads_of_each_state():
    """On one-hot observations: its weights are theirs, its shared bias is 0."""
    spaces = OneHot(4), gymnasium.spaces.Discrete(3)
    made = [
        make_memory_policy(config, *spaces, rng.torch_generator(0, "policy")).double()
        for config in (MemoryConfig(5, per_state_heads=True), MemoryConfig(5, head="hyper", head_hidden_sizes=()))
    ]
    tabular, hyper = made
    layer = hyper.head.layers[0]
    with torch.no_grad():
        tabular.action_bias.normal_(generator=torch.Generator().manual_seed(0))
        hyper.body.load_state_dict(tabular.body.state_dict())
        layer.weight[:, :-1] = tabular.action_weight.unflatten(0, (4, 3)).transpose(0, 1)
        layer.bias[:, :-1] = tabular.action_bias.unflatten(0, (4, 3)).T
    state = torch.randint(4, (6, 5), generator=torch.Generator().manual_seed(1))
    observation = nn.functional.one_hot(state, 4).double()
    outputs = []
    for policy in made:
        inputs = policy.encode(observation, observation, state % 3, state.double(), state > 2)
        outputs.append(policy(inputs, policy.initial_state(6)).distribution.logits)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)


def policy_of(config):
    spaces = gymnasium.spaces.Box(-np.inf, np.inf, (2,)), gymnasium.spaces.Discrete(3)
    return make_memory_policy(config, *spaces, rng.torch_generator(0, "policy"))


@pytest.mark.parametrize("head_kind", ["linear", "state", "film", "hyper"])
@pytest.mark.parametrize("separate", [False, True])
def test_the_names_of_the_parameters_of_the_value_begin_with_it(head_kind, separate):
    """No other parameter changes the value's own part; those of the value change no action."""
    policy = policy_of(MemoryConfig(5, head=head_kind, separate_value=separate, output_scale=1.0))
    observation = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    action = torch.zeros(2, 3, dtype=torch.int64)
    inputs = policy.encode(observation, observation, action, torch.ones(2, 3), action > 0)
    named = dict(policy.named_parameters())

    def moves(values):
        found = torch.autograd.grad(values.square().sum(), list(named.values()), allow_unused=True)
        return {name for name, value in zip(named, found, strict=True) if value is not None and (value != 0).any()}

    output = policy(inputs, policy.initial_state(2))
    of_actions = moves(output.distribution.logits)
    of_value = moves(policy(inputs, policy.initial_state(2)).value)
    assert of_actions and not any(name.startswith("value_") for name in of_actions)
    body = set() if separate else {name for name in named if name.startswith("body.")}
    assert of_value == {name for name in named if name.startswith("value_")} | body


@pytest.mark.parametrize("reaches", [False, True])
def test_the_gradient_of_the_policy_stops_at_the_belief_unless_the_settings_say_otherwise(reaches):
    policy = policy_of(MemoryConfig(5, head="state", belief_size=2, belief_gradient=reaches, output_scale=1.0))
    observation, action = torch.randn(2, 3, 2), torch.zeros(2, 3, dtype=torch.int64)
    output = policy(
        policy.encode(observation, observation, action, torch.ones(2, 3), action > 0), policy.initial_state(2)
    )
    assert output.belief.mean.shape == output.belief.log_var.shape == (2, 3, 2)
    loss = output.distribution.logits.square().sum() + output.value.sum()
    own = [policy.belief.weight, policy.body.weight_hidden]
    found = torch.autograd.grad(loss, own, allow_unused=True, retain_graph=True)
    assert all((gradient is not None) == reaches for gradient in found)
    of_belief = torch.autograd.grad(output.belief.mean.sum() + output.belief.log_var.sum(), own)
    assert all((gradient != 0).any() for gradient in of_belief)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(head_hidden_sizes=(8, 0)), r"head_hidden_sizes=\(8, 0\): need at least 1 unit in every layer"),
        (dict(head="film", head_hidden_sizes=()), r"head_hidden_sizes=\(\): head='film' modulates hidden layers"),
        (dict(head="mlp"), "head='mlp': need one of 'linear', 'state', 'film', 'hyper'"),
        (dict(head="state", hyper_init="kaiming"), "hyper_init='kaiming': it is for head='hyper', got head='state'"),
        (
            dict(head="hyper", hyper_init="kaiming", output_scale=0.1),
            "output_scale=0.1: hyper_init='kaiming' has a scale of its own; need 0.01",
        ),
        (dict(hyper_size=-1), "hyper_size=-1: need at least 0"),
        (dict(belief_size=-1), "belief_size=-1: need at least 0"),
        (dict(belief_gradient=True), "belief_gradient=True: there is no belief; need belief_size"),
        (
            dict(head="hyper", per_state_heads=True),
            "per_state_heads=True: it is for head='linear', got head='hyper'; need False",
        ),
        (
            dict(head_hidden_sizes=(8,)),
            r"head_hidden_sizes=\(8,\): it is for head='state' or head='film' or head='hyper', got head='linear'",
        ),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MemoryConfig(**change)
