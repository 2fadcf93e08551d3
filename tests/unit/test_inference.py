"""Losses of task inference against closed forms: Gaussian divergences, an evidence that is known, loops over steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Categorical, MultivariateNormal, Normal, kl_divergence

from research.algorithms.memory.inference import (
    Decoded,
    Model,
    at_times,
    belief_kl,
    draw_times,
    gaussian_kl,
    inference_terms,
    prior_kl,
    reward_log_likelihood,
    task_log_likelihood,
    transition_log_likelihood,
)
from research.policies.decoders import Decoders, Perceptron, StateDecoder, StepDecoder

F64 = torch.float64
GAUSSIAN = Model("gaussian", 0.7, 0.4, one_hot=False)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=F64)


def some_steps(rows=3, time=5, size=4, action=2, one_hot=False, seed=0):
    """Trials of different lengths; what is not valid is 0."""
    valid = torch.arange(time) < torch.tensor([time, time - 2, 1])[:rows, None]
    place = torch.randint(size, (2, rows, time), generator=generator(seed))
    states = torch.nn.functional.one_hot(place, size).double() if one_hot else normal(2, rows, time, size, seed=seed)
    fields = (states[0], normal(rows, time, action, seed=seed + 1), normal(rows, time, seed=seed + 2), states[1])
    return Decoded(*(field * valid.reshape(rows, time, *[1] * (field.ndim - 2)) for field in fields), valid)


class Mean(torch.nn.Module):
    """A decoder whose prediction of every reward is the task variable itself."""

    def forward(self, latent, step):
        return latent[:, :, None, :1].expand(-1, -1, step.shape[1], -1)


def test_the_divergence_of_gaussians_is_torchs():
    mean, log_var, other_mean, other_log_var = normal(4, 3, 2)
    ours = gaussian_kl(mean, log_var, other_mean, other_log_var)
    pair = (Normal(mean, (0.5 * log_var).exp()), Normal(other_mean, (0.5 * other_log_var).exp()))
    torch.testing.assert_close(ours, kl_divergence(*pair).sum(-1), rtol=1e-12, atol=1e-14)
    assert (ours > 0).all() and torch.equal(gaussian_kl(mean, log_var, mean, log_var), torch.zeros(3, dtype=F64))
    torch.testing.assert_close(prior_kl(mean, log_var), gaussian_kl(mean, log_var, 0 * mean, 0 * mean))


def test_the_divergence_of_a_belief_is_to_the_one_before_and_at_first_to_the_prior():
    mean, log_var = normal(2, 3, 4, 2)
    ours = belief_kl(mean, log_var)
    for row in range(3):
        before = torch.zeros(2, dtype=F64), torch.zeros(2, dtype=F64)
        for t in range(4):
            now = mean[row, t], log_var[row, t]
            torch.testing.assert_close(ours[row, t], gaussian_kl(*now, *before))
            before = now


def test_drawn_times_differ_and_are_uniform_over_valid_ones():
    valid = torch.arange(6) < torch.tensor([[6], [4], [2]])
    counts = np.zeros((3, 6))
    for seed in range(400):
        times, counted = draw_times(valid, 3, generator(seed))
        assert counted.sum(1).tolist() == [3, 3, 2]
        for row in range(3):
            own = times[row][counted[row]].tolist()
            assert len(set(own)) == len(own) and all(valid[row, t] for t in own)
            counts[row, own] += 1
    expected = np.array([3 / 6] * 6 + [3 / 4] * 4 + [0] * 2 + [1] * 2 + [0] * 4).reshape(3, 6)
    np.testing.assert_allclose(counts / 400, expected, atol=0.09)  # four standard errors are 0.1
    assert torch.equal(at_times(valid, times).sum(1), counted.sum(1))


def evidence(reward, std):
    """log p(rewards) of a mean m ~ N(0, 1) with noise of this standard deviation, and the exact posterior."""
    count = len(reward)
    covariance = std**2 * torch.eye(count, dtype=F64) + torch.ones(count, count, dtype=F64)
    precision = 1 + count / std**2
    posterior = Normal(reward.sum() / std**2 / precision, precision**-0.5)
    return MultivariateNormal(torch.zeros(count, dtype=F64), covariance).log_prob(reward), posterior


def elbo(reward, mean, var, std):
    """The bound at time 0 of one trial; noise ±1 gives the exact expectation of a quadratic function."""
    time = len(reward)
    nothing = torch.zeros(1, time, 1, dtype=F64)
    steps = Decoded(nothing, nothing, reward[None], nothing, torch.ones(1, time, dtype=torch.bool))
    belief = (mean.expand(1, time, 1), var.log().expand(1, time, 1))
    times, noise = torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[[1.0], [-1.0]]], dtype=F64)
    decoders = Decoders(Mean())
    terms = inference_terms(decoders, GAUSSIAN._replace(reward_std=std), belief, times, noise, steps, None)
    assert not terms.transition.any() and not terms.task.any()
    return (terms.reward - terms.kl).mean()


def test_the_bound_is_the_evidence_at_the_exact_posterior_and_lower_by_the_divergence_elsewhere():
    """A task is a number m ~ N(0, 1), rewards are m plus Gaussian noise: log p(rewards) = bound + KL(q ‖ posterior)."""
    reward = normal(7)
    for std in (0.5, 1.0, 2.0):
        exact, posterior = evidence(reward, std)
        torch.testing.assert_close(elbo(reward, posterior.mean, posterior.variance, std), exact, rtol=1e-12, atol=0)
        for mean, var in ((0.3, 0.2), (-1.0, 1.5)):
            q = Normal(torch.tensor(mean, dtype=F64), math.sqrt(var))
            ours = elbo(reward, q.mean, q.variance, std)
            torch.testing.assert_close(ours, exact - kl_divergence(q, posterior), rtol=1e-12, atol=0)


def test_gradient_ascent_of_the_bound_finds_the_exact_posterior():
    reward = normal(7)
    _, posterior = evidence(reward, 0.5)
    mean, log_var = (torch.zeros((), dtype=F64, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.LBFGS(
        [mean, log_var], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-10, tolerance_change=0
    )

    def closure():
        optimizer.zero_grad()
        loss = -elbo(reward, mean, log_var.exp(), 0.5)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(mean.detach(), posterior.mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(log_var.exp().detach(), posterior.variance, rtol=1e-5, atol=0)


def obvious(steps, latent, each):
    """Σ_i log p(step i | m) by loops."""
    sums = torch.zeros(latent.shape[:2], dtype=F64)
    for row in range(len(latent)):
        for t in range(latent.shape[1]):
            for i in range(steps.valid.shape[1]):
                if steps.valid[row, i]:
                    sums[row, t] += each(latent[row, t], *(field[row, i] for field in steps[:4]))
    return sums


@pytest.mark.parametrize("kind", ["gaussian", "bernoulli"])
def test_rewards_of_all_steps_are_decoded_from_every_belief(kind):
    steps, latent = some_steps(), normal(3, 2, 3)
    decoder = StepDecoder(3, 10, (6, 5), 1, generator()).double()

    def each(m, observation, action, reward, following):
        step = torch.cat([observation, action, following])
        output = decoder(m[None, None], step[None, None]).squeeze()
        if kind == "gaussian":
            return Normal(output, 0.7).log_prob(reward)
        return Bernoulli(logits=output).log_prob((reward > 0).double())

    ours = reward_log_likelihood(decoder, kind, 0.7, latent, steps)
    torch.testing.assert_close(ours, obvious(steps, latent, each), rtol=1e-11, atol=1e-12)


def test_a_decoder_of_states_reads_the_state_that_a_step_reaches():
    steps, latent = some_steps(one_hot=True), normal(3, 2, 3)
    decoder = StateDecoder(3, (6,), 4, generator()).double()

    def each(m, _observation, _action, reward, following):
        return Normal(decoder.states(m)[following.argmax()], 0.7).log_prob(reward)

    ours = reward_log_likelihood(decoder, "gaussian", 0.7, latent, steps)
    torch.testing.assert_close(ours, obvious(steps, latent, each), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("one_hot", [True, False])
def test_transitions_of_all_steps_are_decoded_from_every_belief(one_hot):
    steps, latent = some_steps(one_hot=one_hot), normal(3, 2, 3)
    decoder = StepDecoder(3, 6, (6,), 4, generator()).double()

    def each(m, observation, action, _reward, following):
        output = decoder(m[None, None], torch.cat([observation, action])[None, None]).squeeze()
        if one_hot:
            return Categorical(logits=output).log_prob(following.argmax())
        return Normal(observation + output, 0.4).log_prob(following).sum()

    ours = transition_log_likelihood(decoder, one_hot, 0.4, latent, steps)
    torch.testing.assert_close(ours, obvious(steps, latent, each), rtol=1e-11, atol=1e-12)


def test_parameters_of_the_task_are_gaussian_or_categorical():
    latent, target = normal(3, 2, 3), normal(3, 2, seed=4)
    decoder = Perceptron((3, 5, 4), generator()).double()
    mean, log_var = decoder(latent).chunk(2, -1)
    expected = Normal(mean, (0.5 * log_var).exp()).log_prob(target[:, None]).sum(-1)
    torch.testing.assert_close(task_log_likelihood(decoder, latent, target), expected)
    kinds = torch.tensor([0, 3, 2])
    expected = Categorical(logits=decoder(latent)).log_prob(kinds[:, None])
    torch.testing.assert_close(task_log_likelihood(decoder, latent, kinds), expected)


class Whole(torch.nn.Module):
    """The terms as a module, whose parameters can be replaced."""

    def __init__(self, decoders):
        super().__init__()
        self.decoders = decoders

    def forward(self, *inputs):
        return inference_terms(self.decoders, *inputs)


def all_decoders(kind):
    if kind == "task":
        return Decoders(decoder_task=Perceptron((2, 4, 6), generator())).double(), normal(3, 3, seed=5)
    reward = StepDecoder(2, 10, (5, 4), 1, generator())
    return Decoders(reward, StepDecoder(2, 6, (5,), 4, generator(1))).double(), None


@pytest.mark.parametrize("kind", ["task", "steps", "one-hot steps"])
def test_terms_have_exact_gradients_in_beliefs_and_decoders(kind):
    decoders, target = all_decoders(kind)
    with torch.no_grad():
        for index, value in enumerate(decoders.parameters()):
            value.copy_(normal(*value.shape, seed=index))  # biases, too: a rectifier has no derivative at 0
    steps = None if kind == "task" else some_steps(one_hot=kind == "one-hot steps")
    model = GAUSSIAN._replace(one_hot=kind == "one-hot steps")
    mean, log_var = (leaf.requires_grad_() for leaf in (normal(3, 5, 2, seed=6), 0.3 * normal(3, 5, 2, seed=7)))
    times, noise = torch.tensor([[0, 3], [2, 1], [0, 4]]), normal(3, 2, 2, seed=8)
    names, parameters = zip(*decoders.named_parameters(), strict=True)
    whole = Whole(decoders)

    def terms(mean, log_var, *values):
        own = {f"decoders.{name}": value for name, value in zip(names, values, strict=True)}
        inputs = (model, (mean, log_var), times, noise, steps, target)
        return tuple(torch.func.functional_call(whole, own, inputs))

    assert torch.autograd.gradcheck(terms, (mean, log_var, *parameters))


def test_beliefs_are_decoded_at_their_times_and_nothing_else_of_a_row_matters():
    decoders, _ = all_decoders("steps")
    steps, belief = some_steps(), (normal(3, 5, 2), 0.3 * normal(3, 5, 2, seed=1))
    times, noise = torch.tensor([[0, 3], [2, 1], [0, 4]]), normal(3, 2, 2, seed=8)
    whole = inference_terms(decoders, GAUSSIAN, belief, times, noise, steps, None)
    for row in range(3):
        own = slice(row, row + 1)
        part = inference_terms(
            decoders,
            GAUSSIAN,
            (belief[0][own], belief[1][own]),
            times[own].flip(1),
            noise[own].flip(1),
            Decoded(*(field[own] for field in steps)),
            None,
        )
        for ours, theirs in zip(whole, part, strict=True):
            torch.testing.assert_close(ours[own], theirs.flip(1), rtol=1e-12, atol=1e-13)
    changed = steps._replace(reward=torch.where(steps.valid, steps.reward, 7.0))
    again = inference_terms(decoders, GAUSSIAN, belief, times, noise, changed, None)
    assert torch.equal(again.reward, whole.reward), "steps that are not valid are not decoded"
