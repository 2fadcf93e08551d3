"""The import hook of conftest.py is on, and knows the shapes that vmap leaves to a function."""

import pytest
import torch
from jaxtyping import TypeCheckError

from research.policies.baseline import features
from research.returns import discounted_returns


def test_a_wrong_shape_is_refused():
    with pytest.raises(TypeCheckError, match="observation"):
        features(torch.zeros(3), torch.arange(1))


def test_other_types_are_left_to_mypy():
    assert discounted_returns(torch.ones(2), 1).tolist() == [2, 1]


def test_shapes_are_those_of_one_task_under_vmap():
    def first_reward_to_go(reward: torch.Tensor) -> torch.Tensor:
        return discounted_returns(reward, 0.5)[0]

    gradients = torch.func.vmap(torch.func.grad(first_reward_to_go))(torch.ones(4, 3))
    torch.testing.assert_close(gradients, torch.tensor([1.0, 0.5, 0.25]).expand(4, 3))
