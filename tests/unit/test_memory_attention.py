"""The transformer and the set of transitions: torch's modules, a plain loop and permutations as oracles."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from research import rng
from research.algorithms.memory.inference_update import belief_parameters
from research.policies.memory import MemoryConfig, make_memory_policy
from research.policies.memory.attention import attention, attention_recorded, rotate
from research.policies.memory.inputs import Inputs
from research.spaces import OneHot

SPACES = gymnasium.spaces.Box(-np.inf, np.inf, (3,)), gymnasium.spaces.Discrete(2)
LEARNED = MemoryConfig(8, memory="transformer", num_layers=2, num_attention_heads=2, positions="learned")


def made(config, longest=6):
    policy = make_memory_policy(config, *SPACES, rng.torch_generator(0, "policy"), longest).double()
    with torch.no_grad():  # nothing may hide behind a zero
        for index, parameter in enumerate(policy.parameters()):
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    return policy


def draws(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shown(policy, rows=4, time=6, seed=0):
    action = (draws(rows, time, seed=seed) > 0).long()
    observations = draws(rows, time, 3, seed=seed + 1), draws(rows, time, 3, seed=seed + 2)
    return policy.encode(*observations, action, draws(rows, time, seed=seed + 3), draws(rows, time) > 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (1, 5), (2, 5), (1, 1)])
def test_attention_is_the_formula(queries, keys, dtype):
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    query, *others = (draws(2, 3, time, 4, seed=index).to(dtype) for index, time in enumerate((queries, keys, keys)))
    expected = torch.empty_like(query)
    for row in range(2):
        for head in range(3):
            for t in range(queries):
                last = keys - queries + t + 1
                weights = torch.softmax(others[0][row, head, :last] @ query[row, head, t] / 2, -1)
                expected[row, head, t] = weights @ others[1][row, head, :last]
    torch.testing.assert_close(attention(query, *others), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(attention_recorded(query, *others), expected, rtol=0, atol=tolerance)


def test_attention_has_derivatives_of_the_first_and_second_order():
    arguments = [draws(1, 2, 3, 2, seed=index).requires_grad_() for index in range(3)]
    gradcheck(attention, arguments)
    gradgradcheck(attention, arguments)
    arguments[1].requires_grad_(False)
    gradgradcheck(attention, arguments)


def test_rotated_products_depend_on_the_distance_alone():
    query, key = (draws(1, 1, 1, 6, seed=seed).expand(9, 1, 1, 6) for seed in (0, 1))
    products = (rotate(query, 0).squeeze() @ rotate(key, 0).squeeze().T).numpy()
    for distance in range(-8, 9):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=0, atol=1e-13)
    assert len({round(float(np.diagonal(products, distance)[0]), 9) for distance in range(-8, 9)}) == 17
    torch.testing.assert_close(rotate(query[4:], 4), rotate(query, 0)[4:], rtol=0, atol=1e-15)


def test_a_rotation_by_hand():
    """One radian a step for the first pair, 1/100 for the second."""
    turned = rotate(torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64).view(1, 1, 1, 4), 1).flatten()
    expected = [np.cos(1), -np.sin(0.01), np.sin(1), np.cos(0.01)]
    np.testing.assert_allclose(turned, expected, rtol=0, atol=1e-15)


def test_it_is_torchs_transformer():
    policy = made(LEARNED)
    body, inputs = policy.body, shown(policy).map(lambda field: field.transpose(0, 1))
    layer = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64)
    oracle = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8, dtype=torch.float64), enable_nested_tensor=False)
    names = {
        "norm1": "norm_attention",
        "norm2": "norm_perceptron",
        "linear1": "up",
        "linear2": "down",
        "self_attn.in_proj_": "project.",
        "self_attn.out_proj": "output",
        "layers": "blocks",
    }
    own = body.state_dict()
    loaded = {}
    for name in oracle.state_dict():
        ours = name
        for theirs, replacement in names.items():
            ours = ours.replace(theirs, replacement)
        loaded[name] = own[ours]
    oracle.load_state_dict(loaded)
    embedded = (inputs.features @ body.input.weight.T + body.input.bias).transpose(0, 1) + body.positions
    mask = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
    expected = oracle(embedded, mask, is_causal=True)
    memory, cache = body(inputs, body.initial_state(4))
    torch.testing.assert_close(memory.transpose(0, 1), expected, rtol=0, atol=1e-12)
    assert cache.keys.shape == (4, 2, 2, 6, 4) and cache.length == 6


def test_the_cache_has_room_for_the_context_from_the_first_step_on():
    policy = made(LEARNED)
    inputs = shown(policy)
    state, places = policy.initial_state(4), set()
    with torch.no_grad():
        for t in range(6):
            state = policy.act(inputs.map(lambda field, t=t: field[:, t]), state).state
            assert state.keys.shape == (4, 2, 2, 6, 4) and state.length == t + 1
            places.add(state.keys.data_ptr())
    assert len(places) == 1, "nothing is copied from step to step"


def test_a_trial_longer_than_the_context_is_refused():
    policy = made(LEARNED, longest=5)
    message = r"policy\.context_length=5: need at least 6, the steps of a trial"
    with pytest.raises(ValueError, match=message):
        policy(shown(policy), policy.initial_state(4))
    with pytest.raises(ValueError, match=message):
        policy.check_length(6)
    policy.check_length(5)
    with pytest.raises(ValueError, match=r"policy\.context_length=0: need at least 1"):
        made(LEARNED, longest=0)
    made(MemoryConfig(6)).check_length(10**9)


def test_rotary_positions_read_longer_trials_than_those_of_training():
    rotary = dataclasses.replace(LEARNED, positions="rotary")
    policy, short = made(rotary, longest=6), made(rotary, longest=2)
    short.check_length(10**9)
    inputs = shown(policy)
    expected = policy(inputs, policy.initial_state(4)).value
    torch.testing.assert_close(short(inputs, short.initial_state(4)).value, expected, rtol=0, atol=0)
    state, rooms = short.initial_state(4), []
    with torch.no_grad():
        for t in range(6):
            output = short.act(inputs.map(lambda field, t=t: field[:, t]), state)
            state = output.state
            rooms.append(state.keys.shape[3])
            torch.testing.assert_close(output.value, expected[:, t], rtol=0, atol=1e-12)
    assert rooms == [2, 2, 4, 4, 8, 8], "the room doubles, so that a step copies little"


@pytest.mark.parametrize("memory", ["gru", "transformer", "set"])
def test_the_parameters_of_a_belief_are_found_where_a_trial_is_one_step(memory):
    config = MemoryConfig(8, memory=memory, head="state", belief_size=2)
    policy = made(config, longest=1)
    expected = {name for name, _ in policy.named_parameters() if name.startswith(("body.", "belief."))}
    assert belief_parameters(policy) == expected


def test_positions_are_what_tells_steps_apart():
    """Without them causal attention of one block at the last step is a function of the set of the others."""
    policy = made(MemoryConfig(8, memory="transformer", positions="learned"))
    inputs = shown(policy)
    order = torch.tensor([2, 0, 3, 1, 4, 5])
    before, after = (
        policy(own, policy.initial_state(4)).value[:, -1] for own in (inputs, inputs.map(lambda field: field[:, order]))
    )
    assert (before - after).abs().min() > 1e-6
    with torch.no_grad():
        policy.body.positions.zero_()
    before, after = (
        policy(own, policy.initial_state(4)).value[:, -1] for own in (inputs, inputs.map(lambda field: field[:, order]))
    )
    torch.testing.assert_close(before, after, rtol=0, atol=1e-13)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_the_gradient_is_of_ordinary_size_where_all_inputs_are_zero(positions):
    """As in the first step on a bandit; norms of vectors near 0 would multiply it by 300 in each block."""
    config = MemoryConfig(8, memory="transformer", num_layers=3, positions=positions, output_scale=1.0)
    spaces = gymnasium.spaces.Box(0.0, 0.0, (1,)), gymnasium.spaces.Discrete(2)
    policy = make_memory_policy(config, *spaces, rng.torch_generator(0, "policy"), 4)
    nothing = torch.zeros(2, 1, 1)
    inputs = policy.encode(nothing, nothing, torch.full((2, 1), -1), torch.zeros(2, 1), torch.zeros(2, 1).bool())
    assert (inputs.features == 0).all()
    output = policy(inputs, policy.initial_state(2))
    parameters = [parameter for name, parameter in policy.named_parameters() if name.startswith("body.")]
    gradient = torch.autograd.grad(output.distribution.logits[..., 0].sum() + output.value.sum(), parameters)
    assert all(value.norm() < 100 for value in gradient)


@pytest.mark.parametrize("outer", [False, True])
def test_the_order_of_past_transitions_does_not_matter_to_a_set(outer):
    config = MemoryConfig(6, memory="set", num_layers=2, head="state", outer_input=outer)
    policy = make_memory_policy(config, OneHot(3), SPACES[1], rng.torch_generator(0, "policy")).double()
    state = torch.randint(3, (4, 7), generator=torch.Generator().manual_seed(0))
    observation = nn.functional.one_hot(state, 3).double()
    last, reward = observation.roll(1, 1), draws(4, 7)
    inputs = policy.encode(observation, last, state.roll(2, 1) % 2, reward, reward > 0.5)

    def memory(order):
        own = inputs.map(lambda field: field[:, order].transpose(0, 1))
        return policy.body(own, policy.body.initial_state(4))[0][-1]

    expected = memory([0, 1, 2, 3, 4, 5, 6])
    torch.testing.assert_close(memory([0, 6, 3, 1, 5, 2, 4]), expected, rtol=0, atol=1e-13)
    assert (memory([1, 0, 2, 3, 4, 5, 6]) != expected).any(), "the first step of a trial shows no transition"
    assert (memory([0, 1, 2, 3, 4, 5, 5]) != expected).any()
    assert (memory([0, 1, 2, 3, 4, 5, 6, 6]) != expected).any(), "it is a set with multiplicities"


def test_a_set_by_a_plain_loop():
    policy = made(MemoryConfig(6, memory="set", num_layers=2, head="state"))
    body, inputs = policy.body, shown(policy)
    memory, evidence = body(inputs.map(lambda field: field.transpose(0, 1)), body.initial_state(4))
    for row in range(4):
        encoded = []
        for t in range(6):
            if t:
                hidden = (body.input.weight @ inputs.features[row, t] + body.input.bias).tanh()
                encoded.append((body.layers[0].weight @ hidden + body.layers[0].bias).tanh())
            total = sum(encoded, torch.zeros(6, dtype=torch.float64))
            pooled = torch.cat([total / max(1, len(encoded)), total.asinh()])
            expected = (body.output.weight @ pooled + body.output.bias).tanh()
            torch.testing.assert_close(memory[t, row], expected, rtol=0, atol=1e-13)
    assert evidence.steps.tolist() == [6] * 4
    assert isinstance(inputs, Inputs) and inputs.features.shape[-1] == 3 + 2 + 2 + 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_layers=2), "num_layers=2: it is for memory='transformer' or memory='set', got memory='gru'; need 1"),
        (dict(context_length=9), "context_length=9: it is for memory='transformer', got memory='gru'; need 0"),
        (dict(memory="set", positions="learned"), "positions='learned': it is for memory='transformer'"),
        (dict(memory="set", num_layers=0), "num_layers=0: need at least 1"),
        (dict(memory="set", layer_norm=True), "layer_norm=True: it is for memory='gru', got memory='set'; need False"),
        (dict(memory="transformer", learn_start=True), "learn_start=True: it is for memory='gru'"),
        (dict(memory="transformer", context_length=-1), "context_length=-1: need at least 0"),
        (dict(memory="transformer", num_attention_heads=5), "num_attention_heads=5: need a divisor of hidden_size=64"),
        (dict(memory="transformer", num_attention_heads=64), "positions='rotary' turns pairs of dimensions; need"),
        (dict(memory="lstm"), "memory='lstm': need one of 'gru', 'transformer', 'set'"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MemoryConfig(**change)


def test_a_set_with_a_head_that_sees_no_observation_is_refused_where_observations_change():
    config = MemoryConfig(memory="set")
    with pytest.raises(ValueError, match=r"policy\.head='linear': with policy\.memory='set' no action would depend"):
        make_memory_policy(config, *SPACES, torch.Generator())
    make_memory_policy(config, gymnasium.spaces.Box(0.0, 0.0, (1,)), SPACES[1], torch.Generator())
