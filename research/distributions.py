"""Action distributions: NamedTuples of tensors, so that they pass through vmap and torch's tree functions.

Every method treats the last axis as the action (or its logits) and every axis before it as a batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

_LOG_2PI = math.log(2.0 * math.pi)

Self = TypeVar("Self", bound="Distribution")


class Distribution(Protocol):
    """A distribution of actions, as a policy returns it."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """An action for each batch entry, drawn with `generator` alone. Not differentiable."""

    def mode(self) -> Tensor:
        """The most probable action of each batch entry."""

    def log_prob(self, action: Tensor) -> Tensor:
        """log p(action), summed over action dimensions: `[...]`."""

    def entropy(self) -> Tensor:
        """Entropy in nats: `[...]`."""

    def kl(self: Self, other: Self) -> Tensor:
        """KL(self ‖ other) in nats: `[...]`."""

    def fisher(self: Self, tangent: Self) -> Self:
        """M·tangent, with M the Fisher information of the distribution in its own parameters.

        M is the Hessian of KL(self ‖ ·) at self. `tangent` holds one direction for each parameter.
        """


class DiagGaussian(NamedTuple):
    """A normal distribution with independent dimensions: `mean` and `log_std`, both `[..., act]`."""

    mean: Tensor
    log_std: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return (self.mean + self.log_std.exp() * noise).detach()  # an action is data for what follows

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        scaled = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * scaled * scaled - self.log_std).sum(-1) - 0.5 * _LOG_2PI * action.shape[-1]

    def entropy(self) -> Tensor:
        return (self.log_std + 0.5 * (1.0 + _LOG_2PI)).sum(-1)

    def kl(self, other: DiagGaussian) -> Tensor:
        """Σ log(σ₂/σ₁) + (σ₁² + (μ₁ − μ₂)²) / 2σ₂² − ½."""
        scaled = (self.mean - other.mean) * (-other.log_std).exp()
        log_ratio = self.log_std - other.log_std
        return (0.5 * ((2.0 * log_ratio).exp() + scaled * scaled - 1.0) - log_ratio).sum(-1)

    def fisher(self, tangent: DiagGaussian) -> DiagGaussian:
        """(μ̇ / σ², 2 · log-σ tangent): the information is 1/σ² for a mean and 2 for a log standard deviation."""
        return DiagGaussian(tangent.mean * (-2.0 * self.log_std).exp(), 2.0 * tangent.log_std)


class Categorical(NamedTuple):
    """A distribution over `n` actions by unnormalised `logits`, `[..., n]`. Actions are int64 without the last axis."""

    logits: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        # The Gumbel trick: argmax(logits − log(−log u)) is distributed as softmax(logits).
        uniform = torch.rand(self.logits.shape, generator=generator, dtype=self.logits.dtype, device=self.logits.device)
        tiny = torch.finfo(uniform.dtype).tiny
        return (self.logits - (-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()).argmax(-1)

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        log_probs = self.logits.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def kl(self, other: Categorical) -> Tensor:
        """Σ p₁ (log p₁ − log p₂)."""
        log_probs = self.logits.log_softmax(-1)
        return (log_probs.exp() * (log_probs - other.logits.log_softmax(-1))).sum(-1)

    def fisher(self, tangent: Categorical) -> Categorical:
        """(diag(p) − p pᵀ) · tangent."""
        probs = self.logits.softmax(-1)
        weighted = probs * tangent.logits
        return Categorical(weighted - probs * weighted.sum(-1, keepdim=True))
