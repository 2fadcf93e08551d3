"""Estimators of the meta-gradient, by the key that chooses one: what adaptation descends while it is differentiated.

The meta-gradient of a task with one inner step, θ' = θ − α ∇L(θ; D), is

    ∇ E_D[J(θ')] = E_D[(I − α ∇²L(θ; D)) ∇J(θ')] + E_D[∇log p(D) · J(θ')]

and the estimators differ in ∇²L and in whether they have the second term. Where the parameters are those that sampled
the batch, ∇L is the same for all. With g_t = ∇log π(a_t|s_t) and w_t = Σ_{t'<t} g_t', averaged over steps:

    maml    −∇²L = ∇²log π_t A_t                                          (Finn et al. 2017, arXiv:1703.03400)
    e_maml  as maml, and the second term                                  (Stadie et al. 2018, arXiv:1803.01118)
    lvc     −∇²L = (∇²log π_t + g_t g_tᵀ) A_t                             (Rothfuss et al. 2019, arXiv:1810.06784)
    dice    −∇²L = (∇²log π_t + g_t g_tᵀ + g_t w_tᵀ + w_t g_tᵀ) A_t       (Farquhar et al. 2019, arXiv:1909.10549)

Only dice's has the Hessian of the return as its expectation (discount 1, advantages that are right in expectation).
lvc leaves out how earlier actions change which states later ones are chosen in, and is far less noisy for it; it is
exact for a horizon of 1. maml also leaves out g gᵀ; what remains depends on the baseline, and with a softmax policy and
exact advantages it is 0 in expectation: first order, in effect. e_maml alone is unbiased for the left side at every
number of episodes, but its noise does not fall with that number. docs/results/estimators.md has the measurements.

An outer loop that makes several updates with the same episodes moves the parameters away from those that sampled. lvc
and dice then weigh each action by π/π_old, with the recorded log-probabilities below (as ProMP does), so
that ∇L is the importance-weighted gradient; the change of the state distribution is left out, as in PPO. dice
does not weigh by the product of all ratios so far, which would be exact but whose variance grows exponentially with the
horizon: there ⊥π_θ is the denominator. maml and e_maml treat the episodes as if they were fresh, as in their papers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from research.losses import PolicyBatch, dice, reinforce, sampling_credit, surrogate
from research.types import Forward


class Estimator(NamedTuple):
    """How a meta-gradient is estimated.

    Attributes:
        inner_loss: `(policy, batch) -> scalar`, the loss of one inner step on one task. vmappable.
        sampling_loss: None, or `(policy, batch, outcome) -> scalar`, to be added to the outer loss of a task once for
            each of its inner batches, with `policy` at the parameters that the batch was sampled with, as a function of
            the meta-parameters (for the first batch: those themselves). `outcome` is a scalar, minus the return after
            adaptation, minus a baseline that does not depend on this task's inner batches (for instance the mean over
            the other tasks), in the units of the outer loss: per step where that is a mean over steps, and divided by
            the same deviation where its advantages are.
        reads_episodes: Whether `inner_loss` reads the order of steps, so that steps of different episodes must not be
            put in one row.
    """

    inner_loss: Callable[[Forward, PolicyBatch], Tensor]
    sampling_loss: Callable[[Forward, PolicyBatch, Tensor], Tensor] | None = None
    reads_episodes: bool = False


def low_variance_curvature(policy: Forward, batch: PolicyBatch) -> Tensor:
    """−mean(π(a|s) / π_old(a|s) · A), the inner loss of ProMP (Rothfuss et al. 2019, arXiv:1810.06784, section 5)."""
    return surrogate(policy(batch.observation), batch)


ESTIMATORS: dict[str, Estimator] = {
    "maml": Estimator(reinforce),
    "e_maml": Estimator(reinforce, sampling_loss=sampling_credit),
    "dice": Estimator(dice, reads_episodes=True),
    "lvc": Estimator(low_variance_curvature),
}
