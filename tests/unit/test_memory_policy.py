"""Policies with memory: torch's own GRU, single steps and finite differences as oracles."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.utils import _pytree as pytree

from research import rng
from research.policies.gru_function import gru_function, gru_recorded
from research.policies.memory import MemoryConfig, MemoryPolicy, make_memory_policy
from research.spaces import OneHot

DTYPES = [(torch.float32, 1e-6), (torch.float64, 1e-12)]
ONE_HOT = OneHot(4)
UNIT_BOX = gymnasium.spaces.Box(0.0, 1.0, (4,))
STILL = gymnasium.spaces.Box(0.0, 0.0, (1,))
REAL = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
CONFIGS = {
    "plain": MemoryConfig(hidden_size=6),
    "separate": MemoryConfig(hidden_size=6, separate_value=True, learn_start=True),
    "layer_norm": MemoryConfig(hidden_size=6, layer_norm=True),
    "state": MemoryConfig(hidden_size=6, head="state", head_hidden_sizes=(4, 3)),
    "film": MemoryConfig(hidden_size=6, head="film", head_hidden_sizes=(4, 3), separate_value=True),
    "hyper": MemoryConfig(hidden_size=6, head="hyper", head_hidden_sizes=(4, 3)),
    "bottleneck": MemoryConfig(hidden_size=6, head="hyper", head_hidden_sizes=(3,), hyper_size=2, hyper_init="kaiming"),
    "bilinear": MemoryConfig(hidden_size=6, head="hyper", head_hidden_sizes=()),
    "belief": MemoryConfig(hidden_size=6, head="state", head_hidden_sizes=(4,), belief_size=2, belief_gradient=True),
    "linear_belief": MemoryConfig(hidden_size=6, belief_size=2, belief_gradient=True),
    "transformer": MemoryConfig(hidden_size=8, memory="transformer", num_layers=2, num_attention_heads=2),
    "learned": MemoryConfig(8, memory="transformer", num_attention_heads=1, positions="learned", separate_value=True),
    "set": MemoryConfig(hidden_size=6, memory="set", num_layers=2, head="state", head_hidden_sizes=(4,)),
    "set_hyper": MemoryConfig(6, memory="set", head="hyper", head_hidden_sizes=(3,), separate_value=True),
    "transformer_belief": MemoryConfig(
        8, memory="transformer", head="film", head_hidden_sizes=(3,), belief_size=2, belief_gradient=True
    ),
    "tabular_transformer": MemoryConfig(8, memory="transformer", outer_input=True, per_state_heads=True),
    "tabular_set": MemoryConfig(6, memory="set", outer_input=True, per_state_heads=True),
    "tabular": MemoryConfig(hidden_size=6, outer_input=True, per_state_heads=True, output_scale=1.0),
}


def arguments(time=5, rows=4, size=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = ((time, rows, 3 * size), (rows, size), (3 * size, size), (size,))
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def trial(policy: MemoryPolicy, rows=5, time=7, dtype=torch.float64, seed=0):
    """What `rows` trials show, `[rows, time, ...]`, as `encode` wants it."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, time)
    if policy.places > 1:
        state = torch.randint(4, shape, generator=generator)
        observation = nn.functional.one_hot(state, 4).to(dtype)
    else:
        observation = torch.randn(*shape, policy.encoder.num_observations, generator=generator, dtype=dtype)
    action = torch.randint(2, shape, generator=generator)
    if not policy.encoder.is_discrete:
        action = torch.randn(*shape, 2, generator=generator, dtype=dtype)
    reward = torch.randn(shape, generator=generator, dtype=dtype)
    ended = torch.rand(shape, generator=generator) < 0.3
    return observation, observation.roll(1, 1), action, reward, ended


def made(name, discrete=True, dtype=torch.float64, seed=0):
    actions = gymnasium.spaces.Discrete(2) if discrete else gymnasium.spaces.Box(-1.0, 1.0, (2,))
    observations = ONE_HOT if "tabular" in name else REAL
    return perturbed(CONFIGS[name], observations, actions, seed).to(dtype)


def perturbed(config, observations, actions=gymnasium.spaces.Discrete(2), seed=0):  # noqa: B008
    policy = make_memory_policy(config, observations, actions, rng.torch_generator(seed, "policy"), longest=7)
    with torch.no_grad():  # nothing may hide behind a zero
        for index, parameter in enumerate(policy.parameters()):
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    return policy.double()


def same_state(state, expected, tolerance):
    """Caches may have room for more steps."""
    first, second = pytree.tree_leaves(state), pytree.tree_leaves(expected)
    for one, other in zip(first, second, strict=True):
        if torch.is_tensor(one) and one.dim() == 5:
            one = one[:, :, :, : other.shape[3]]
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_it_is_torchs_gru(dtype, tolerance):
    gates, state, weight, bias = arguments(time=9, dtype=dtype)
    oracle = nn.GRU(9, 3, dtype=dtype)
    with torch.no_grad():
        oracle.weight_ih_l0.copy_(torch.eye(9))
        oracle.bias_ih_l0.zero_()
        oracle.weight_hh_l0.copy_(weight)
        oracle.bias_hh_l0.copy_(torch.cat([torch.zeros(6), bias]))
    expected, _ = oracle(gates, state[None])
    ours = gru_function(gates, state, weight, bias)
    torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(gru_recorded(gates, state, weight, bias), expected, rtol=0, atol=tolerance)
    inputs = [gates, state, weight]
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
    theirs = torch.autograd.grad(expected, [gates, state, oracle.weight_hh_l0, oracle.bias_hh_l0], cotangent)
    mine = torch.autograd.grad(ours, [*inputs, bias], cotangent)
    for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        torch.testing.assert_close(one, other[6:] if index == 3 else other, rtol=0, atol=30 * tolerance)


@pytest.mark.thorough
def test_its_derivatives_are_those_of_finite_differences():
    gradcheck(gru_function, arguments())
    gradgradcheck(gru_function, arguments(time=3, rows=2, size=2))


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_sequence_is_its_steps(name, discrete, dtype, tolerance):
    if "tabular" in name and not discrete:
        with pytest.raises(ValueError, match=r"policy\.outer_input=True: it is for discrete actions"):
            made(name, discrete)
        return
    policy = made(name, discrete, dtype)
    inputs = policy.encode(*trial(policy, dtype=dtype))
    state = policy.initial_state(5)
    whole = policy(inputs, state)
    for t in range(7):
        now = inputs.map(lambda field, t=t: field[:, t])
        with torch.no_grad():
            step = policy.act(now, state)
        torch.testing.assert_close(step.value, whole.value[:, t], rtol=0, atol=5 * tolerance)
        for one, other in zip(step.distribution, whole.distribution, strict=True):
            torch.testing.assert_close(one, other[:, t], rtol=0, atol=5 * tolerance)
        state = step.state
    same_state(state, whole.state, 5 * tolerance)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_sequence_can_be_cut_and_carried_on(name):
    policy = made(name)
    inputs = policy.encode(*trial(policy))
    whole = policy(inputs, policy.initial_state(5))
    first, second = inputs.map(lambda field: field[:, :3]), inputs.map(lambda field: field[:, 3:])
    start = policy(first, policy.initial_state(5))
    rest = policy(second, start.state)
    torch.testing.assert_close(torch.cat([start.value, rest.value], 1), whole.value, rtol=0, atol=1e-12)
    same_state(rest.state, whole.state, 1e-12)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["plain", "separate", "layer_norm", "bilinear", "tabular"])
def test_every_parameter_has_the_gradient_of_finite_differences(name):
    gradcheck(*of_parameters(made(name)))


@pytest.mark.thorough
@pytest.mark.parametrize("head", ["linear", "state", "film", "hyper"])
@pytest.mark.parametrize("memory", ["gru", "transformer", "set"])
def test_every_memory_and_head_has_the_derivatives_of_finite_differences(memory, head):
    """Along random directions; the second ones are the products that a trust-region step needs."""
    sizes = {} if head == "linear" else {"head_hidden_sizes": (3,)}
    if memory == "transformer":
        sizes["num_attention_heads"] = 2
    observations = STILL if (memory, head) == ("set", "linear") else REAL
    config = MemoryConfig(4, memory, head, belief_size=2, belief_gradient=True, separate_value=True, **sizes)
    function, parameters = of_parameters(perturbed(config, observations), rows=2, time=3)
    gradcheck(function, parameters, fast_mode=True)
    gradgradcheck(function, parameters, fast_mode=True)


def of_parameters(policy, rows=2, time=3):
    """The logits and values as a function of the parameters, and these."""
    inputs = policy.encode(*trial(policy, rows=rows, time=time))
    parameters = dict(policy.named_parameters())

    def outputs(*values):
        named = dict(zip(parameters, values, strict=True))
        seen = torch.func.functional_call(
            _Whole(policy), {f"policy.{key}": value for key, value in named.items()}, (inputs,)
        )
        return seen[0], seen[1]

    return outputs, list(parameters.values())


class _Whole(nn.Module):
    """A policy from the start of a trial on, a learned one included."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, inputs):
        output = self.policy(inputs, self.policy.initial_state(len(inputs.features)))
        return output.distribution.logits, output.value


@pytest.mark.parametrize("name", CONFIGS)
def test_trials_do_not_see_each_other(name):
    """Permuting rows permutes the results; changing a row changes nothing in another."""
    policy = made(name)
    seen = trial(policy)
    start = policy.initial_state(5)
    output = policy(policy.encode(*seen), start)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = policy(policy.encode(*(field[order] for field in seen)), start)
    torch.testing.assert_close(permuted.value, output.value[order], rtol=0, atol=1e-14)
    torch.testing.assert_close(permuted.distribution.logits, output.distribution.logits[order], rtol=0, atol=1e-14)
    other = trial(policy, seed=1)
    changed = [torch.cat([theirs[:1], ours[1:]]) for ours, theirs in zip(seen, other, strict=True)]
    after = policy(policy.encode(*changed), start)
    assert torch.equal(after.value[1:], output.value[1:])
    assert (after.value[0] != output.value[0]).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_what_comes_later_changes_nothing(name):
    policy = made(name)
    seen = trial(policy)
    output = policy(policy.encode(*seen), policy.initial_state(5))
    other = trial(policy, seed=1)
    changed = [torch.cat([ours[:, :4], theirs[:, 4:]], 1) for ours, theirs in zip(seen, other, strict=True)]
    after = policy(policy.encode(*changed), policy.initial_state(5))
    torch.testing.assert_close(after.value[:, :4], output.value[:, :4], rtol=0, atol=1e-15)
    assert (after.value[:, 4] != output.value[:, 4]).all()


@pytest.mark.parametrize("part", range(5))
def test_every_input_is_read(part):
    """Observation, last observation, action, reward and the end of an episode."""
    policy = made("tabular")
    seen = list(trial(policy))
    before = policy(policy.encode(*seen), policy.initial_state(5)).value
    seen[part] = ~seen[part] if part == 4 else seen[part].roll(1, 0)
    assert not torch.equal(policy(policy.encode(*seen), policy.initial_state(5)).value, before)


def test_inputs_by_hand():
    policy = made("tabular")
    observation = torch.eye(4, dtype=torch.float64)[[2, 1]]
    last = torch.eye(4, dtype=torch.float64)[[0, 3]]
    action, reward, ended = torch.tensor([-1, 1]), torch.tensor([0.0, -2.5]).double(), torch.tensor([False, True])
    inputs = policy.encode(observation, last, action, reward, ended)
    expected = [[0.0, 0, 1, 0, 0, 0, 0, 0], [0.0, 1, 0, 0, 0, 1, -2.5, 1]]
    torch.testing.assert_close(inputs.features, torch.tensor(expected).double())
    assert inputs.pair.tolist() == [8, 3 * 2 + 1], "8 stands for nothing yet"
    assert inputs.place.tolist() == [2, 1]


def test_an_observation_that_never_changes_is_one_state():
    bandit = gymnasium.spaces.Box(0.0, 0.0, (1,))
    config = MemoryConfig(hidden_size=6, outer_input=True)
    policy = make_memory_policy(config, bandit, gymnasium.spaces.Discrete(3), torch.Generator())
    nothing, action = torch.zeros(2, 1), torch.tensor([-1, 2])
    inputs = policy.encode(nothing, nothing, action, torch.tensor([0.0, 1.0]), torch.tensor([False, True]))
    assert inputs.pair.tolist() == [3, 2]
    with pytest.raises(ValueError, match="outer_input=True: it is for one-hot observations "):
        make_memory_policy(config, REAL, gymnasium.spaces.Discrete(3), torch.Generator())


def test_the_outer_input_and_the_heads_are_what_one_hot_vectors_give():
    """Against dense products with onehot(s, a), r · onehot(s, a) and onehot(s)."""
    policy = made("tabular")
    inputs = policy.encode(*trial(policy))
    pairs = nn.functional.one_hot(inputs.pair, 9).double()
    dense = torch.cat([pairs, inputs.reward[..., None] * pairs], -1)
    body = policy.body
    gates = nn.functional.linear(inputs.features, body.weight_input, body.bias_input) + dense @ body.pair
    hidden = gru_recorded(gates.transpose(0, 1), policy.initial_state(5), body.weight_hidden, body.bias_hidden)
    hidden = hidden.transpose(0, 1)
    place = nn.functional.one_hot(inputs.place, 4).double()
    weights = policy.action_weight.unflatten(0, (4, 2))
    logits = torch.einsum("rts,sah,rth->rta", place, weights, hidden) + place @ policy.action_bias.unflatten(0, (4, 2))
    output = policy(inputs, policy.initial_state(5))
    torch.testing.assert_close(output.distribution.logits, logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(hidden_size=0), "hidden_size=0: need at least 1"),
        (dict(output_scale=-1.0), "output_scale=-1.0: need at least 0"),
        (dict(init_log_std=-20.0), "init_log_std=-20.0: need at least min_log_std"),
        (
            dict(head="state", head_hidden_sizes=(), head_activation="relu"),
            r"head_activation='relu': it is for hidden layers, got head_hidden_sizes=\(\); need 'tanh'",
        ),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MemoryConfig(**change)


def test_the_log_variances_of_a_belief_are_bounded_for_its_readers_too():
    policy = made("belief")
    with torch.no_grad():
        policy.belief.weight[2:] *= 1e9  # rows of the log-variances
    inputs = policy.encode(*trial(policy))
    belief = policy.believe(inputs)
    assert belief.log_var.abs().unique().tolist() == [20.0]
    read = inputs._replace(belief=torch.cat(belief, -1))
    state = policy.initial_state(5)
    torch.testing.assert_close(policy(inputs, state).distribution.logits, policy(read, state).distribution.logits)


@pytest.mark.parametrize("name", ["outer_input", "per_state_heads"])
@pytest.mark.parametrize("observations", [REAL, UNIT_BOX])
def test_settings_for_one_hot_observations_are_refused_with_others(name, observations):
    with pytest.raises(ValueError, match=rf"policy\.{name}=True: it is for one-hot observations .*OneHot.*, got Box"):
        make_memory_policy(
            MemoryConfig(**{name: True}), observations, gymnasium.spaces.Discrete(2), rng.torch_generator(0, "policy")
        )


def test_other_action_spaces_are_refused():
    with pytest.raises(ValueError, match="policies for Box and Discrete actions only"):
        make_memory_policy(MemoryConfig(), REAL, gymnasium.spaces.MultiBinary(3), rng.torch_generator(0, "policy"))
