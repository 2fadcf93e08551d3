"""Estimators of the meta-gradient: each is an inner loss, whose Hessian enters the meta-gradient.

The meta-gradient of a task with one inner step, θ' = θ − α ∇L(θ; D), is

    ∇ E_D[J(θ')] = E_D[(I − α ∇²L(θ; D)) ∇J(θ')] + E_D[∇log p(D) · J(θ')]

and the estimators differ in ∇²L and in whether they include the second term. At the parameters that sampled the batch,
∇L is the same for all. With g_t = ∇log π(a_t|s_t) and w_t = Σ_{t'<t} g_t', averaged over steps:

    maml    −∇²L = ∇²log π_t A_t                                          (Finn et al. 2017, arXiv:1703.03400)
    e_maml  as maml, and the second term                                  (Stadie et al. 2018, arXiv:1803.01118)
    lvc     −∇²L = (∇²log π_t + g_t g_tᵀ) A_t                             (Rothfuss et al. 2019, arXiv:1810.06784)
    dice    −∇²L = (∇²log π_t + g_t g_tᵀ + g_t w_tᵀ + w_t g_tᵀ) A_t       (Farquhar et al. 2019, arXiv:1909.10549)

Only for dice the expectation of −∇²L is the Hessian of the return (for discount 1 and unbiased advantages). lvc omits
how earlier actions change the states of later ones, which makes its variance much smaller; it is exact for a horizon of
1. maml also omits g gᵀ; the remaining term depends on the baseline, and for a tabular softmax policy with exact
advantages its expectation is 0, so maml is then a first-order method. e_maml alone is unbiased for the left side at
every number of episodes, but its variance does not decrease with that number. Measurements: docs/results/estimators.md.

An outer loop that makes several updates with the same episodes moves the parameters away from those that sampled. lvc
and dice then weight each action by π/π_old, with the recorded log-probabilities in the denominator (as ProMP does), so
that ∇L is the importance-weighted gradient; as in PPO, the change of the state distribution is ignored. The product of
all ratios up to a step would correct for it, but its variance grows exponentially with the horizon; dice therefore uses
⊥π_θ as the denominator of that product. maml and e_maml use no weights, as in their papers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from research.losses import PolicyBatch, dice, reinforce, sampling_credit, surrogate
from research.types import Forward


class Estimator(NamedTuple):
    """An estimator of the meta-gradient.

    Attributes:
        inner_loss: `(policy, batch) -> scalar`, the loss of one inner step on one task. vmappable.
        sampling_loss: `(policy, batch, outcome) -> scalar`, the loss whose gradient is the second term; None without
            it. The outer loss of a task adds it once per inner batch. `policy` has the parameters that sampled the
            batch, as a function of the meta-parameters (for the first batch they are the meta-parameters). `outcome`
            is the scalar −(return after adaptation − baseline), in the units of the outer loss: per step if the outer
            loss is a mean over steps, and divided by the standard deviation that divides its advantages. The baseline
            does not depend on the inner batches of this task, e.g. the mean return of the other tasks.
        reads_episodes: Whether `inner_loss` depends on the order of steps, so that no row of a batch may join steps of
            different episodes.
    """

    inner_loss: Callable[[Forward, PolicyBatch], Tensor]
    sampling_loss: Callable[[Forward, PolicyBatch, Tensor], Tensor] | None = None
    reads_episodes: bool = False


def low_variance_curvature(policy: Forward, batch: PolicyBatch) -> Tensor:
    """Returns −mean(π(a|s) / π_old(a|s) · A), the inner loss of ProMP.

    Rothfuss et al. 2019, arXiv:1810.06784, section 5.
    """
    return surrogate(policy(batch.observation), batch)


ESTIMATORS: dict[str, Estimator] = {
    "maml": Estimator(reinforce),
    "e_maml": Estimator(reinforce, sampling_loss=sampling_credit),
    "dice": Estimator(dice, reads_episodes=True),
    "lvc": Estimator(low_variance_curvature),
}
"""The estimators by their names in the setting `estimator`."""
