"""The compiled GRU against torch: values, gradients, graphs of gradients, and the form without a compiler."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck, gradgradcheck

from research import native
from research.policies import gru_kernel
from research.policies.gru_function import gru_recorded
from research.policies.gru_kernel import GRUWeights, gru, kernel, project

DTYPES = [(torch.float32, 2e-6), (torch.float64, 1e-12)]
SHAPES = [(7, 5, 3, 2, 0), (6, 100, 16, 5, 4), (1, 49, 20, 1, 3), (5, 1, 1, 9, 1), (3, 13, 33, 17, 0)]
"""Time, rows, units, features and pairs; 100 and 49 rows are several blocks."""


def arguments(time, rows, size, features, pairs, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    constants = (
        random(time, rows, features),
        torch.randint(pairs, (time, rows), generator=generator) if pairs else None,
        random(time, rows) if pairs else None,
    )
    shapes = ((rows, size), (3 * size, features), (3 * size,), (3 * size, size), (size,), (2 * pairs, 3 * size))
    leaves = [random(*shape).div_(2).requires_grad_() for shape in shapes[: 6 if pairs else 5]]
    return constants, leaves


def compiled(constants, state, *weights):
    return gru(*constants, state, GRUWeights(*weights))


def recorded(constants, state, *weights):
    weights = GRUWeights(*weights)
    return gru_recorded(project(*constants, weights), state, weights.weight, weights.bias)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_states_and_gradients_are_those_of_torch(shape, dtype, tolerance):
    constants, leaves = arguments(*shape, dtype)
    ours, expected = compiled(constants, *leaves), recorded(constants, *leaves)
    assert kernel(dtype, torch.device("cpu")) is not None
    torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)
    cotangent = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    mine, theirs = (torch.autograd.grad(output, leaves, cotangent) for output in (ours, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(1.0, float(other.abs().max())))
    with torch.no_grad():
        assert torch.equal(compiled(constants, *leaves), ours), "no gates are kept without a graph"


@pytest.mark.parametrize("rows", [100, 145, 3])
def test_threads_over_the_rows_change_no_bit(rows, monkeypatch):
    """Also where gates are kept, and with more threads than blocks of rows."""
    constants, leaves = arguments(4, rows, 16, 5, 4)
    expected = compiled(constants, *leaves)
    gradient = torch.autograd.grad(expected.square().sum(), leaves)
    monkeypatch.setattr(gru_kernel, "_WORTH_A_THREAD", 1)
    for num_threads in (2, 3, 8):
        ours = gru(*constants, leaves[0], GRUWeights(*leaves[1:]), num_threads)
        assert torch.equal(ours, expected)
        own = torch.autograd.grad(ours.square().sum(), leaves)
        assert all(torch.equal(one, other) for one, other in zip(own, gradient, strict=True))


@pytest.mark.thorough
@pytest.mark.parametrize("pairs", [0, 3])
def test_derivatives_of_first_and_second_order_are_those_of_finite_differences(pairs):
    constants, leaves = arguments(3, 4, 2, 2, pairs)
    gradcheck(lambda *given: compiled(constants, *given), leaves)
    gradgradcheck(lambda *given: compiled(constants, *given), leaves)


def test_any_layout_in_memory_is_read():
    constants, (state, *weights) = arguments(4, 6, 5, 3, 2)
    expected = compiled(constants, state[:1].expand(6, -1), *weights)
    other = [None if leaf is None else leaf.transpose(0, 1).contiguous().transpose(0, 1) for leaf in constants]
    turned = [leaf.mT.contiguous().mT if leaf.ndim == 2 else leaf for leaf in weights]
    found = compiled(other, state[:1].expand(6, -1), *turned)
    assert torch.equal(found, expected)
    cotangent = torch.ones(4, 1, 1, dtype=torch.float64).expand_as(found)
    ours, theirs = (torch.autograd.grad(output, weights, cotangent) for output in (found, expected))
    assert all(torch.equal(one, same) for one, same in zip(ours, theirs, strict=True))
    pairs = (compiled(other, state[:1].expand(6, -1), *turned), compiled(constants, state[:1].expand(6, -1), *weights))
    ours, theirs = (torch.autograd.grad(output, weights, cotangent, create_graph=True) for output in pairs)
    for one, same in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, same, rtol=0, atol=1e-12)


def test_gates_are_kept_for_a_backward_pass_alone(monkeypatch):
    kept, sequence = [], gru_kernel._sequence
    monkeypatch.setattr(gru_kernel, "_sequence", lambda *given: kept.append(given[-1] is not None) or sequence(*given))
    constants, leaves = arguments(4, 6, 5, 3, 2)
    found = compiled(constants, *leaves)
    with torch.no_grad():
        assert torch.equal(compiled(constants, *leaves), found)
    assert kept == [True, False]


@pytest.mark.parametrize("other", ["dtype", "features", "units"])
def test_tensors_that_do_not_fit_are_errors(other):
    """C would read beyond them."""
    (features, pair, reward), (state, *weights) = arguments(4, 6, 5, 3, 2)
    if other == "dtype":
        features, reward, state = features.float(), reward.float(), state.float()
    elif other == "features":
        features = features[..., :-1]
    else:
        weights[3] = weights[3][:-1]
    with pytest.raises((RuntimeError, TypeCheckError)):  # of torch, or of the checks of shapes in tests
        compiled((features, pair, reward), state, *weights)


def test_a_row_has_the_same_bits_in_any_block():
    constants, leaves = arguments(5, 100, 9, 4, 3, torch.float32)
    whole = compiled(constants, *leaves)
    for rows in (slice(0, 1), slice(47, 52), slice(30, 100)):
        part = compiled([leaf[:, rows] for leaf in constants], leaves[0][rows], *leaves[1:])
        assert torch.equal(part, whole[:, rows])


def test_a_network_without_rows_or_steps_has_no_gradient():
    for time, rows in ((0, 3), (2, 0)):
        constants, leaves = arguments(time, rows, 4, 2, 2)
        gradient = torch.autograd.grad(compiled(constants, *leaves).sum(), leaves)
        assert all((leaf == 0).all() for leaf in gradient)


@pytest.mark.parametrize("index", [-1, 3])
def test_a_pair_that_is_not_in_the_table_is_refused(index):
    (features, pair, reward), leaves = arguments(4, 3, 5, 2, 3)
    pair[2, 1] = index
    with pytest.raises(IndexError, match=r"pair: got .*, need 0 to 2"):
        compiled((features, pair, reward), *leaves)


def test_pairs_of_another_integer_type_are_read_by_torch():
    (features, pair, reward), leaves = arguments(4, 3, 5, 2, 3)
    expected = compiled((features, pair, reward), *leaves)
    found = compiled((features, pair.int(), reward), *leaves)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_torch_computes_without_a_compiler_and_for_other_types(monkeypatch):
    constants, leaves = arguments(4, 3, 5, 2, 2)
    expected = compiled(constants, *leaves)
    assert kernel(torch.float16, torch.device("cpu")) is None and kernel(torch.float32, torch.device("meta")) is None
    monkeypatch.setattr(native, "library", lambda *_args: None)
    found = compiled(constants, *leaves)
    assert "_GRU" in type(found.grad_fn).__name__
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("real", ["float", "double"])
def test_it_compiles_without_a_warning(real, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = (*native.KERNEL, f"-DREAL={real}", "-Wall", "-Wextra", "-Werror")
    assert native.compiled(gru_kernel._SOURCE, options).exists()
