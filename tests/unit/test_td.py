"""Temporal differences against hand-computed numbers, and what the semi-gradient sees."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from research.td import TransitionBatch, semi_gradient_loss, td_cotangent, td_loss, td_target, values_at


def batch(**changes):
    fields = dict(
        observation=torch.tensor([[1.0], [2.0], [3.0]]),
        action=torch.tensor([0, 1, 1]),
        reward=torch.tensor([1.0, 2.0, 3.0]),
        bootstrap=torch.tensor([0.9, 0.0, 0.81]),  # one step; the task ended; two steps
        next_observation=torch.tensor([[2.0], [3.0], [4.0]]),
        weight=torch.tensor([1.0, 0.5, 1.0]),
    )
    return TransitionBatch(**{**fields, **changes})


TARGET = torch.tensor([[1.0, 4.0], [9.0, 9.0], [2.0, -1.0]])
ONLINE = torch.tensor([[5.0, 3.0], [0.0, 1.0], [0.0, 7.0]])


def test_targets_by_hand():
    torch.testing.assert_close(td_target(batch(), TARGET), torch.tensor([1 + 0.9 * 4, 2.0, 3 + 0.81 * 2]))
    double = torch.tensor([1 + 0.9 * 1, 2.0, 3 + 0.81 * -1])
    torch.testing.assert_close(td_target(batch(), TARGET, ONLINE), double)


def test_losses_by_hand():
    error, weight = torch.tensor([0.5, -3.0, 1.0]), torch.tensor([1.0, 0.5, 2.0])
    torch.testing.assert_close(td_loss(error, weight, "mse"), torch.tensor((0.125 + 0.5 * 4.5 + 2 * 0.5) / 3))
    torch.testing.assert_close(td_loss(error, weight, "huber"), torch.tensor((0.125 + 0.5 * 2.5 + 2 * 0.5) / 3))


@pytest.mark.parametrize("kind", ["mse", "huber"])
def test_the_cotangent_is_the_derivative_of_the_loss_for_each_task(kind):
    error = (3 * torch.randn(4, 9)).requires_grad_()
    weight = torch.rand(4, 9)
    (expected,) = torch.autograd.grad(td_loss(error, weight, kind).sum(), error)
    torch.testing.assert_close(td_cotangent(error.detach(), weight, kind), expected)


def test_a_task_axis_changes_nothing():
    pair = TransitionBatch(*(torch.stack([field, 2 * field.clamp_max(1)]) for field in batch()))._replace(
        action=torch.tensor([[0, 1, 1], [1, 1, 0]])
    )
    targets = td_target(pair, torch.stack([TARGET, ONLINE]), torch.stack([ONLINE, TARGET]))
    for task, (mine, other) in enumerate(((TARGET, ONLINE), (ONLINE, TARGET))):
        own = TransitionBatch(*(field[task] for field in pair))
        torch.testing.assert_close(targets[task], td_target(own, mine, other))
        torch.testing.assert_close(
            values_at(torch.stack([TARGET, ONLINE]), pair.action)[task], values_at(mine, own.action)
        )


def test_the_semi_gradient_holds_the_target_fixed():
    weight = torch.tensor([[0.3], [-0.2]], dtype=torch.float64, requires_grad=True)
    now = TransitionBatch(*(field.double() if field.is_floating_point() else field for field in batch()))
    loss = semi_gradient_loss(lambda seen: seen @ weight.T, now, "mse")
    target = td_target(now, (now.next_observation @ weight.T).detach())
    error = values_at(now.observation @ weight.T, now.action) - target
    expected = torch.stack([(error * now.weight * now.observation[:, 0])[now.action == a].sum() / 3 for a in (0, 1)])
    (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
    torch.testing.assert_close(gradient[:, 0], expected)
    (second,) = torch.autograd.grad(gradient[0, 0], weight)
    torch.testing.assert_close(second[:, 0], torch.tensor([1.0 / 3, 0.0], dtype=torch.float64))


def test_shapes_that_do_not_match_are_refused():
    values, action, error = torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), torch.zeros(2, 3)
    for call in (
        lambda: values_at(values, action),
        lambda: td_target(batch(), TARGET, ONLINE[:2]),
        lambda: td_loss(error, error[0], "mse"),
        lambda: td_cotangent(error[0], error[0, :2], "huber"),
    ):
        with pytest.raises(TypeCheckError):
            call()
