"""Products with generated weights: `torch.bmm` on the weights themselves as the oracle, in both orders of the sums."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from research.policies.memory import generated
from research.policies.memory.generated import generated_linear, generated_recorded

SHAPES = {"outer": (3, 4, 6), "generated": (9, 2, 2), "one": (1, 1, 1), "no observation": (2, 0, 3)}
"""Sizes of memory, input and output; with the names of the orders that they lead to."""


def arguments(memory, inputs, outputs, rows=70, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, memory), (rows, inputs), (outputs, inputs + 1, memory), (outputs, inputs + 1))
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def test_both_orders_of_the_sums_are_tested():
    by_outer = [generated._takes_outer(torch.empty(out, 1, memory + 1)) for memory, _, out in SHAPES.values()]
    assert by_outer == [True, False, True, True]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("block", [1, 1000])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_weights_themselves(shape, block, dtype, tolerance, monkeypatch):
    """With several blocks of rows, the last one shorter, and with one."""
    monkeypatch.setattr(generated, "_BLOCK", block)
    leaves = arguments(*SHAPES[shape], dtype=dtype)
    ours, expected = generated_linear(*leaves), generated_recorded(*leaves)
    torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)
    cotangent = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    found, wanted = (torch.autograd.grad(output, leaves, cotangent) for output in (ours, expected))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=10 * tolerance)
    constant = [leaves[0], leaves[1].detach(), *leaves[2:]]
    without = torch.autograd.grad(generated_linear(*constant), [leaves[0], *leaves[2:]], cotangent)
    for one, other in zip(without, (wanted[0], *wanted[2:]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("shape", ["outer", "generated"])
def test_derivatives_are_those_of_finite_differences(shape):
    leaves = arguments(*SHAPES[shape], rows=3)
    gradcheck(generated_linear, leaves, fast_mode=True)
    gradgradcheck(generated_linear, leaves, fast_mode=True)
    leaves[1].requires_grad_(False)
    gradgradcheck(generated_linear, leaves, fast_mode=True)


def test_no_rows():
    leaves = arguments(3, 2, 4, rows=0)
    output = generated_linear(*leaves)
    assert output.shape == (0, 4)
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(output.sum(), leaves))
