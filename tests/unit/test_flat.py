"""Named tensors as one vector."""

import pytest
import torch

from research.optim.flat import flatten, norm, unflatten

PARAMS = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor(5.0), "c": torch.zeros(0)}


def test_elements_come_in_the_order_of_the_tensors():
    assert flatten(PARAMS.values()).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("batch_axes", [0, 1])
def test_unflatten_is_the_inverse_and_returns_views(batch_axes):
    params = {name: torch.stack([value, 10 * value]) for name, value in PARAMS.items()}
    vector = flatten(params.values(), batch_axes)
    assert vector.shape == ((10,), (2, 5))[batch_axes]
    views = unflatten(vector, params, batch_axes)
    assert list(views) == list(params)
    assert all(torch.equal(views[name], value) for name, value in params.items())
    views["b"].fill_(7.0)
    assert (vector == 7.0).sum() == 2, "a change of a view changes the vector"


def test_the_norm_is_that_of_all_tensors_together():
    assert norm({"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}) == 5.0
