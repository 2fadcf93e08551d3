"""Net2Net: larger networks compute what the smaller ones did, and moments are those that they would have had."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from research import rng
from research.optim.differentiable import UPDATE_RULES, adam, adam_start
from research.policies import CategoricalMLP, GaussianMLP, PolicyConfig
from research.policies.changes import Change
from research.policies.memory import MemoryConfig
from research.policies.memory.inputs import Encoder, Inputs
from research.policies.memory.policy import MemoryPolicy
from research.policies.net2net import net2net
from research.policies.q_network import DuelingQNetwork, QNetwork
from research.policies.units import layout_of

ENCODER = Encoder(3, 2, is_discrete=True)
CHANGES = ((5, 4), (7, 4)), ((5, 4), (5, 11)), ((5, 4), (9, 13)), ((5, 4), (5, 5, 4)), ((5, 4), (8, 8, 8, 6))


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 with all parameters drawn at random, biases and initial states included."""
    network = network.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def params_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def grown(before: nn.Module, after: nn.Module, noise: float = 0.3, seed: int = 1) -> Change:
    """Fills the larger network, and returns the change."""
    params = params_of(before)
    change = net2net(before, after.double(), params, rng.generator(seed, "units"), noise)
    after.load_state_dict(change.params(params))
    return change


def gaussian(sizes: tuple[int, ...], activation: str = "tanh", seed: int = 0) -> nn.Module:
    return randomised(GaussianMLP(3, 2, PolicyConfig(sizes, activation), torch.Generator()), seed)


def q_network(sizes: tuple[int, ...], activation: str = "relu", seed: int = 0) -> nn.Module:
    return randomised(QNetwork((3, *sizes, 2), activation, generator=torch.Generator()), seed)


def memory_policy(seed: int = 0, encoder: Encoder = ENCODER, **settings: Any) -> MemoryPolicy:
    policy = MemoryPolicy(MemoryConfig(**settings), encoder, torch.Generator())
    randomised(policy, seed)
    return policy


def observations(rows: int = 6) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def inputs(encoder: Encoder = ENCODER, rows: int = 4, time: int = 7) -> Inputs:
    """Random inputs of whole trials."""
    generator = torch.Generator().manual_seed(6)
    features = torch.randn(rows, time, encoder.num_features, generator=generator, dtype=torch.float64)
    pair = torch.randint(encoder.num_pairs + 1, (rows, time), generator=generator) if encoder.has_pairs else None
    reward = features[..., 0] if encoder.has_pairs else None
    place = torch.randint(3, (rows, time), generator=generator) if encoder.has_places else None
    return Inputs(features, pair, reward, place)


def responses(policy: MemoryPolicy, seen: Inputs) -> Tensor:
    """Logits or means, and values, of all steps in one tensor."""
    output = policy(seen, policy.initial_state(len(seen.features)))
    return torch.cat([output.distribution[0], output.value.unsqueeze(-1)], -1)


class TestFunctionIsKept:
    @pytest.mark.parametrize("noise", [0.0, 0.3])
    @pytest.mark.parametrize(("small", "large"), CHANGES)
    def test_relu_network(self, small, large, noise):
        before, after = q_network(small), q_network(large, seed=9)
        change = grown(before, after, noise)
        assert change.is_exact
        torch.testing.assert_close(after(observations()), before(observations()), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("noise", [0.0, 0.3])
    @pytest.mark.parametrize(("small", "large"), [pair for pair in CHANGES if len(pair[0]) == len(pair[1])])
    @pytest.mark.parametrize("kind", ["gaussian", "categorical"])
    def test_wider_tanh_policy(self, small, large, noise, kind):
        def policy(sizes: tuple[int, ...]) -> nn.Module:
            make = GaussianMLP if kind == "gaussian" else CategoricalMLP
            return randomised(make(3, 2, PolicyConfig(sizes), torch.Generator()))

        before, after = policy(small), policy(large)
        assert grown(before, after, noise).is_exact
        for now, then in zip(after(observations()), before(observations()), strict=True):
            torch.testing.assert_close(now, then, rtol=0, atol=1e-12)

    def test_float32(self):
        before, after = q_network((5, 4)).float(), q_network((8, 8, 7)).float()
        params = params_of(before)
        change = net2net(before, after, params, rng.generator(0, "units"))
        after.load_state_dict(change.params(params))
        torch.testing.assert_close(after(observations().float()), before(observations().float()), rtol=0, atol=2e-6)

    @pytest.mark.parametrize(
        ("small", "large"),
        [((4,), (6,)), ((5, 4), (7, 9)), ((5, 4), (6, 6, 4)), ((5, 4, 3), (5, 5, 4, 4, 3))],
    )
    def test_dueling_network(self, small, large):
        before, after = (
            randomised(DuelingQNetwork((3, *sizes, 2), "relu", generator=torch.Generator())) for sizes in (small, large)
        )
        grown(before, after)
        torch.testing.assert_close(after(observations()), before(observations()), rtol=0, atol=1e-12)

    @pytest.mark.parametrize(
        ("settings", "encoder"),
        [
            (dict(), ENCODER),
            (dict(learn_start=True, separate_value=True), ENCODER._replace(is_discrete=False)),
            (dict(outer_input=True, per_state_heads=True), ENCODER._replace(has_pairs=True, has_places=True)),
            (dict(belief_size=2, belief_gradient=True), ENCODER),
            (dict(head="state", head_hidden_sizes=(3, 2), separate_value=True), ENCODER),
            (dict(head="film", head_hidden_sizes=(3, 2)), ENCODER),
            (dict(head="hyper", head_hidden_sizes=(3, 2)), ENCODER),
            (dict(head="hyper", head_hidden_sizes=(3, 2), hyper_size=2, learn_start=True), ENCODER),
        ],
    )
    def test_wider_recurrent_policy(self, settings, encoder):
        wider = settings | {"hidden_size": 9}
        if "head_hidden_sizes" in settings:
            wider["head_hidden_sizes"] = (5, 7)
        before = memory_policy(hidden_size=5, encoder=encoder, **settings)
        after = memory_policy(seed=3, encoder=encoder, **wider)
        assert grown(before, after).is_exact
        seen = inputs(encoder)
        torch.testing.assert_close(responses(after, seen), responses(before, seen), rtol=0, atol=1e-11)

    def test_normalised_gru_copies_all_units_equally_often(self):
        before, after = memory_policy(hidden_size=3, layer_norm=True), memory_policy(hidden_size=9, layer_norm=True)
        grown(before, after)
        torch.testing.assert_close(responses(after, inputs()), responses(before, inputs()), rtol=0, atol=1e-10)
        with pytest.raises(ValueError, match="8 units: the layer is normalised, need a multiple of 3"):
            grown(before, memory_policy(hidden_size=8, layer_norm=True))

    def test_nothing_changes_without_a_larger_layer(self):
        before, after = memory_policy(hidden_size=4), memory_policy(hidden_size=4, seed=1)
        change, params = grown(before, after), params_of(before)
        for part in (change.params, change.gradients, change.squares, change.rates):
            assert all(torch.equal(value, params[name]) for name, value in part(params).items())
        assert params.keys() == change.params(params).keys()


class TestDeeperTanh:
    def test_deviation_is_bounded_and_said(self):
        before, after = gaussian((5,)), gaussian((5, 5))
        change = grown(before, after)
        assert not change.is_exact
        readers = params_of(before)["mean.2.weight"].abs().sum(1)
        deviation = (after(observations(500))[0] - before(observations(500))[0]).abs().amax(0)
        assert (deviation <= 0.0301 * readers).all()
        assert deviation.max() > 1e-4  # no layer of tanh is the identity

    def test_saturated_and_silent_units_are_kept(self):
        before, after = gaussian((5,)), gaussian((5, 5, 5))
        with torch.no_grad():
            before.mean[0].weight.zero_()
            before.mean[0].bias.copy_(torch.tensor([40.0, -40.0, 0.0, 40.0, -40.0]))
        grown(before, after)
        torch.testing.assert_close(after(observations())[0], before(observations())[0], rtol=0, atol=1e-12)

    def test_other_activation_is_said(self):
        before, after = gaussian((5,)), gaussian((7,), "relu")
        assert not grown(before, after).is_exact


def gradients(network: nn.Module, loss: Any) -> dict[str, Tensor]:
    names = [name for name, _ in network.named_parameters()]
    found = torch.autograd.grad(loss(network), list(network.parameters()), allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def loss_of_outputs(network: nn.Module) -> Tensor:
    if isinstance(network, MemoryPolicy):
        return (responses(network, inputs()) - 0.3).square().sum()
    output = network(observations())
    return ((output if isinstance(output, Tensor) else output[0]) - 0.3).square().sum()


PAIRS = [
    (lambda: q_network((5, 4)), lambda: q_network((8, 13))),
    (lambda: gaussian((5, 4)), lambda: gaussian((12, 6))),
    (lambda: memory_policy(hidden_size=3), lambda: memory_policy(hidden_size=8)),
    (
        lambda: memory_policy(hidden_size=3, head="film", head_hidden_sizes=(3,), learn_start=True),
        lambda: memory_policy(hidden_size=7, head="film", head_hidden_sizes=(5,), learn_start=True),
    ),
    (
        lambda: memory_policy(hidden_size=3, head="hyper", head_hidden_sizes=(3,)),
        lambda: memory_policy(hidden_size=7, head="hyper", head_hidden_sizes=(5,)),
    ),
    (
        lambda: memory_policy(hidden_size=3, layer_norm=True, separate_value=True),
        lambda: memory_policy(hidden_size=6, layer_norm=True, separate_value=True),
    ),
]


class TestOptimiser:
    @pytest.mark.parametrize(("small", "large"), PAIRS)
    def test_gradients_of_copies(self, small, large):
        before, after = small(), large()
        change = grown(before, after, noise=0.0)
        expected = change.gradients(gradients(before, loss_of_outputs))
        for name, found in gradients(after, loss_of_outputs).items():
            torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-9, msg=name)

    @pytest.mark.parametrize(("small", "large"), PAIRS[:3])
    def test_moments_are_those_that_the_larger_network_would_have_had(self, small, large):
        before, after = small(), large()
        params = params_of(before)
        change = net2net(before, after, params, rng.generator(1, "units"), noise=0.0)
        old, new = adam_start(params), adam_start(change.params(params))
        for seed in range(4):  # at four points, the same for both
            point = params_of(randomised(small(), seed))
            before.load_state_dict(point)
            after.load_state_dict(change.params(point))
            _, old = adam(point, gradients(before, loss_of_outputs), old, 0.1)
            _, new = adam(change.params(point), gradients(after, loss_of_outputs), new, 0.1)
        for name, mean in change.gradients(old.exp_avg).items():
            torch.testing.assert_close(new.exp_avg[name], mean, rtol=1e-9, atol=1e-9)
        for name, square in change.squares(old.exp_avg_sq).items():
            torch.testing.assert_close(new.exp_avg_sq[name], square, rtol=1e-9, atol=1e-9)

    def test_moments_of_an_inserted_layer(self):
        before, after = q_network((5, 4)), q_network((5, 5, 4))
        change = grown(before, after, noise=0.0)
        old, new = gradients(before, loss_of_outputs), gradients(after, loss_of_outputs)
        carried = change.gradients(old)
        for name in set(new) - {"value.2.weight"}:  # nobody knows that one's; the new bias has that of the bias below
            torch.testing.assert_close(new[name], carried[name], rtol=1e-9, atol=1e-12)
        assert not carried["value.2.weight"].any()
        squares = {name: value.square() for name, value in old.items()}
        below = squares["value.0.weight"].mean(1)
        torch.testing.assert_close(change.squares(squares)["value.2.weight"], below[:, None].expand(5, 5))

    @pytest.mark.parametrize(("small", "large"), PAIRS)
    def test_steps_with_a_rate_for_each_element_keep_the_function_too(self, small, large):
        before, after = small(), large()
        change, params = grown(before, after, noise=0.0), params_of(before)
        rates = {name: 1e-3 * (1 + torch.rand_like(value)) for name, value in params.items()}
        for network, own in ((before, rates), (after, change.rates(rates))):
            for _ in range(2):
                found = gradients(network, loss_of_outputs)
                with torch.no_grad():
                    for name, parameter in network.named_parameters():
                        parameter -= own[name] * found[name]
        torch.testing.assert_close(after.state_dict(), change.params(params_of(before)), rtol=1e-8, atol=1e-8)

    def test_one_rate_for_all_does_not(self):
        before, after = q_network((5,)), q_network((8,))
        change = grown(before, after, noise=0.0)
        for network in (before, after):
            found = gradients(network, loss_of_outputs)
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    parameter -= 1e-2 * found[name]
        moved = change.params(params_of(before))
        assert any((value - moved[name]).abs().max() > 1e-3 for name, value in after.state_dict().items())

    def test_weights_beside_the_parameters_keep_their_distance(self):
        before, after = q_network((5, 4)), q_network((9, 9, 4))
        change, fast = grown(before, after), params_of(before)
        slow = params_of(q_network((5, 4), seed=7))
        middle = {name: slow[name] + 0.25 * (value - slow[name]) for name, value in fast.items()}
        new = [change.params(tree) for tree in (slow, fast, middle)]
        for name, value in new[2].items():
            torch.testing.assert_close(value, new[0][name] + 0.25 * (new[1][name] - new[0][name]))

    def test_some_of_the_parameters_alone(self):
        before, after = memory_policy(hidden_size=3), memory_policy(hidden_size=5)
        change, params = grown(before, after), params_of(before)
        part = {name: value for name, value in params.items() if name.startswith("value_")}
        assert change.gradients(part).keys() == part.keys()
        assert change.gradients(part)["value_weight"].shape == (1, 5)


class TestCopies:
    def units(self, network: nn.Module, noise: float, steps: int, rule: str) -> Tensor:
        """The input weights of a unit and its copy after some steps of an optimiser, `[2, inputs]`."""
        before = q_network((1,))
        grown(before, network, noise)
        params, state = params_of(network), None
        for _ in range(steps):
            params, state = UPDATE_RULES[rule](params, gradients(network, loss_of_outputs), state, 1e-3)
            network.load_state_dict(params)
        return params["value.0.weight"]

    @pytest.mark.parametrize("rule", ["sgd", "adam"])
    def test_are_told_apart_by_the_noise_alone(self, rule):
        same = self.units(q_network((2,)), 0.0, 5, rule)
        assert torch.equal(same[0], same[1])
        apart = self.units(q_network((2,)), 0.3, 5, rule)
        assert (apart[0] - apart[1]).abs().max() > 1e-5

    def test_are_as_even_as_possible_and_a_function_of_the_seed(self):
        before, after = q_network((4,)), q_network((10,))
        params = params_of(before)

        def index(seed: int) -> np.ndarray:
            change = net2net(before, after, params, rng.generator(seed, "units"))
            return change.tensors["value.0.bias"].axes[0].origin.numpy()

        for seed in range(5):
            assert sorted(np.bincount(index(seed))) in ([2, 2, 3, 3],)
            assert list(index(seed)[:4]) == [0, 1, 2, 3]
            assert list(index(seed)) == list(index(seed))
        assert any(list(index(seed)) != list(index(0)) for seed in range(1, 5))

    def test_inserts_near_the_output(self):
        before, after = q_network((4, 4)), q_network((4, 4, 4))
        grown(before, after)
        torch.testing.assert_close(after.value[4].weight, torch.eye(4, dtype=torch.float64))


class TestRefusals:
    @pytest.mark.parametrize(
        ("small", "large", "message"),
        [
            ((5, 4), (5, 3), "layers of \\[5, 3\\] units: need those of \\[5, 4\\] or more"),
            ((5, 4), (5,), "need those of \\[5, 4\\]"),
            ((5, 4), (5, 9, 4), "other layers only after one of the same size"),
            ((), (4,), "need those of \\[\\]"),
        ],
    )
    def test_of_sizes(self, small, large, message):
        with pytest.raises(ValueError, match=message):
            grown(q_network(small), q_network(large))

    def test_of_networks(self):
        with pytest.raises(ValueError, match="type Linear: its layout is not known"):
            layout_of(nn.Linear(2, 2))
        with pytest.raises(ValueError, match="memory='transformer': its sizes cannot change"):
            layout_of(MemoryPolicy(MemoryConfig(8, "transformer"), ENCODER, torch.Generator(), 5))
        with pytest.raises(ValueError, match="only the number of units can change"):
            grown(q_network((4,)), randomised(QNetwork((3, 4, 5), "relu", generator=torch.Generator())))
        with pytest.raises(ValueError, match="only the number of units can change"):
            grown(memory_policy(hidden_size=3), memory_policy(hidden_size=3, learn_start=True))
        heads = [memory_policy(hidden_size=3, head="state", head_hidden_sizes=sizes) for sizes in ((3,), (3, 3))]
        with pytest.raises(ValueError, match="need as many layers as before"):
            grown(*heads)

    def test_dueling_body_cannot_begin(self):
        networks = (
            randomised(DuelingQNetwork((3, *sizes, 2), "relu", generator=torch.Generator())) for sizes in ((4,), (4, 4))
        )
        with pytest.raises(ValueError, match="none can be put before the first hidden layer"):
            grown(*networks)


def test_layouts_cover_every_parameter():
    for small, large in itertools.chain(PAIRS):
        for network in (small(), large()):
            layout = layout_of(network)
            shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
            found = {
                name: tuple(sum(block.size for block in axis) for axis in axes) for name, axes in layout.axes.items()
            }
            assert found == shapes
