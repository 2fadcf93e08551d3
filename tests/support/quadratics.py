"""Lookahead on quadratics, where a cycle is a linear map: Zhang et al. 2019, arXiv:1907.08610, sections 3.1 and 3.2.

The loss is ½ a (θ − θ*)², with a curvature a for each direction: a diagonal quadratic. Errors are θ − θ*. γ is the
learning rate of the fast weights, β their momentum, and α and k are those of Lookahead. α = 1 is the fast optimiser.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from research.validation import at_least, one_of


def contraction(
    curvature: Float[Tensor, "*directions"], lr: float, k: int, alpha: float
) -> Float[Tensor, "*directions"]:
    """What a cycle of k steps of gradient descent multiplies the error by: 1 − α + α (1 − γa)^k."""
    at_least({"k": k}, 1, "k")
    return 1 - alpha + alpha * (1 - lr * curvature) ** k


def heavy_ball_cycle(
    curvature: Float[Tensor, "*directions"],
    lr: float,
    momentum: float,
    k: int,
    alpha: float,
    inner_state: Literal["maintain", "reset", "pullback"] = "maintain",
) -> Float[Tensor, "*directions 2 2"]:
    """The linear map of (error, momentum buffer) by a cycle of k steps of gradient descent with momentum.

    One step, b ← βb + a(θ − θ*), θ ← θ − γb, is B = [[1 − γa, −γβ], [a, β]]. With e₁ = (1, 0) a cycle is

        maintain   [(1 − α) e₁ᵀ + α (Bᵏ)₁ ;  (Bᵏ)₂]      the error is pulled back, the buffer goes on
        pullback   (1 − α) I + α Bᵏ                      both are
        reset      [(1 − α) + α (Bᵏ)₁₁, 0 ;  0, 0]       the buffer is 0 when a cycle starts

    Raises:
        ValueError: There is no such `inner_state`, or `k` is below 1.
    """
    at_least({"k": k}, 1, "k")
    one_of({"inner_state": inner_state}, "inner_state", ("maintain", "reset", "pullback"))
    one, bend = torch.ones_like(curvature), curvature
    rows = [[one - lr * bend, -lr * momentum * one], [bend, momentum * one]]
    step = torch.stack([torch.stack(row, -1) for row in rows], -2)
    pulled = (1 - alpha) * torch.eye(2, dtype=step.dtype) + alpha * torch.linalg.matrix_power(step, k)
    if inner_state == "maintain":
        return torch.stack([pulled[..., 0, :], torch.linalg.matrix_power(step, k)[..., 1, :]], -2)
    if inner_state == "reset":
        return pulled * torch.tensor([[1, 0], [0, 0]], dtype=step.dtype)
    return pulled


def variance_ratio(
    curvature: Float[Tensor, "*directions"], lr: float, k: int, alpha: float
) -> Float[Tensor, "*directions"]:
    """The stationary variance of the slow weights over that of SGD, on ½ a (θ − c)² with a fresh normal c every step.

        V_LA / V_SGD = α² (1 − r²ᵏ) / (α² (1 − r²ᵏ) + 2 α (1 − α) (1 − rᵏ)),   r = 1 − γa

    Below 1 for every α < 1 and 0 < γa < 2 (proposition 2 there; V_SGD is `sgd_variance`).
    """
    at_least({"k": k}, 1, "k")
    r = 1 - lr * curvature
    fast = alpha**2 * (1 - r ** (2 * k))
    return fast / (fast + 2 * alpha * (1 - alpha) * (1 - r**k))


def sgd_variance(curvature: Float[Tensor, "*directions"], lr: float, noise_std: float) -> Float[Tensor, "*directions"]:
    """The stationary variance of SGD there: γ²a²σ² / (1 − (1 − γa)²), σ the deviation of c."""
    return (lr * curvature * noise_std) ** 2 / (1 - (1 - lr * curvature) ** 2)


def best_alpha(
    curvature: Float[Tensor, "*axes n n"], error: Float[Tensor, "*axes n"], move: Float[Tensor, "*axes n"]
) -> Float[Tensor, "*axes"]:
    """The α with the least loss along a move d from an error e: α* = −dᵀAe / (dᵀAd) (proposition 1 there)."""
    bent = torch.einsum("...ij,...j->...i", curvature, move)
    return -(bent * error).sum(-1) / (bent * move).sum(-1)
