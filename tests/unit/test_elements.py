"""elements.c: the sync of Lookahead against its formula, and the tensors that it leaves to PyTorch."""

from __future__ import annotations

import pytest
import torch

from research.optim.elements import function_for, pull


class Other(torch.Tensor):
    """A kind of tensor that may compute otherwise."""


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 2e-7)])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8, 1.0])
def test_the_sync_of_several_tensors(alpha, dtype, tolerance):
    shapes, generator = [(3, 41), (), (0,), (1000,)], torch.Generator().manual_seed(0)
    slow, fast = ([torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes] for _ in range(2))
    expected = [then + alpha * (now - then) for then, now in zip(slow, fast, strict=True)]
    before = [now.clone() for now in fast]
    assert pull(slow, fast, alpha)
    for then, now, value in zip(slow, fast, expected, strict=True):
        assert torch.equal(then, now)
        torch.testing.assert_close(now, value, rtol=4 * tolerance, atol=4 * tolerance)
    if alpha == 1:
        assert all(torch.equal(now, value) for now, value in zip(fast, before, strict=True))


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(3, 2).mT,
        torch.zeros(2, 3, dtype=torch.bfloat16),
        torch.zeros(2, 3, dtype=torch.complex64),
        torch.zeros(2, 3, dtype=torch.float64),
        torch.zeros(2, 3).to_sparse(),
        torch.zeros(2, 3, device="meta"),
        torch.zeros(2, 3).as_subclass(Other),
    ],
)
def test_other_tensors_are_left_to_pytorch(other):
    plain = torch.zeros(2, 3)
    assert function_for("adam", plain) is not None
    assert not pull([plain], [other], 0.5)
    assert not pull([other], [plain], 0.5)


@pytest.mark.parametrize("which", [0, 1])
def test_autograd_notices_a_pull(which):
    pair = [torch.ones(5, requires_grad=True), torch.zeros(5, requires_grad=True)]
    loss = pair[which].square().sum()
    with torch.no_grad():
        assert pull(pair[:1], pair[1:], 0.5)
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()
