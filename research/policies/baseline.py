"""Linear feature baseline: a value function that is fitted to each batch of episodes.

Duan et al. 2016 (arXiv:1604.06778), as used by Finn et al. 2017 (arXiv:1703.03400).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from research.returns import discounted_returns
from research.types import Trajectories

_TIME_SCALE = 100.0
_OBSERVATION_CLIP = 10.0


def features(
    observation: Float[Tensor, "*batch steps obs"], time: Int[Tensor, "*#batch steps"]
) -> Float[Tensor, "*batch steps features"]:
    """Returns [s, s², τ, τ², τ³, 1] of each step, with s clipped to ±10 and τ = time/100, from the episode's start."""
    clipped = observation.clamp(-_OBSERVATION_CLIP, _OBSERVATION_CLIP)
    tau = (time.to(observation.dtype) / _TIME_SCALE).unsqueeze(-1).expand(*observation.shape[:-1], 1)
    return torch.cat([clipped, clipped**2, tau, tau**2, tau**3, torch.ones_like(tau)], -1)


def fit_values(
    trajectories: Trajectories, discount: float, ridge: float = 1e-5
) -> tuple[Float[Tensor, "tasks episodes time"], Float[Tensor, "tasks episodes"]]:
    """Returns the values of all steps, and of the last observation, by ridge regression on the discounted returns.

    w = (ΦᵀΦ + ridge·I)⁻¹ Φᵀ G over the valid steps of one task, solved in float64. The time of `last_observation` is
    that after the last valid step.
    """
    observation = trajectories.observation
    phi = features(observation, torch.arange(observation.shape[-2], device=observation.device)).double()
    returns = discounted_returns(trajectories.reward, discount).double()
    weighted = phi * trajectories.valid.unsqueeze(-1)
    gram = torch.einsum("betf,betg->bfg", weighted, phi)
    target = torch.einsum("betf,bet->bf", weighted, returns)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram + ridge * identity, target)
    value = torch.einsum("betf,bf->bet", phi, weights)
    last_phi = features(trajectories.last_observation, trajectories.valid.sum(-1)).double()
    last = torch.einsum("bef,bf->be", last_phi, weights)
    dtype = trajectories.reward.dtype
    return value.to(dtype), last.to(dtype)
