"""Losses of one task: they know no environment and no optimiser.

All are to be minimised, and are averages over valid steps where they do not say otherwise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from research.distributions import Distribution
from research.returns import masked_mean
from research.types import Forward


class PolicyBatch(NamedTuple):
    """The episodes of one task as a policy loss reads them; a batch of tasks has a leading `[tasks]` on every field.

    Attributes:
        observation: `[episodes, time, obs]`.
        action: `[episodes, time, act]`, or `[episodes, time]` when discrete.
        advantage: `[episodes, time]`.
        log_prob: `[episodes, time]`, of the action under the policy that took it.
        valid: `[episodes, time]` bool.
    """

    observation: Tensor
    action: Tensor
    advantage: Tensor
    log_prob: Tensor
    valid: Tensor


def reinforce(policy: Forward, batch: PolicyBatch) -> Tensor:
    """−mean(log π(a|s) · A), the policy-gradient loss (Williams 1992). Scalar."""
    distribution: Distribution = policy(batch.observation)
    return -masked_mean(distribution.log_prob(batch.action) * batch.advantage, batch.valid)


def surrogate(distribution: Distribution, batch: PolicyBatch) -> Tensor:
    """−mean(π(a|s) / π_old(a|s) · A), the importance-sampled loss (Schulman et al. 2015, arXiv:1502.05477, eq. 14).

    Takes the distribution at `batch.observation`, as its caller needs it for the KL divergence too. Scalar.
    """
    ratio = (distribution.log_prob(batch.action) - batch.log_prob).exp()
    return -masked_mean(ratio * batch.advantage, batch.valid)


def clipped_surrogate(distribution: Distribution, batch: PolicyBatch, clip_eps: float) -> Tensor:
    """−mean min(ρ A, clip(ρ, 1 − ε, 1 + ε) A), ρ = π(a|s) / π_old(a|s), ε = `clip_eps`. Scalar.

    Schulman et al. 2017, arXiv:1707.06347, eq. 7. Takes the distribution at `batch.observation`.
    """
    ratio = (distribution.log_prob(batch.action) - batch.log_prob).exp()
    return clipped_loss(ratio, batch.advantage, batch.valid, clip_eps)


def clipped_loss(ratio: Tensor, advantage: Tensor, valid: Tensor, clip_eps: float) -> Tensor:
    """`clipped_surrogate` of the probability ratios. Scalar."""
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
    return -masked_mean((ratio * advantage).minimum(clipped * advantage), valid)


def clip_fraction(distribution: Distribution, batch: PolicyBatch, clip_eps: float) -> Tensor:
    """The fraction of valid steps whose probability ratio is beyond 1 ± `clip_eps`, in either direction. Scalar."""
    return ratio_clip_fraction((distribution.log_prob(batch.action) - batch.log_prob).exp(), batch.valid, clip_eps)


def ratio_clip_fraction(ratio: Tensor, valid: Tensor, clip_eps: float) -> Tensor:
    """`clip_fraction` of the probability ratios. Scalar."""
    return masked_mean(((ratio - 1).abs() > clip_eps).to(ratio.dtype), valid)


def value_error(value: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """½ mean (V − target)² over valid steps. Scalar."""
    return 0.5 * masked_mean((value - target).square(), valid)


def dice(policy: Forward, batch: PolicyBatch) -> Tensor:
    """−mean(⊡(w_t) · (ρ_t − ⊥ρ_t) · A_t), whose derivatives of every order are estimates of the return's. Scalar, 0.

    w_t = Σ_{t'<t} log π(a_t'|s_t') within the episode, ⊡(w) = exp(w − ⊥w) = 1, ρ_t = π(a_t|s_t) / π_old(a_t|s_t), and
    ⊥ stops the gradient. ∇ is that of the surrogate; ∇² has its terms and ρ_t (∇log π_t ∇w_tᵀ + ∇w_t ∇log π_tᵀ) A_t,
    by which an action also changes how often later states are met. Where π = π_old this is Loaded DiCE with λ = 1
    (Farquhar et al. 2019, arXiv:1909.10549, section 4; DiCE: Foerster et al. 2018, arXiv:1802.05098), without the
    factor γᵗ, as in every loss here. It reads the order of the steps: episodes must not be joined along time.
    """
    distribution: Distribution = policy(batch.observation)
    log_prob = distribution.log_prob(batch.action)
    ratio = (log_prob - batch.log_prob).exp()
    past = log_prob.cumsum(-1) - log_prob  # valid steps come first, so none beyond an episode's end is in it
    box = (past - past.detach()).exp()
    return -masked_mean(box * (ratio - ratio.detach()) * batch.advantage, batch.valid)


def sampling_credit(policy: Forward, batch: PolicyBatch, outcome: Tensor) -> Tensor:
    """Σ π(a|s) / π_old(a|s) · ⊥outcome over all valid steps of all episodes: a sum. Scalar.

    Its gradient where π = π_old is ∇log p(D) · outcome, with p(D) the probability of the whole batch: the part of
    ∇E_D[outcome(D)] that stems from which episodes are sampled (Stadie et al. 2018, arXiv:1803.01118;
    Rothfuss et al. 2019, arXiv:1810.06784, section 4).

    Args:
        policy: The policy that sampled the batch.
        batch: Its episodes. The advantages are not read.
        outcome: Scalar to be minimised, what became of these episodes.
    """
    distribution: Distribution = policy(batch.observation)
    ratio = (distribution.log_prob(batch.action) - batch.log_prob).exp()
    return (ratio * batch.valid).sum() * outcome.detach()  # a score-function term: the outcome is a weight


def mean_kl(old: Any, new: Any, valid: Tensor) -> Tensor:
    """mean KL(old ‖ new) over valid steps. Scalar."""
    return masked_mean(old.kl(new), valid)


def mean_entropy(distribution: Distribution, valid: Tensor) -> Tensor:
    """Mean entropy over valid steps, in nats. Scalar."""
    return masked_mean(distribution.entropy(), valid)
