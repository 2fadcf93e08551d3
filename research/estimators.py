"""Estimators of the meta-gradient by name: the loss that adaptation descends while it is differentiated.

The meta-gradient of a task with one inner step, θ' = θ − α ∇L(θ; D), is

    ∇ E_D[J(θ')] = E_D[(I − α ∇²L(θ; D)) ∇J(θ')] + E_D[∇log p(D) · J(θ')]

and the estimators differ in ∇²L and in whether they have the second term. At the parameters that sampled the batch, ∇L
is the same for all. With g_t = ∇log π(a_t|s_t) and w_t = Σ_{t'<t} g_t', averaged over steps:

    maml    −∇²L = ∇²log π_t A_t                                          (Finn et al. 2017, arXiv:1703.03400)
    e_maml  as maml, and the second term                                  (Stadie et al. 2018, arXiv:1803.01118)
    lvc     −∇²L = (∇²log π_t + g_t g_tᵀ) A_t                             (Rothfuss et al. 2019, arXiv:1810.06784)
    dice    −∇²L = (∇²log π_t + g_t g_tᵀ + g_t w_tᵀ + w_t g_tᵀ) A_t       (Farquhar et al. 2019, arXiv:1909.10549)

Only the expectation of dice is the Hessian of the return (with discount 1 and unbiased advantages). lvc omits the
effect of earlier actions on the distribution of later states and has far less variance; it is exact for a horizon of 1.
maml also omits g gᵀ; the rest depends on the baseline, and with a softmax policy and exact advantages its expectation
is 0, which makes maml a first-order method. e_maml alone is unbiased for the left side with any number of episodes, but
its variance does not fall with that number. docs/results/estimators.md has the measurements.

An outer loop that makes several updates on the same episodes moves the parameters away from those that sampled. lvc and
dice then weight each action by π/π_old, with the recorded log-probabilities as log π_old (as ProMP does), so that ∇L is
the importance-weighted gradient; the change of the state distribution is omitted, as in PPO. dice does not weight by
the product of all ratios so far, which would be exact but with a variance that grows exponentially with the horizon:
its denominator there is ⊥π_θ. maml and e_maml treat the episodes as if π had sampled them, as in their papers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from research.criteria import closed_form
from research.losses import PolicyBatch, Scalar, dice, ratio_rows, reinforce, sampling_credit, surrogate
from research.types import Forward


class Estimator(NamedTuple):
    """The losses by which a meta-gradient is estimated.

    Attributes:
        inner_loss: `(policy, batch) -> scalar`, the loss of one inner step on one task. It can be vmapped.
        sampling_loss: None, or `(policy, batch, outcome) -> scalar`, to be added to the outer loss of a task once for
            each of its inner batches. `policy` has the parameters that sampled the batch, as a function of the
            meta-parameters (for the first batch, these are the meta-parameters). `outcome` is minus the return after
            adaptation, with a baseline that does not depend on this task's inner batches (for instance the mean over
            the other tasks), in the unit of the outer loss: per step if that is a mean over steps, and divided by the
            same standard deviation if its advantages are.
        reads_episodes: Whether `inner_loss` reads the order of steps, so that steps of different episodes must not be
            joined along time.
    """

    inner_loss: Callable[[Forward, PolicyBatch], Scalar]
    sampling_loss: Callable[[Forward, PolicyBatch, Scalar], Scalar] | None = None
    reads_episodes: bool = False


@closed_form(ratio_rows)
def low_variance_curvature(policy: Forward, batch: PolicyBatch) -> Scalar:
    """Returns −mean(π(a|s) / π_old(a|s) · A), ProMP's inner loss (Rothfuss et al. 2019, arXiv:1810.06784, sec. 5)."""
    return surrogate(policy(batch.observation), batch)


ESTIMATORS: dict[str, Estimator] = {
    "maml": Estimator(reinforce),
    "e_maml": Estimator(reinforce, sampling_loss=sampling_credit),
    "dice": Estimator(dice, reads_episodes=True),
    "lvc": Estimator(low_variance_curvature),
}
"""The estimators by their names in the setting `estimator`."""
