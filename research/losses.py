"""Losses of one task: they know no environment and no optimiser. All are averages over valid steps, to be minimised."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from research.distributions import Distribution
from research.returns import masked_mean
from research.types import Forward


class PolicyBatch(NamedTuple):
    """What a policy loss reads of one task's episodes; a batch of tasks has a leading `[tasks]` on every field.

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


def mean_kl(old: Any, new: Any, valid: Tensor) -> Tensor:
    """mean KL(old ‖ new) over valid steps. Scalar."""
    return masked_mean(old.kl(new), valid)
