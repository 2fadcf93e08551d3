"""Losses of one task: they know no environment and no optimiser.

All are to be minimised, and are averages over valid steps where they do not say otherwise. The ratio of a step is
π(a|s) / π_old(a|s), with the recorded log-probability of its action as log π_old.

A loss with `task_axes` is that of one task (0), or of each task of a batch whose tensors lead with `[tasks]` (1).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from research.criteria import Criterion, Kind, Rows, closed_form
from research.distributions import Categorical, Distribution
from research.returns import masked_mean
from research.types import Forward

Scalar = Float[Tensor, ""]
PerTask = Float[Tensor, "*tasks"]
Steps = Float[Tensor, "*steps"]
Valid = Bool[Tensor, "*steps"]


class PolicyBatch(NamedTuple):
    """The steps of one task's episodes, as a policy loss reads them; the steps are `[episodes, time]`.

    A batch of tasks has a leading `[tasks]` axis on every field.

    Attributes:
        observation: The observations before each action.
        action: The actions: `[*steps, act]`, or `[*steps]` int64 if they are discrete.
        advantage: Their advantages.
        log_prob: Their log-probabilities under the policy that took them.
        valid: Whether the step belongs to its episode.
    """

    observation: Float[Tensor, "*steps obs"]
    action: Shaped[Tensor, "*_"]
    advantage: Steps
    log_prob: Steps
    valid: Valid


def log_prob_rows(batch: PolicyBatch) -> Rows:
    """Returns `reinforce` of many tasks in closed form; every field leads with `[tasks]`."""
    return Rows(batch.observation.flatten(1, -2), Criterion(Kind.LOG_PROB, *_weighted_actions(batch)))


def ratio_rows(batch: PolicyBatch) -> Rows:
    """Returns `surrogate` of many tasks in closed form; every field leads with `[tasks]`."""
    criterion = Criterion(Kind.RATIO, *_weighted_actions(batch), batch.log_prob.flatten(1))
    return Rows(batch.observation.flatten(1, -2), criterion)


def mean_weights(valid: Bool[Tensor, "*_"], like: Tensor) -> Float[Tensor, "tasks steps"]:
    """Returns the weights of a mean over the valid steps of each task, flat and of the dtype of `like`."""
    weights = valid.flatten(1).to(like.dtype)
    return weights / weights.sum(1, keepdim=True).clamp_min(1.0)


def _weighted_actions(batch: PolicyBatch) -> tuple[Tensor, Tensor]:
    """Returns advantages times the weights of a mean, `[tasks, steps]`, and the actions, `[tasks, steps, ...]`."""
    weights = mean_weights(batch.valid, batch.advantage) * batch.advantage.flatten(1)
    return weights, batch.action.flatten(1, batch.valid.ndim - 1)


def kl_criterion(old: Any, batch: PolicyBatch, coef: float = 1.0) -> Criterion:
    """Returns coef · `mean_kl` of many tasks, from the distributions `old [tasks, *steps]`, in closed form.

    All steps of a task have one standard deviation, as those of a network do.
    """
    weight = coef * mean_weights(batch.valid, batch.advantage)
    if isinstance(old, Categorical):
        return Criterion(Kind.KL, weight, old=old.logits.flatten(1, -2))
    log_std = old.log_std.flatten(1, -2)[:, :1].sum(1)  # of the first step, or 0 if there is none
    return Criterion(Kind.KL, weight, old=old.mean.flatten(1, -2), old_log_std=log_std)


@closed_form(log_prob_rows)
def reinforce(policy: Forward, batch: PolicyBatch) -> Scalar:
    """Returns `policy_gradient` of one task's policy."""
    return policy_gradient(policy(batch.observation), batch)


def policy_gradient(distribution: Distribution, batch: PolicyBatch, task_axes: int = 0) -> PerTask:
    """Returns −mean(log π(a|s) · A), the policy-gradient loss (Williams 1992, Machine Learning 8)."""
    return -masked_mean(distribution.log_prob(batch.action) * batch.advantage, batch.valid, task_axes)


def surrogate(distribution: Distribution, batch: PolicyBatch, task_axes: int = 0) -> PerTask:
    """Returns −mean(ratio · A), the importance-sampled loss (Schulman et al. 2015, arXiv:1502.05477, eq. 14).

    Args:
        distribution: π at `batch.observation`; the caller needs it for the KL divergence, too.
        batch: The steps.
        task_axes: Leading axes of the tasks, 0 or 1.
    """
    return -masked_mean(_ratio(distribution, batch) * batch.advantage, batch.valid, task_axes)


def clipped_surrogate(distribution: Distribution, batch: PolicyBatch, clip_eps: float) -> Scalar:
    """Returns `clipped_loss` of the ratios of π, the distribution at `batch.observation`."""
    return clipped_loss(_ratio(distribution, batch), batch.advantage, batch.valid, clip_eps)


def clipped_loss(ratio: Steps, advantage: Steps, valid: Valid, clip_eps: float) -> Scalar:
    """Returns −mean min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) for ratios ρ (Schulman et al. 2017, arXiv:1707.06347, eq. 7)."""
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
    return -masked_mean((ratio * advantage).minimum(clipped * advantage), valid)


def clip_fraction(distribution: Distribution, batch: PolicyBatch, clip_eps: float) -> Scalar:
    """Returns `ratio_clip_fraction` of the ratios of π, the distribution at `batch.observation`."""
    return ratio_clip_fraction(_ratio(distribution, batch), batch.valid, clip_eps)


def ratio_clip_fraction(ratio: Steps, valid: Valid, clip_eps: float) -> Scalar:
    """Returns the fraction of valid steps with a ratio outside [1 − ε, 1 + ε]."""
    return masked_mean(((ratio - 1).abs() > clip_eps).to(ratio.dtype), valid)


class ExampleBatch(NamedTuple):
    """Examples of a function: `inputs [points, in]`, `targets [points, out]`, or with a leading `[tasks]` axis."""

    inputs: Tensor
    targets: Tensor


def squared_rows(batch: ExampleBatch) -> Rows:
    """Returns `squared_error` of many tasks in closed form."""
    targets = batch.targets.flatten(1, -2)
    weight = targets.new_full(targets.shape[:2], 1 / targets[0].numel())
    return Rows(batch.inputs.flatten(1, -2), Criterion(Kind.SQUARED, weight, targets))


@closed_form(squared_rows)
def squared_error(network: Forward, batch: ExampleBatch) -> Scalar:
    """Returns `mean_squared_error` of one task's network."""
    return mean_squared_error(network(batch.inputs), batch)


def mean_squared_error(outputs: Float[Tensor, "*axes"], batch: ExampleBatch, task_axes: int = 0) -> PerTask:
    """Returns the mean of (outputs − targets)² over the points and the outputs of a task."""
    return (outputs - batch.targets).square().mean(tuple(range(task_axes, outputs.ndim)))


def value_error(value: Steps, target: Steps, valid: Valid) -> Scalar:
    """Returns ½ mean (V − target)²."""
    return 0.5 * masked_mean((value - target).square(), valid)


def dice(policy: Forward, batch: PolicyBatch) -> Scalar:
    """Returns `loaded_dice` of one task's policy."""
    return loaded_dice(policy(batch.observation), batch)


def loaded_dice(distribution: Distribution, batch: PolicyBatch, task_axes: int = 0) -> PerTask:
    """Returns −mean(⊡(w_t) · (ρ_t − ⊥ρ_t) · A_t): it is 0, and its derivatives of all orders estimate the return's.

    w_t = Σ_{t'<t} log π(a_t'|s_t') within the episode, ⊡(w) = exp(w − ⊥w) = 1, ρ_t is the ratio, and ⊥ stops the
    gradient. ∇ is that of the surrogate; ∇² has its terms and ρ_t (∇log π_t ∇w_tᵀ + ∇w_t ∇log π_tᵀ) A_t, by which an
    action also changes the distribution of later states. Where π = π_old this is Loaded DiCE with λ = 1 (Farquhar et
    al. 2019, arXiv:1909.10549, section 4; DiCE: Foerster et al. 2018, arXiv:1802.05098), without the factor γᵗ, as in
    every loss here. It reads the order of the steps: episodes must not be joined along time.
    """
    log_prob = distribution.log_prob(batch.action)
    ratio = (log_prob - batch.log_prob).exp()
    past = log_prob.cumsum(-1) - log_prob  # valid steps come first, so none after an episode's end is in it
    box = (past - past.detach()).exp()
    return -masked_mean(box * (ratio - ratio.detach()) * batch.advantage, batch.valid, task_axes)


def sampling_credit(policy: Forward, batch: PolicyBatch, outcome: Scalar) -> Scalar:
    """Returns Σ ratio · ⊥outcome over all valid steps of all episodes: a sum, not a mean.

    Its gradient where π = π_old is ∇log p(D) · outcome, with p(D) the probability of the whole batch: the part of
    ∇E_D[outcome(D)] that comes from the distribution of the episodes (Stadie et al. 2018, arXiv:1803.01118; Rothfuss et
    al. 2019, arXiv:1810.06784, section 4).

    Args:
        policy: The policy that sampled the batch.
        batch: Its episodes. The advantages are not read.
        outcome: The quantity to be minimised that followed from these episodes.
    """
    ratio = _ratio(policy(batch.observation), batch)
    return (ratio * batch.valid).sum() * outcome.detach()  # a score-function term: the outcome is a weight


def mean_kl(old: Any, new: Any, valid: Valid) -> Scalar:
    """Returns mean KL(old ‖ new) of two distributions of the same type, in nats."""
    return masked_mean(old.kl(new), valid)


def mean_entropy(distribution: Distribution, valid: Valid) -> Scalar:
    """Returns the mean entropy in nats."""
    return masked_mean(distribution.entropy(), valid)


def _ratio(distribution: Distribution, batch: PolicyBatch) -> Steps:
    return (distribution.log_prob(batch.action) - batch.log_prob).exp()
