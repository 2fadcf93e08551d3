"""Losses of task inference: how well beliefs about a task predict it, and how far they move from step to step.

A belief q_t = N(μ_t, diag σ_t²) of the unknown task variable m is a function of what a trial has shown before action t.
With m ~ q_t, the belief of VariBAD (Zintgraf et al. 2020, arXiv:1910.08348, eqs. 8 and 9) maximises for each t

    ELBO_t = E_{m ~ q_t} [Σ_i log p(r_i | m, s_i, a_i, s_{i+1}) + log p(s_{i+1} | m, s_i, a_i)] − KL(q_t ‖ q_{t−1})

with the sum over all steps i of the trial, before and after t, and q_{−1} = N(0, 1). Task inference (Humplik et al.
2019, arXiv:1905.06424, section 3) replaces the sum by log p(parameters of the task | m), and q_{t−1} by N(0, 1).
All functions are pure: they know beliefs, decoders and steps, and no environment.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from research.distributions import bounded_log_var
from research.policies.decoders import Decoders, Perceptron, StateDecoder, StepDecoder

_LOG_2PI = math.log(2.0 * math.pi)


class Decoded(NamedTuple):
    """The steps that a belief has to predict; every tensor is `[rows, time, ...]`, with zeros where not valid.

    Attributes:
        observation: s_i, `[rows, time, obs]`.
        action: a_i as decoders read it, `[rows, time, act]`.
        reward: r_i, `[rows, time]`.
        next_observation: s_{i+1}, `[rows, time, obs]`: also at the end of an episode the one that the step reached.
        valid: Whether the step belongs to the trial, bool.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    valid: Tensor


def gaussian_kl(
    mean: Float[Tensor, "*batch size"],
    log_var: Float[Tensor, "*batch size"],
    other_mean: Float[Tensor, "*batch size"],
    other_log_var: Float[Tensor, "*batch size"],
) -> Float[Tensor, "*batch"]:
    """Returns KL(N(μ, σ²) ‖ N(μ', σ'²)) = ½ Σ log(σ'²/σ²) + (σ² + (μ − μ')²)/σ'² − 1 in nats."""
    log_ratio = log_var - other_log_var
    scaled = (mean - other_mean).square() * (-other_log_var).exp()
    return 0.5 * (log_ratio.exp() - 1 - log_ratio + scaled).sum(-1)


def belief_kl(
    mean: Float[Tensor, "rows time size"], log_var: Float[Tensor, "rows time size"]
) -> Float[Tensor, "rows time"]:
    """Returns KL(q_t ‖ q_{t−1}) at each time of a trial; before the first is the prior N(0, 1)."""
    return gaussian_kl(mean, log_var, *(F.pad(leaf, (0, 0, 1, 0))[:, :-1] for leaf in (mean, log_var)))


def prior_kl(mean: Float[Tensor, "*batch size"], log_var: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch"]:
    """Returns KL(q ‖ N(0, 1))."""
    zero = torch.zeros_like(mean)
    return gaussian_kl(mean, log_var, zero, zero)


def draw_times(
    valid: Bool[Tensor, "rows time"], count: int, generator: torch.Generator
) -> tuple[Int[Tensor, "rows count"], Bool[Tensor, "rows count"]]:
    """Returns `count` different times of each trial, in any order, and which of them are valid.

    All valid times are equally probable. A trial with fewer valid steps than `count` has all of them, and others that
    are not to be counted.

    Args:
        valid: Which steps belong to the trial.
        count: Number of times, at most that of the steps.
        generator: Source of the times.
    """
    order = torch.rand(valid.shape, generator=generator, device=valid.device) - (~valid).float()
    times = order.topk(count, dim=1).indices
    return times, valid.gather(1, times)


def at_times(values: Shaped[Tensor, "rows time *rest"], times: Int[Tensor, "rows count"]) -> Tensor:
    """Returns the values at some times of each row, `[rows, count, ...]`."""
    index = times.reshape(*times.shape, *[1] * (values.ndim - 2))
    return values.gather(1, index.expand(*times.shape, *values.shape[2:]))


def reward_log_likelihood(
    decoder: StepDecoder | StateDecoder,
    kind: Literal["gaussian", "bernoulli"],
    std: float,
    latent: Float[Tensor, "rows count size"],
    steps: Decoded,
) -> Float[Tensor, "rows count"]:
    """Returns Σ_i log p(r_i | m, s_i, a_i, s_{i+1}) over the valid steps of a trial, for each m.

    Args:
        decoder: Gives the mean of each reward, or the logit of r > 0.
        kind: The distribution: N(mean, std²), or Bernoulli of r > 0.
        std: Standard deviation of Gaussian rewards.
        latent: Values of m.
        steps: The steps of each trial.
    """
    if isinstance(decoder, StateDecoder):
        output = decoder(latent, steps.next_observation.argmax(-1)).squeeze(-1)
    else:
        step = torch.cat([steps.observation, steps.action, steps.next_observation], -1)
        output = decoder(latent, step).squeeze(-1)
    reward = steps.reward.unsqueeze(1)
    if kind == "gaussian":
        each = _normal_log_prob(reward - output, std)
    else:
        each = F.logsigmoid(torch.where(reward > 0, output, -output))
    return _over_steps(each, steps.valid)


def transition_log_likelihood(
    decoder: StepDecoder, one_hot: bool, std: float, latent: Float[Tensor, "rows count size"], steps: Decoded
) -> Float[Tensor, "rows count"]:
    """Returns Σ_i log p(s_{i+1} | m, s_i, a_i) over the valid steps of a trial, for each m.

    Args:
        decoder: Gives the logits of the next state, or the mean of s_{i+1} − s_i.
        one_hot: Whether observations are one-hot, so that the next one is categorical; else it is N(mean, std²).
        std: Standard deviation of each number of a Gaussian observation.
        latent: Values of m.
        steps: The steps of each trial.
    """
    output = decoder(latent, torch.cat([steps.observation, steps.action], -1))
    if one_hot:
        state = steps.next_observation.argmax(-1)[:, None, :, None].expand(*output.shape[:3], 1)
        each = output.log_softmax(-1).gather(-1, state).squeeze(-1)
    else:
        change = (steps.next_observation - steps.observation).unsqueeze(1)
        each = _normal_log_prob(change - output, std).sum(-1)
    return _over_steps(each, steps.valid)


def task_log_likelihood(
    decoder: Perceptron, latent: Float[Tensor, "rows count size"], target: Shaped[Tensor, "rows ..."]
) -> Float[Tensor, "rows count"]:
    """Returns log p(parameters of the task | m) for each m.

    Args:
        decoder: Gives logits, or the means and log-variances of the parameters, which are bounded here.
        latent: Values of m.
        target: Index of the kind of task, `[rows]` int64, or its parameters, `[rows, numbers]`.
    """
    output = decoder(latent)
    if not target.is_floating_point():
        index = target[:, None, None].expand(*output.shape[:2], 1)
        return output.log_softmax(-1).gather(-1, index).squeeze(-1)
    mean, log_var = output.chunk(2, -1)
    log_var = bounded_log_var(log_var)
    scaled = (target.unsqueeze(1) - mean).square() * (-log_var).exp()
    return -0.5 * (scaled + log_var + _LOG_2PI).sum(-1)


class Terms(NamedTuple):
    """The terms of the loss at the chosen times of each trial, `[rows, times]`, in nats; 0 without their decoder.

    Attributes:
        reward: Σ_i log p(r_i | …).
        transition: Σ_i log p(s_{i+1} | …).
        task: log p(parameters | m).
        kl: KL(q_t ‖ q_{t−1}), or of task inference KL(q_t ‖ N(0, 1)).
    """

    reward: Tensor
    transition: Tensor
    task: Tensor
    kl: Tensor


class Model(NamedTuple):
    """The distributions whose parameters the decoders give; see `DecoderConfig`.

    Attributes:
        reward: Distribution of rewards.
        reward_std: Standard deviation of Gaussian rewards.
        transition_std: Standard deviation of Gaussian observations.
        one_hot: Whether observations are one-hot.
    """

    reward: Literal["gaussian", "bernoulli"]
    reward_std: float
    transition_std: float
    one_hot: bool


def inference_terms(
    decoders: Decoders,
    model: Model,
    belief: tuple[Float[Tensor, "rows time size"], Float[Tensor, "rows time size"]],
    times: Int[Tensor, "rows count"],
    noise: Float[Tensor, "rows count size"],
    steps: Decoded | None,
    target: Tensor | None,
) -> Terms:
    """Returns the terms of the loss at some times of each trial, with m = μ_t + σ_t · noise.

    Args:
        decoders: Decoders of rewards and transitions, or of the task.
        model: Their distributions.
        belief: Mean and log-variance at every time.
        times: The times t.
        noise: Draws from N(0, 1).
        steps: All steps of the trials; None with a decoder of the task.
        target: Parameters of each trial's task; None without.
    """
    mean, log_var = (at_times(leaf, times) for leaf in belief)
    latent = mean + (0.5 * log_var).exp() * noise
    zero = torch.zeros_like(mean[..., 0])
    if decoders.decoder_task is not None:
        assert target is not None
        task = task_log_likelihood(decoders.decoder_task, latent, target)
        return Terms(zero, zero, task, prior_kl(mean, log_var))
    assert steps is not None
    reward = transition = zero
    if decoders.decoder_reward is not None:
        reward = reward_log_likelihood(decoders.decoder_reward, model.reward, model.reward_std, latent, steps)
    if decoders.decoder_transition is not None:
        transition = transition_log_likelihood(
            decoders.decoder_transition, model.one_hot, model.transition_std, latent, steps
        )
    return Terms(reward, transition, zero, at_times(belief_kl(*belief), times))


def _normal_log_prob(error: Tensor, std: float) -> Tensor:
    """Returns log N(error; 0, std²)."""
    return -0.5 * (error / std).square() - math.log(std) - 0.5 * _LOG_2PI


def _over_steps(values: Tensor, valid: Tensor) -> Tensor:
    """Returns the sums of `values [rows, count, time]` over the valid steps, `[rows, count]`."""
    return torch.einsum("rct,rt->rc", values, valid.to(values.dtype))
