"""FlatAdam against torch's optimisers and its clipping, with and without a compiler."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from research import native
from research.optim import Lookahead, elements
from research.optim.flat_adam import FlatAdam


def steps_of_torch(start, gradients, max_norm, decoupled, lr):
    """The same with torch's plain optimisers and gradient clipping, row by row."""
    rows = [row.clone().requires_grad_() for row in start]
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizers = [kind([row], lr=lr) for row in rows]
    for gradient in gradients:
        for row, part, optimizer in zip(rows, gradient, optimizers, strict=True):
            row.grad = part.clone()
            if max_norm:
                torch.nn.utils.clip_grad_norm_([row], max_norm)
            optimizer.step()
    return torch.stack([row.detach() for row in rows]), [optimizer.state[row] for row, optimizer in zip(
        rows, optimizers, strict=True)]  # fmt: skip


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("max_norm", [0.0, 20.0])
def test_steps_are_those_of_torch(monkeypatch, max_norm, dtype, tolerance, decoupled, compiled):
    if not compiled:
        monkeypatch.setattr(native, "library", lambda *_: None)
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(3, 1500, generator=generator, dtype=torch.float64).to(dtype)
    gradients = (
        torch.randn(7, 3, 1500, generator=generator, dtype=torch.float64) * torch.tensor([[0.1], [1], [10]])
    ).to(dtype)
    expected, states = steps_of_torch(flat, gradients, max_norm, decoupled, 0.01)
    optimizer = FlatAdam(flat, 0.01, max_norm, decoupled)
    assert (elements.function_for("adam", flat) is not None) == compiled
    for gradient in gradients:
        flat.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(flat, expected, rtol=tolerance, atol=tolerance)
    assert float(optimizer.state[flat]["step"]) == 7
    for name in ("exp_avg", "exp_avg_sq"):
        theirs = torch.stack([state[name] for state in states])
        torch.testing.assert_close(optimizer.state[flat][name], theirs, rtol=10 * tolerance, atol=tolerance)


def test_it_goes_on_from_a_checkpoint_of_torch_and_the_other_way_round():
    start, gradient = torch.ones(5, dtype=torch.float64), torch.arange(5.0, dtype=torch.float64)
    ours, theirs = start.clone(), start.clone()
    optimizers = FlatAdam(ours, 0.1), torch.optim.Adam([theirs], lr=0.1)
    for _ in range(3):
        for flat, optimizer in zip((ours, theirs), optimizers, strict=True):
            flat.grad = gradient.clone()
            optimizer.step()
        states = [optimizer.state_dict() for optimizer in optimizers]
        optimizers[0].load_state_dict(states[1])
        optimizers[1].load_state_dict(states[0])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_checkpoint_of_an_older_torch_does_not_change_the_decay(decoupled):
    optimizer = FlatAdam(torch.ones(5), 0.1, decoupled=decoupled)
    state = optimizer.state_dict()
    del state["param_groups"][0]["decoupled_weight_decay"]
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is decoupled


def test_a_state_that_lookahead_emptied_starts_anew():
    flat = torch.ones(4)
    optimizer = Lookahead(FlatAdam(flat, 0.1), k=2, inner_state="reset")
    for _ in range(3):
        flat.grad = torch.ones(4)
        optimizer.step()
    assert float(optimizer.state[flat]["step"]) == 1


def test_a_checkpoint_of_a_sync_that_empties_the_state_has_the_entries_of_any_other():
    flat = torch.ones(4)
    optimizer = Lookahead(FlatAdam(flat, 0.1), k=2, inner_state="reset")
    first = optimizer.state_dict()["state"]
    for _ in range(2):
        flat.grad = torch.ones(4)
        optimizer.step()
    emptied = optimizer.state_dict()["state"]
    assert emptied.keys() == first.keys() == {0} and emptied[0].keys() == first[0].keys()
    assert not any(value.any() for value in emptied[0].values())


def test_a_gradient_that_is_not_a_number_stays_visible():
    flat = torch.ones(2, 40)
    optimizer = FlatAdam(flat, 0.1, max_norm=1.0)
    flat.grad = torch.ones(2, 40)
    flat.grad[1, 3] = torch.nan
    optimizer.step()
    assert flat[0].isfinite().all() and flat[1].isnan().any()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_takes_the_same_steps_with_a_tensor_of_its_own(copied):
    flat = torch.ones(2, 5)
    optimizer = FlatAdam(flat, 0.1, max_norm=1.0, decoupled=True)
    flat.grad = torch.arange(10.0).reshape(2, 5)
    optimizer.step()
    twin = copied(optimizer)
    (other,) = twin.param_groups[0]["params"]
    other.grad = 3 * flat.grad
    before = flat.clone()
    twin.step()
    assert torch.equal(flat, before) and not torch.equal(other, before)
    flat.grad = 3 * flat.grad
    optimizer.step()
    assert torch.equal(flat, other) and twin.max_norm == 1.0
    assert torch.equal(twin.state[other]["exp_avg"], optimizer.state[flat]["exp_avg"])


def test_autograd_notices_a_step():
    flat = torch.ones(5, requires_grad=True)
    optimizer = FlatAdam(flat, 0.1)
    loss = flat.square().sum()
    flat.grad = torch.ones(5)
    optimizer.step()
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()
