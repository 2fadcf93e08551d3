"""Action distributions: NamedTuples of tensors, so that they pass through vmap and torch's tree functions.

The last axis of every field is that of the action (or of its logits); all axes before it are a batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, Self

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

_LOG_2PI = math.log(2.0 * math.pi)


MAX_LOG_VAR = 20.0
"""Largest absolute log-variance of a network: σ from 4.5e-5 to 2.2e4. Ratios of variances are finite in float32."""


def bounded_log_var(outputs: Tensor) -> Tensor:
    """Returns outputs of a network as log-variances, clamped to ±`MAX_LOG_VAR`; what is beyond has the gradient 0."""
    return outputs.clamp(-MAX_LOG_VAR, MAX_LOG_VAR)


class Distribution(Protocol):
    """The output of a policy. Actions are `[batch, act]` if they are continuous, `[batch]` int64 if discrete."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Returns an action for each batch entry, drawn with `generator` alone. Not differentiable."""

    def mode(self) -> Tensor:
        """Returns the most probable action of each batch entry."""

    def log_prob(self, action: Shaped[Tensor, "*_"]) -> Float[Tensor, "*batch"]:
        """Returns log p(action), summed over action dimensions."""

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Returns the entropy in nats (the differential entropy of continuous actions)."""

    def log_prob_and_entropy(
        self, action: Shaped[Tensor, "*_"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Returns `log_prob(action)` and `entropy()`; what both need is computed once."""

    def kl(self, other: Self) -> Float[Tensor, "*batch"]:
        """Returns KL(self ‖ other) in nats."""

    def fisher(self, tangent: Self) -> Self:
        """Returns M · tangent, with M the Fisher information of the distribution in its own parameters.

        M is the Hessian of KL(self ‖ ·) at self. `tangent` holds one direction for each parameter.
        """


class DiagGaussian(NamedTuple):
    """A normal distribution with independent dimensions, by its mean and log standard deviation."""

    mean: Float[Tensor, "*batch act"]
    log_std: Float[Tensor, "*batch act"]

    def sample(self, generator: torch.Generator) -> Float[Tensor, "*batch act"]:
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return (self.mean + self.log_std.exp() * noise).detach()  # an action is data

    def mode(self) -> Float[Tensor, "*batch act"]:
        return self.mean

    def log_prob(self, action: Float[Tensor, "*batch act"]) -> Float[Tensor, "*batch"]:
        scaled = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * scaled * scaled - self.log_std).sum(-1) - 0.5 * _LOG_2PI * action.shape[-1]

    def entropy(self) -> Float[Tensor, "*batch"]:
        return (self.log_std + 0.5 * (1.0 + _LOG_2PI)).sum(-1)

    def log_prob_and_entropy(
        self, action: Float[Tensor, "*batch act"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        return self.log_prob(action), self.entropy()

    def kl(self, other: DiagGaussian) -> Float[Tensor, "*batch"]:
        """Returns Σ log(σ₂/σ₁) + (σ₁² + (μ₁ − μ₂)²) / 2σ₂² − ½."""
        scaled = (self.mean - other.mean) * (-other.log_std).exp()
        log_ratio = self.log_std - other.log_std
        return (0.5 * ((2.0 * log_ratio).exp() + scaled * scaled - 1.0) - log_ratio).sum(-1)

    def fisher(self, tangent: DiagGaussian) -> DiagGaussian:
        """Returns (tangent of μ / σ², 2 · tangent of log σ)."""
        return DiagGaussian(tangent.mean * (-2.0 * self.log_std).exp(), 2.0 * tangent.log_std)


class Categorical(NamedTuple):
    """A distribution over `n` discrete actions by unnormalised log-probabilities."""

    logits: Float[Tensor, "*batch n"]

    def sample(self, generator: torch.Generator) -> Int[Tensor, "*batch"]:
        # The Gumbel trick: argmax(logits − log(−log u)) is distributed as softmax(logits).
        uniform = torch.rand(self.logits.shape, generator=generator, dtype=self.logits.dtype, device=self.logits.device)
        tiny = torch.finfo(uniform.dtype).tiny
        return (self.logits - (-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()).argmax(-1)

    def mode(self) -> Int[Tensor, "*batch"]:
        return self.logits.argmax(-1)

    def log_prob(self, action: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return self.logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        log_probs = self.logits.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def log_prob_and_entropy(
        self, action: Int[Tensor, "*batch"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        log_probs = self.logits.log_softmax(-1)
        own = log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        return own, -(log_probs.exp() * log_probs).sum(-1)

    def kl(self, other: Categorical) -> Float[Tensor, "*batch"]:
        """Returns Σ p₁ (log p₁ − log p₂)."""
        log_probs = self.logits.log_softmax(-1)
        return (log_probs.exp() * (log_probs - other.logits.log_softmax(-1))).sum(-1)

    def fisher(self, tangent: Categorical) -> Categorical:
        """Returns (diag(p) − p pᵀ) · tangent."""
        probs = self.logits.softmax(-1)
        weighted = probs * tangent.logits
        return Categorical(weighted - probs * weighted.sum(-1, keepdim=True))
