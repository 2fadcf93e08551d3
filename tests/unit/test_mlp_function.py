"""The one-node perceptron against the same network written with plain operations, whose derivatives autograd makes."""

import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call

from research.policies.mlp import mlp
from research.policies.mlp_function import mlp_function, mlp_output, mlp_output_numpy

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}
SIZES = [(3, 2), (3, 5, 2), (3, 5, 4, 2), (3, 4, 6, 4, 1)]
ROWS = 7


def parameters(sizes):
    generator = torch.Generator().manual_seed(1)
    pairs = list(itertools.pairwise(sizes))
    shapes = [(o, i) for i, o in pairs] + [(o,) for _, o in pairs]
    return [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]


def inputs(features=3):
    return torch.randn(ROWS, features, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def one_node(activation, *params):
    layers = len(params) // 2
    return mlp_function(inputs(), params[:layers], params[layers:], ACTIVATIONS[activation])


def plain(activation, *params):
    layers = len(params) // 2
    output = inputs()
    for layer in range(layers):
        output = output @ params[layer].T + params[layers + layer]
        if layer < layers - 1:
            output = getattr(torch, activation)(output)
    return output


def tower(network, params, height):
    """Gradients of a function of gradients of a function of ... of the network's output."""
    output = network(*params)
    value = (output.sin() * torch.arange(1.0, 1.0 + output.shape[1])).sum()
    floors = []
    for _ in range(height):
        gradients = torch.autograd.grad(value, params, create_graph=True, materialize_grads=True)
        floors += [*gradients]
        value = sum((g * (g + i)).sum() for i, g in enumerate(gradients))
    return floors


@pytest.mark.thorough
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", SIZES)
def test_first_and_second_derivatives_are_those_of_finite_differences(activation, sizes):
    def network(*params):
        return one_node(activation, *params)

    assert torch.autograd.gradcheck(network, parameters(sizes))
    assert torch.autograd.gradgradcheck(network, parameters(sizes))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", SIZES)
def test_derivatives_up_to_the_fourth_are_those_of_plain_operations(activation, sizes):
    params = parameters(sizes)
    ours = tower(lambda *p: one_node(activation, *p), params, 4)
    theirs = tower(lambda *p: plain(activation, *p), params, 4)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_hessian_can_be_multiplied_many_times_and_for_some_parameters_alone(activation):
    """What is kept between products is not used up, and a product for a few parameters is part of that for all."""
    params = parameters((3, 5, 4, 2))
    vectors = [[torch.randn_like(p) for p in params] for _ in range(3)]

    def products(network, wanted):
        gradients = torch.autograd.grad(network(activation, *params).sin().sum(), params, create_graph=True)
        return [
            torch.autograd.grad(gradients, wanted, v, retain_graph=True, materialize_grads=True) for v in vectors * 2
        ]

    for chosen in (params, params[1:2], params[2:4], params[5:]):
        for ours, theirs in zip(products(one_node, chosen), products(plain, chosen), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("which", [[0], [2], [3], [5], [1, 4]])
def test_gradients_of_some_parameters_alone_have_the_derivative_that_they_should(which):
    """Cotangents arrive for some of the gradients only."""
    params = parameters((3, 5, 4, 2))
    results = []
    for network in (one_node, plain):
        value = network("tanh", *params).sin().sum()
        gradients = torch.autograd.grad(value, [params[i] for i in which], create_graph=True)
        total = sum(g.square().sum() for g in gradients)
        results.append(torch.autograd.grad(total, params, materialize_grads=True))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("backward", ["grad", "backward"])
def test_a_frozen_parameter_gets_no_gradient_and_changes_none(backward):
    results = []
    for network in (one_node, plain):
        params = parameters((3, 5, 4, 2))
        params[1].requires_grad_(False)
        free = [p for p in params if p.requires_grad]
        gradients = torch.autograd.grad(network("tanh", *params).sin().sum(), free, create_graph=True)
        total = sum(g.square().sum() for g in gradients)
        if backward == "backward":
            total.backward()
            results.append([p.grad for p in free])
        else:
            results.append(torch.autograd.grad(total, free))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("rows", [(7,), (2, 3)])
def test_the_module_is_one_node_where_gradients_are_wanted_and_equal_to_its_layers(rows):
    network = mlp((3, 5, 4, 2), "tanh", torch.Generator().manual_seed(0)).double()
    seen = torch.randn(*rows, 3, dtype=torch.float64)
    output = network(seen)
    assert any("_MLPBackward" in name for name in graph(output))
    with torch.no_grad():
        torch.testing.assert_close(output, network(seen))
    assert output.shape == (*rows, 2)


def test_inputs_with_a_gradient_and_vmap_use_the_layers():
    network = mlp((3, 5, 2), "tanh", torch.Generator().manual_seed(0)).double()
    seen = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (seen,))
    stacked = {name: torch.stack([p, 2 * p]).detach().requires_grad_() for name, p in network.named_parameters()}
    together = torch.func.vmap(lambda p: functional_call(network, p, (seen.detach(),)))(stacked)
    single = functional_call(network, {name: p[1] for name, p in stacked.items()}, (seen.detach(),))
    torch.testing.assert_close(together[1], single)
    vmapped, alone = (torch.autograd.grad(y.sin().sum(), [*stacked.values()]) for y in (together[1], single))
    torch.testing.assert_close(vmapped, alone)


def test_a_slice_of_the_module_is_those_layers():
    network = mlp((3, 5, 4, 2), "tanh", torch.Generator().manual_seed(0)).double()
    seen = torch.randn(7, 3, dtype=torch.float64)
    body = network[:-1](seen)
    torch.testing.assert_close(body, torch.tanh(network[2](torch.tanh(network[0](seen)))))
    torch.testing.assert_close(network[-1](body), network(seen))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
def test_numpy_gives_the_numbers_of_torch(activation, hidden):
    network = mlp((3, *hidden, 2), activation, torch.Generator().manual_seed(0)).double()
    weights, biases, kind = network.layers()
    layers = [(w.detach().numpy(), b.detach().numpy()) for w, b in zip(weights, biases, strict=True)]
    seen = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = mlp_output(seen, weights, biases, kind)
    torch.testing.assert_close(torch.from_numpy(mlp_output_numpy(seen.numpy(), layers, kind)), expected)
    torch.testing.assert_close(expected, network(seen).detach())


def test_other_activations_use_the_layers():
    network = mlp((3, 5, 4, 2), "tanh", torch.Generator().manual_seed(0)).double()
    network[3] = nn.ReLU()
    seen = torch.randn(7, 3, dtype=torch.float64)
    hidden = torch.tanh(network[0](seen))
    torch.testing.assert_close(network(seen), network[4](torch.relu(network[2](hidden))))
    network[1] = nn.SiLU()
    torch.testing.assert_close(network(seen), network[4](torch.relu(network[2](nn.functional.silu(network[0](seen))))))


def graph(tensor):
    nodes, names = [tensor.grad_fn], []
    while nodes:
        node = nodes.pop()
        names.append(node.name())
        nodes += [following for following, _ in node.next_functions if following is not None]
    return names
