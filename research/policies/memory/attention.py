"""Attention with derivatives of every order, and rotary positions.

    attention(Q, K, V) = softmax(Q Kᵀ / √d + mask) V                (Vaswani et al. 2017, arXiv:1706.03762, equation 1)

torch's fused kernels compute values and first derivatives without the matrix of probabilities in memory; they have no
second derivative. Where a graph of the gradient is needed, the formula is computed again and recorded.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def attention(
    query: Float[Tensor, "rows heads queries size"],
    key: Float[Tensor, "rows heads keys size"],
    value: Float[Tensor, "rows heads keys size"],
) -> Float[Tensor, "rows heads queries size"]:
    """Returns causal attention; the last query is at the time of the last key.

    Args:
        query: Q.
        key: K, of at least as many times.
        value: V.
    """
    leaves = (query, key, value)
    if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves):
        return _Attention.apply(*leaves)  # type: ignore[no-untyped-call]
    return _fused(*leaves)


def attention_recorded(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Returns `attention` of the arguments, recorded operation by operation."""
    scores = (query @ key.mT) / math.sqrt(query.shape[-1])
    return scores.masked_fill(~_visible(query, key), -torch.inf).softmax(-1) @ value


def rotate(
    vectors: Float[Tensor, "*axes time parts heads size"], first: int
) -> Float[Tensor, "*axes time parts heads size"]:
    """Returns vectors rotated by angles that grow with the time, so that products depend on distances alone.

    Pair j of dimensions turns by t · 10000^(−2j/d) (Su et al. 2021, arXiv:2104.09864, section 3.2.2).

    Args:
        vectors: Queries and keys.
        first: The time of the first of them.
    """
    time, size = vectors.shape[-4], vectors.shape[-1]
    exponents = torch.arange(size // 2, dtype=torch.float64, device=vectors.device) * (-2 / size)
    times = torch.arange(first, first + time, dtype=torch.float64, device=vectors.device)
    angles = (times.unsqueeze(-1) * 10_000.0**exponents)[:, None, None, :]
    cos, sin = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    one, other = vectors.chunk(2, -1)
    return torch.cat([one * cos - other * sin, other * cos + one * sin], -1)


def _visible(query: Tensor, key: Tensor) -> Tensor:
    """Returns whether each query sees each key, `[queries, keys]`."""
    queries, keys = query.shape[-2], key.shape[-2]
    return torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    queries, keys = query.shape[-2], key.shape[-2]
    if queries == 1:
        return F.scaled_dot_product_attention(query, key, value)
    if queries == keys:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=_visible(query, key))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        leaves = [leaf.detach().requires_grad_() for leaf in inputs]  # leaves of a graph of their own
        with torch.enable_grad():
            output = _fused(*leaves)
        ctx.save_for_backward(*inputs)
        ctx.inner = output, leaves
        return output.detach()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            output, leaves = ctx.inner
            return torch.autograd.grad(output, leaves, cotangents, retain_graph=True)
        inputs = ctx.saved_tensors
        wanted = [leaf for leaf in inputs if leaf.requires_grad]
        found = iter(torch.autograd.grad(attention_recorded(*inputs), wanted, cotangents, create_graph=True))
        return tuple(next(found) if leaf.requires_grad else None for leaf in inputs)
