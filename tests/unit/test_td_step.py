"""td_step.c against PyTorch: values, TD errors and gradients of networks of all shapes."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from research import native
from research.algorithms.value import td_step
from research.algorithms.value.learner import FlatNetwork
from research.policies.q_network import DuelingQNetwork, QNetwork
from research.td import TransitionBatch, td_loss, values_at

DTYPES = {torch.float64: 1e-12, torch.float32: 1e-4}


def make(sizes, activation, tasks, dtype, rows):
    """Networks of every task with a flat form, and a minibatch."""
    network = QNetwork(sizes, activation, generator=torch.Generator().manual_seed(0)).to(dtype)
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    leading = (tasks,) if tasks else ()
    params = {name: 0.5 * normal(*leading, *value.shape) for name, value in network.named_parameters()}
    action = torch.randint(sizes[-1], (*leading, rows), generator=generator)
    observation = normal(*leading, rows, sizes[0])
    batch = TransitionBatch(
        observation, action, normal(*leading, rows), normal(*leading, rows), observation, normal(*leading, rows).abs()
    )
    return network, FlatNetwork(network, params), batch


def close(ours, theirs, dtype):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=DTYPES[dtype] * float(theirs.abs().max()))


SHAPES = [
    ((3, 6, 5, 4), 0, 8),
    ((4, 40, 33, 2), 0, 64),
    ((1, 2), 0, 5),
    ((2, 64, 64, 5), 3, 100),
    ((7, 17, 3), 2, 1),
    ((5, 30, 30, 30, 1), 0, 70),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("sizes", "tasks", "rows"), SHAPES)
def test_values_errors_and_gradients(sizes, tasks, rows, activation, dtype):
    network, flat, batch = make(sizes, activation, tasks, dtype, rows)
    assert flat.compiled is not None, "the tests are to run with a C compiler"
    leaves = {name: value.requires_grad_() for name, value in flat.params().items()}
    values = functional_call(network, leaves, (batch.observation,))
    close(flat.compiled.values(batch.observation), values.detach(), dtype)
    for kind in ("huber", "mse"):
        error = values_at(values, batch.action) - batch.reward
        loss = td_loss(error, batch.weight, kind).sum()
        expected = flat.flatten(torch.autograd.grad(loss, list(leaves.values()), retain_graph=True))
        gradient = torch.full_like(flat.flat, torch.nan)
        close(flat.compiled.gradient(batch, batch.reward, kind, gradient), error.detach(), dtype)
        close(gradient, expected, dtype)


def test_units_that_are_zero_everywhere_are_left_out_without_a_trace():
    network, flat, batch = make((4, 40, 33, 2), "relu", 0, torch.float64, 64)
    params = flat.params()
    params["value.0.bias"][5:35] = -100.0
    params["value.2.bias"][:20] = -100.0
    flat.flat.copy_(flat.flatten(list(params.values())))
    leaves = {name: value.requires_grad_() for name, value in flat.params().items()}
    error = values_at(functional_call(network, leaves, (batch.observation,)), batch.action) - batch.reward
    expected = torch.autograd.grad(td_loss(error, batch.weight, "huber"), list(leaves.values()))
    assert float((expected[2] == 0).double().mean()) > 0.8, "few units are zero: this test shows nothing"
    gradient = torch.full_like(flat.flat, torch.nan)
    close(flat.compiled.gradient(batch, batch.reward, "huber", gradient), error.detach(), torch.float64)
    close(gradient, flat.flatten(expected), torch.float64)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_task_gets_the_numbers_that_it_gets_alone(activation):
    network, flat, batch = make((2, 20, 20, 5), activation, 3, torch.float32, 100)
    gradient = torch.empty_like(flat.flat)
    error = flat.compiled.gradient(batch, batch.reward, "huber", gradient)
    values = flat.compiled.values(batch.observation)
    for task in range(3):
        alone = FlatNetwork(network, {name: value[task] for name, value in flat.params().items()})
        own, part = torch.empty_like(alone.flat), TransitionBatch(*(field[task] for field in batch))
        assert torch.equal(alone.compiled.gradient(part, part.reward, "huber", own), error[task])
        assert torch.equal(own, gradient[task])
        assert torch.equal(alone.compiled.values(part.observation), values[task])


def test_values_of_a_row_do_not_depend_on_the_number_of_rows():
    _, flat, batch = make((4, 40, 33, 2), "tanh", 0, torch.float32, 200)
    together = flat.compiled.values(batch.observation)
    assert torch.equal(flat.compiled.values(batch.observation[:67]), together[:67])
    one = flat.compiled.values_of_one(batch.observation[3].numpy())
    close(torch.from_numpy(one), together[3], torch.float32)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_value_that_is_not_a_number_stays_visible(activation):
    _, flat, batch = make((3, 6, 5, 4), activation, 0, torch.float32, 8)
    batch.observation[2] = torch.nan
    gradient = torch.empty_like(flat.flat)
    error = flat.compiled.gradient(batch, batch.reward, "huber", gradient)
    assert error.isnan().tolist() == [row == 2 for row in range(8)]
    assert gradient.isnan().any()
    assert flat.compiled.values(batch.observation)[2].isnan().all()
    assert torch.from_numpy(flat.compiled.values_of_one(batch.observation[2].numpy())).isnan().all()


@pytest.mark.parametrize("action", [-1, 4])
def test_an_action_that_the_network_has_not_is_refused(action):
    _, flat, batch = make((3, 6, 5, 4), "relu", 2, torch.float64, 8)
    batch.action[1, 7] = action
    with pytest.raises(IndexError, match="action: need actions from 0 to 3"):
        flat.compiled.gradient(batch, batch.reward, "huber", torch.empty_like(flat.flat))


def test_other_networks_and_machines_without_a_compiler_use_pytorch(monkeypatch):
    network, flat, batch = make((3, 6, 5, 4), "relu", 0, torch.float64, 8)
    dueling = DuelingQNetwork((3, 6, 5, 4), "relu", generator=torch.Generator().manual_seed(0))
    assert FlatNetwork(dueling, dict(dueling.named_parameters())).compiled is None
    params = flat.params()
    assert td_step.td_step_of(network, dict(reversed(params.items())), flat.flat) is None
    assert td_step.td_step_of(network, params, flat.flat.to(torch.bfloat16)) is None
    monkeypatch.setattr(native, "library", lambda *_: None)
    plain = FlatNetwork(network, params)
    assert plain.compiled is None
    close(plain.values(batch.observation), flat.values(batch.observation), torch.float64)


@pytest.mark.parametrize("tasks", [0, 2])
def test_a_network_with_its_own_forward_is_computed_by_it(tasks):
    class Negative(QNetwork):
        def forward(self, observation):
            return -super().forward(observation)

    _, plain, batch = make((3, 6, 5, 4), "relu", tasks, torch.float64, 8)
    negative = Negative((3, 6, 5, 4), "relu", generator=torch.Generator()).double()
    ours = FlatNetwork(negative, plain.params())
    torch.testing.assert_close(ours.values(batch.observation), -plain.values(batch.observation))
