from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from research.distributions import Categorical, DiagGaussian
from research.policies import CategoricalMLP, GaussianMLP, PolicyConfig, make_policy
from research.policies.mlp import TaskLinear, mlp


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def by_hand(params, inputs, activation, prefix):
    """The network as matrix products, for one task."""
    layers = sorted({int(name.removeprefix(prefix).split(".")[0]) for name in params if name.startswith(prefix)})
    for layer in layers:
        inputs = inputs @ params[f"{prefix}{layer}.weight"].T + params[f"{prefix}{layer}.bias"]
        if layer != layers[-1]:
            inputs = activation(inputs)
    return inputs


@pytest.mark.parametrize(("activation", "function"), [("tanh", torch.tanh), ("relu", torch.relu)])
@pytest.mark.parametrize("hidden", [(), (5,), (6, 4)])
@pytest.mark.parametrize("batch", [(), (7,), (2, 3), (2, 3, 4)])
def test_outputs_by_hand(activation, function, hidden, batch):
    policy = GaussianMLP(3, 2, PolicyConfig(hidden, activation, init_log_std=-0.5), generator()).double()
    params = {name: value + 0.1 * numbers(*value.shape) for name, value in policy.named_parameters()}
    observation = numbers(*batch, 3, seed=1)
    distribution = functional_call(policy, params, (observation,))
    torch.testing.assert_close(distribution.mean, by_hand(params, observation, function, "mean."))
    torch.testing.assert_close(distribution.log_std, params["log_std"].expand(*batch, 2))


@pytest.mark.parametrize("kind", [GaussianMLP, CategoricalMLP])
@pytest.mark.parametrize("batch", [(4,), (2, 3)])
def test_parameters_with_a_task_axis_give_what_each_task_gives_alone(kind, batch):
    policy = kind(3, 2, PolicyConfig((5, 4)), generator()).double()
    params = {name: numbers(6, *value.shape, seed=len(name)) for name, value in policy.named_parameters()}
    observation = numbers(6, *batch, 3, seed=1)
    together = functional_call(policy, params, (observation,))
    for task in range(6):
        alone = functional_call(policy, {n: value[task] for n, value in params.items()}, (observation[task],))
        torch.testing.assert_close(tuple(field[task] for field in together), tuple(alone))


def test_gradients_of_the_task_axis_are_those_of_each_task():
    layer = TaskLinear(3, 2).double()
    weight, bias, inputs = (t.requires_grad_() for t in (numbers(4, 2, 3), numbers(4, 2), numbers(4, 5, 3, seed=1)))

    def together(w, b, x):
        return functional_call(layer, {"weight": w, "bias": b}, (x,))

    def one_by_one(w, b, x):
        return torch.stack([nn.functional.linear(x[i], w[i], b[i]) for i in range(4)])

    assert torch.autograd.gradcheck(together, (weight, bias, inputs))
    torch.testing.assert_close(together(weight, bias, inputs), one_by_one(weight, bias, inputs))


def test_the_layers_vmap_as_linear_layers_do():
    layer, plain = TaskLinear(3, 2).double(), nn.Linear(3, 2).double()
    params = {"weight": numbers(4, 2, 3), "bias": numbers(4, 2)}
    for inputs in (numbers(4, 5, 3), numbers(4, 3), numbers(4, 2, 5, 3)):
        ours, theirs = (
            torch.func.vmap(lambda p, x, m=module: functional_call(m, p, (x,)))(params, inputs)
            for module in (layer, plain)
        )
        torch.testing.assert_close(ours, theirs)


def test_log_std_has_a_floor_with_no_gradient_below_it():
    policy = GaussianMLP(2, 2, PolicyConfig((), min_log_std=-1.0), generator())
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([-3.0, 0.5]))
    log_std = policy(torch.zeros(1, 2)).log_std
    assert log_std.tolist() == [[-1.0, 0.5]]
    (gradient,) = torch.autograd.grad(log_std.sum(), policy.log_std)
    assert gradient.tolist() == [0.0, 1.0]


def test_initial_weights_fill_the_glorot_interval_and_biases_are_zero():
    network = mlp((200, 300, 100), "tanh", generator())
    for layer, (fan_in, fan_out) in zip((network[0], network[2]), ((200, 300), (300, 100)), strict=True):
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert 0.999 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
        assert layer.weight.mean().abs() < 0.01 * bound
        assert (layer.bias == 0).all()
    assert [type(module) for module in network] == [TaskLinear, nn.Tanh, TaskLinear]


@pytest.mark.parametrize("kind", [GaussianMLP, CategoricalMLP])
def test_output_scale_shrinks_the_last_layer_alone(kind):
    plain, small = (kind(3, 2, PolicyConfig((5, 4), output_scale=scale), generator()) for scale in (1.0, 0.01))
    for (name, ours), theirs in zip(small.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs * (0.01 if ".4." in name else 1.0))


@pytest.mark.thorough
@given(st.integers(0, 5), st.integers(0, 5))
def test_initial_weights_follow_the_generator_alone(first, second):
    before = torch.get_rng_state()
    ours, theirs = (CategoricalMLP(3, 4, PolicyConfig((5,)), generator(seed)) for seed in (first, second))
    equal = all(torch.equal(*pair) for pair in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert equal == (first == second)
    assert torch.equal(torch.get_rng_state(), before)


def test_spaces_choose_the_policy():
    box = gymnasium.spaces.Box(-np.inf, np.inf, (2, 3), np.float32)
    actions = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    config = PolicyConfig((7,), "relu", init_log_std=-0.7)
    gaussian = make_policy(config, box, actions, generator())
    distribution = gaussian(torch.zeros(5, 6))
    assert isinstance(distribution, DiagGaussian)
    assert distribution.mean.shape == (5, 4)
    torch.testing.assert_close(distribution.log_std, torch.full((5, 4), -0.7))
    categorical = make_policy(PolicyConfig((7,), "relu"), box, gymnasium.spaces.Discrete(9), generator())
    distribution = categorical(torch.zeros(5, 6))
    assert isinstance(distribution, Categorical)
    assert distribution.logits.shape == (5, 9)


@pytest.mark.parametrize("change", [dict(init_log_std=-0.7), dict(min_log_std=-0.7)])
def test_settings_of_continuous_actions_are_refused_with_discrete_ones(change):
    box = gymnasium.spaces.Box(-np.inf, np.inf, (4,))
    with pytest.raises(ValueError, match=r"policy\..*_log_std=-0.7: it is for continuous actions, got Discrete\(9\)"):
        make_policy(PolicyConfig(**change), box, gymnasium.spaces.Discrete(9), generator())


def test_other_action_spaces_are_refused():
    box = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    with pytest.raises(TypeError, match=r"MultiBinary\(3\): there are policies for Box and Discrete actions only"):
        make_policy(PolicyConfig(), box, gymnasium.spaces.MultiBinary(3), generator())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(hidden_sizes=(64, 0)), r"hidden_sizes=\(64, 0\): need at least 1 unit in every layer"),
        (dict(activation="selu"), "activation='selu': need one of 'tanh', 'relu'"),
        (dict(output_scale=-1.0), "output_scale=-1.0: need at least 0"),
        (dict(init_log_std=-20.0), "init_log_std=-20.0: need at least min_log_std"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PolicyConfig(**settings)


def test_impossible_networks_are_refused():
    with pytest.raises(ValueError, match="activation='elu': need one of 'tanh', 'relu'"):
        mlp((2, 3), "elu", generator())
    with pytest.raises(ValueError, match=r"layer sizes \(2, 0\): need at least 1 unit"):
        mlp((2, 0), "tanh", generator())
