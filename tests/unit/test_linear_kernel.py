"""Two compiled linear layers on one memory against torch: outputs, gradients and graphs of gradients."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from research.policies.memory import linear_kernel
from research.policies.memory.linear_kernel import linear_pair

DTYPES = [(torch.float32, 2e-6), (torch.float64, 1e-12)]
SHAPES = [((7, 30), 64, 5, 1), ((1, 1), 3, 2, 1), ((97,), 13, 1, 9), ((4, 100), 33, 17, 8), ((2, 3), 1, 1, 1)]
"""Leading axes, size of the memory and numbers of outputs; some have more than one block of rows."""


def leaves_of(batch, size, first, second, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = ((*batch, size), (first, size), (first,), (second, size), (second,))
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def compiled(memory, first_weight, first_bias, second_weight, second_bias):
    return linear_pair(memory, (first_weight, first_bias), (second_weight, second_bias))


def by_torch(memory, first_weight, first_bias, second_weight, second_bias):
    return F.linear(memory, first_weight, first_bias), F.linear(memory, second_weight, second_bias)


def gradients(function, leaves):
    outputs = function(*leaves)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype) for leaf in outputs]
    return [*(leaf.detach() for leaf in outputs), *torch.autograd.grad(outputs, leaves, cotangents)]


def assert_same(ours, expected, tolerance):
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_are_those_of_torch(shape, dtype, tolerance):
    leaves = leaves_of(*shape, dtype)
    assert "_Pair" in str(compiled(*leaves)[0].grad_fn), "the compiled form is used"
    assert_same(gradients(compiled, leaves), gradients(by_torch, leaves), tolerance)


@pytest.mark.parametrize("cut", [lambda whole: whole[..., -5:], lambda whole: whole[..., 1::2], lambda whole: whole.mT])
def test_a_memory_may_be_part_of_a_larger_tensor(cut):
    """The last numbers of one, where whole vectors would read beyond it, and memories that are not adjacent numbers."""
    memory = cut(torch.randn(3, 50, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    parameters = leaves_of((1,), memory.shape[-1], 3, 1)[1:]
    ours, expected = (gradients(function, [memory.requires_grad_(), *parameters]) for function in (compiled, by_torch))
    assert_same(ours, expected, 1e-12)


def test_derivatives_are_those_of_differences():
    leaves = leaves_of((3, 2), 5, 2, 1)
    assert gradcheck(compiled, leaves) and gradgradcheck(compiled, leaves)


def test_one_output_alone_can_be_differentiated():
    leaves = leaves_of((3, 4), 5, 2, 1)
    for side in (0, 1):
        ours, expected = (
            torch.autograd.grad(function(*leaves)[side].sum(), leaves, allow_unused=True, materialize_grads=True)
            for function in (compiled, by_torch)
        )
        assert_same(ours, expected, 1e-12)


def test_torch_computes_where_c_cannot(monkeypatch):
    leaves = leaves_of((3, 4), 5, 60, 5)
    assert "_Pair" not in str(compiled(*leaves)[0].grad_fn), "many outputs"
    few = leaves_of((3, 4), 5, 2, 1)
    expected = gradients(compiled, few)
    monkeypatch.setattr(linear_kernel, "_load", lambda memory: None)
    assert "_Pair" not in str(compiled(*few)[0].grad_fn)
    assert_same(gradients(compiled, few), expected, 1e-12)
