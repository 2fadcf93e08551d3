"""The estimators against the exact oracle. What is enumerated is exact; what is sampled is held to |z| < 6.

A right estimator fails one such comparison with probability 2e-9, and the seeds are fixed.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from analysis.studies.enumeration import all_batches, batch_probability, enumerate_episodes, finite_sample_return
from analysis.studies.estimators import (
    ADVANTAGES,
    Problem,
    exact_biases,
    limits,
    meta_gradients,
    random_problem,
    relative,
    sample_batches,
)
from analysis.studies.tabular import (
    TabularMDPs,
    adapted_return,
    advantages,
    expected_return,
    meta_gradient,
    occupancy,
    policy,
    sample_episodes,
)
from research.estimators import ESTIMATORS, Estimator
from research.losses import PolicyBatch, surrogate
from research.returns import discounted_returns

NAMES = list(ESTIMATORS)
CURVED = ["maml", "lvc", "dice"]  # e_maml has maml's inner loss
STATES, ACTIONS, EPISODES, TIME = 3, 2, 4, 5
LENGTHS = torch.tensor([5, 1, 3, 2])


def numbers(*shape, seed=0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def hessian(function):
    """∇² by reverse mode twice: forward mode warns of its own deprecated parts in torch 2.13."""
    return jacrev(grad(function))


def batch_under(logits: Tensor, seed=0) -> PolicyBatch:
    """Episodes of different lengths, with arbitrary advantages."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randint(0, STATES, (EPISODES, TIME), generator=generator)
    observation = torch.nn.functional.one_hot(states, STATES).double()
    action = torch.randint(0, ACTIONS, (EPISODES, TIME), generator=generator)
    valid = torch.arange(TIME) < LENGTHS[:, None]
    log_prob = policy(logits)(observation).log_prob(action)
    return PolicyBatch(observation, action, numbers(EPISODES, TIME, seed=seed + 1), log_prob, valid)


def inner_hessian(estimator: Estimator, logits: Tensor, batch: PolicyBatch) -> Tensor:
    size = logits.numel()
    return hessian(lambda table: estimator.inner_loss(policy(table), batch))(logits).reshape(size, size)


def score_and_curvature(logits: Tensor, state: int, action: int) -> tuple[Tensor, Tensor]:
    """∇log π(a|s) and ∇²log π(a|s) of a softmax table, from their closed forms: e_a − p and −(diag p − ppᵀ)."""
    probs = logits[state].softmax(-1)
    score, curvature = torch.zeros_like(logits), torch.zeros(*logits.shape, *logits.shape, dtype=logits.dtype)
    score[state] = -probs
    score[state, action] += 1.0
    curvature[state, :, state, :] = torch.outer(probs, probs) - torch.diag(probs)
    return score.flatten(), curvature.reshape(logits.numel(), -1)


def derivatives_by_hand(name: str, logits: Tensor, batch: PolicyBatch) -> tuple[Tensor, Tensor]:
    """∇L and ∇²L of an inner loss, term by term over the valid steps."""
    size = logits.numel()
    first, second = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    for e in range(EPISODES):
        past = torch.zeros(size, dtype=torch.float64)
        for t in range(LENGTHS[e]):
            state, action = int(batch.observation[e, t].argmax()), int(batch.action[e, t])
            g, curvature = score_and_curvature(logits, state, action)
            weight = batch.advantage[e, t]
            if name in ("lvc", "dice"):
                weight = weight * logits[state].softmax(-1)[action] / batch.log_prob[e, t].exp()
                curvature = curvature + torch.outer(g, g)
            if name == "dice":
                curvature = curvature + torch.outer(g, past) + torch.outer(past, g)
            first -= weight * g / LENGTHS.sum()
            second -= weight * curvature / LENGTHS.sum()
            past = past + g
    return first, second


LOGITS, MOVED = numbers(STATES, ACTIONS, seed=5), numbers(STATES, ACTIONS, seed=6)


@pytest.mark.parametrize("at", [LOGITS, MOVED], ids=["where it was sampled", "elsewhere"])
@pytest.mark.parametrize("name", CURVED)
def test_both_derivatives_of_the_inner_loss_equal_those_by_hand(name, at):
    batch = batch_under(LOGITS)
    first, second = derivatives_by_hand(name, at, batch)
    loss = ESTIMATORS[name].inner_loss
    torch.testing.assert_close(grad(lambda table: loss(policy(table), batch))(at).flatten(), first)
    torch.testing.assert_close(inner_hessian(ESTIMATORS[name], at, batch), second)


def test_where_the_batch_was_sampled_only_second_derivatives_differ():
    batch = batch_under(LOGITS)
    gradients = [grad(lambda table, n=n: ESTIMATORS[n].inner_loss(policy(table), batch))(LOGITS) for n in NAMES]
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], atol=1e-15, rtol=1e-13)
    maml, lvc, dice = (inner_hessian(ESTIMATORS[n], LOGITS, batch) for n in CURVED)
    assert min((maml - lvc).abs().max(), (lvc - dice).abs().max()) > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_plain_autograd_vmap_and_func_agree(name):
    loss = ESTIMATORS[name].inner_loss
    batches = [batch_under(LOGITS, seed) for seed in range(3)]
    stacked = PolicyBatch(*(torch.stack(field) for field in zip(*batches, strict=True)))
    tables = torch.stack([LOGITS, MOVED, LOGITS + 1.0])
    together = vmap(lambda table, batch: hessian(lambda x: loss(policy(x), batch))(table))(tables, stacked)
    for table, batch, found in zip(tables, batches, together, strict=True):
        plain = torch.autograd.functional.hessian(lambda x, b=batch: loss(policy(x), b), table)
        torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_beyond_an_episodes_end_changes_nothing(name):
    batch = batch_under(LOGITS)
    beyond = ~batch.valid
    changed = batch._replace(
        observation=torch.where(beyond[..., None], 9.0, batch.observation),
        advantage=torch.where(beyond, 5.0, batch.advantage),
        log_prob=torch.where(beyond, -7.0, batch.log_prob),
    )
    derivatives = [inner_hessian(ESTIMATORS[name], MOVED, b) for b in (batch, changed)]
    torch.testing.assert_close(*derivatives)
    credit = ESTIMATORS[name].sampling_loss
    if credit is not None:
        gradients = [grad(lambda x, b=b: credit(policy(x), b, torch.tensor(2.0)))(MOVED) for b in (batch, changed)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", NAMES)
def test_only_an_estimator_that_says_so_reads_the_order_of_steps(name):
    batch = batch_under(LOGITS)
    in_one_row = PolicyBatch(*(field[batch.valid].unsqueeze(0) for field in batch))
    apart, joined = (inner_hessian(ESTIMATORS[name], LOGITS, b) for b in (batch, in_one_row))
    assert torch.allclose(apart, joined) is not ESTIMATORS[name].reads_episodes


def test_the_sampling_loss_has_the_gradient_of_the_batchs_log_probability_times_the_outcome():
    batch, outcome = batch_under(LOGITS), torch.tensor(-1.7, dtype=torch.float64, requires_grad=True)
    assert [name for name in NAMES if ESTIMATORS[name].sampling_loss] == ["e_maml"]
    table = LOGITS.clone().requires_grad_()
    ESTIMATORS["e_maml"].sampling_loss(policy(table), batch, outcome).backward()
    scores = [
        score_and_curvature(LOGITS, int(batch.observation[e, t].argmax()), int(batch.action[e, t]))[0]
        for e in range(EPISODES)
        for t in range(LENGTHS[e])
    ]
    torch.testing.assert_close(table.grad.flatten(), -1.7 * sum(scores))
    assert outcome.grad is None  # a weight, not a path


def small(horizon=3, seed=0) -> Problem:
    return random_problem(seed, num_states=2, num_actions=2, horizon=horizon, step_size=1.5)


def forked(horizon=2) -> Problem:
    """An MDP whose next state is the last action: few episodes, so that large batches can be enumerated."""
    transition = torch.zeros(2, 2, 2, dtype=torch.float64)
    transition[:, 0, 0] = transition[:, 1, 1] = 1.0
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return Problem(TabularMDPs(transition, numbers(2, 2, seed=3), start, horizon), numbers(2, 2, seed=4), 1.5)


def enumerated(problem: Problem, kind: str) -> tuple[PolicyBatch, Tensor]:
    """Every episode as a batch of its own `[kinds, 1, time]`, and their probabilities."""
    episodes = enumerate_episodes(problem.mdp)
    states = episodes.observation.argmax(-1)
    exact = advantages(problem.mdp, problem.logits)[torch.arange(problem.mdp.horizon), states, episodes.action]
    fields = (
        episodes.observation,
        episodes.action,
        exact if kind == "exact" else episodes.returns_to_go(),
        episodes.log_prob(problem.logits),
        torch.ones_like(episodes.action, dtype=torch.bool),
    )
    return PolicyBatch(*(field.unsqueeze(1) for field in fields)), episodes.probability(problem.logits)


def expected_hessian(name: str, problem: Problem, kind: str) -> Tensor:
    """E ∇²(−L), of the return of an episode (not of a step)."""
    batch, probability = enumerated(problem, kind)
    each = vmap(lambda one: inner_hessian(ESTIMATORS[name], problem.logits, one))(batch)
    return -problem.mdp.horizon * torch.einsum("k,kij->ij", probability, each)


def true_hessian(problem: Problem) -> Tensor:
    size = problem.logits.numel()
    return hessian(lambda table: expected_return(problem.mdp, table))(problem.logits).reshape(size, size)


@pytest.mark.parametrize("kind", ["exact", "returns"])
def test_the_expected_hessian_is_the_returns_own_for_dice_alone(kind):
    problem = small()
    truth = true_hessian(problem)
    torch.testing.assert_close(expected_hessian("dice", problem, kind), truth)
    for name in ("maml", "e_maml", "lvc"):
        assert (expected_hessian(name, problem, kind) - truth).norm() > 0.05 * truth.norm()


def test_lvc_leaves_out_what_earlier_actions_change_and_nothing_else():
    problem = small()
    weight, advantage = occupancy(problem.mdp, problem.logits), advantages(problem.mdp, problem.logits)
    start = problem.logits.log_softmax(-1)
    # The return if states were met as often as before, whatever the policy: Σ_t E_{d_t} Σ_a π(a|s) A_t(s, a).
    local = hessian(lambda table: (weight * advantage * (table.log_softmax(-1) - start).exp()).sum())(problem.logits)
    for kind in ("exact", "returns"):
        torch.testing.assert_close(expected_hessian("lvc", problem, kind), local.reshape(4, 4))


@pytest.mark.parametrize("kind", ["exact", "returns"])
def test_lvc_is_exact_where_an_episode_is_one_step(kind):
    problem = small(horizon=1)
    torch.testing.assert_close(expected_hessian("lvc", problem, kind), true_hessian(problem))
    assert relative(expected_hessian("maml", problem, kind), true_hessian(problem)) > 0.5


def test_maml_is_first_order_in_expectation_with_exact_advantages_and_depends_on_the_baseline_without():
    problem = small()
    assert expected_hessian("maml", problem, "exact").abs().max() < 1e-14
    assert expected_hessian("maml", problem, "returns").abs().max() > 0.1


@pytest.mark.parametrize("num_episodes", [1, 2, 4])
def test_only_e_maml_has_the_gradient_of_the_finite_sample_return_as_its_expectation(num_episodes):
    own = {name: bias for name, (bias, _) in exact_biases(small(horizon=2), num_episodes).items()}
    assert own.pop("e_maml") < 1e-12
    assert min(own.values()) > 0.02


def test_with_more_episodes_the_bias_of_dice_and_e_maml_vanishes_and_that_of_the_others_stays():
    problem = forked()
    eight, sixteen, many = ({n: b for n, (_, b) in exact_biases(problem, size).items()} for size in (8, 16, 32))
    for name in ("dice", "e_maml"):  # like 1 / episodes
        assert 0.45 < sixteen[name] / eight[name] < 0.6
        assert 0.47 < many[name] / sixteen[name] < 0.55
    left = {name: relative(limit, problem.truth()) for name, limit in limits(problem).items()}
    assert left["lvc"] > 0.03 and many["lvc"] == pytest.approx(left["lvc"], rel=0.3)
    assert left["maml, no baseline"] > 0.3 and many["maml"] == pytest.approx(left["maml, no baseline"], rel=0.02)


def z_scores(samples: Tensor, truth: Tensor) -> Tensor:
    """|mean − truth| in standard errors for each element; infinite for one that does not vary and is wrong."""
    difference, error = (samples.mean(0) - truth).abs(), samples.std(0) / math.sqrt(len(samples))
    return torch.where(difference < 1e-12, 0.0, difference / error)


@pytest.mark.parametrize("kind", list(ADVANTAGES))
def test_sampled_hessians_of_dice_are_unbiased_and_mamls_are_not(kind):
    problem = random_problem(1, num_states=3, num_actions=2, horizon=3, step_size=1.0, noise=0.5)
    batches = sample_batches(problem, kind, 4000, 3, torch.Generator().manual_seed(0))
    truth = true_hessian(problem)
    worst = {
        name: z_scores(
            vmap(lambda one, n=name: -problem.mdp.horizon * inner_hessian(ESTIMATORS[n], problem.logits, one))(batches),
            truth,
        ).max()
        for name in CURVED
    }
    assert worst["dice"] < 6
    assert min(worst["maml"], worst["lvc"]) > 10


def sampled_meta_gradients(name: str, problem: Problem, num_batches: int, inner: int, outer: int) -> Tensor:
    """Estimates as an algorithm makes them: returns to go, a sampled outer gradient, a sampled outcome."""
    mdp, estimator = problem.mdp, ESTIMATORS[name]
    generator = torch.Generator().manual_seed(7)
    mdps = mdp.expand(num_batches)

    def collect(logits: Tensor, episodes: int) -> tuple[PolicyBatch, Tensor]:
        sampled = sample_episodes(mdps, logits, episodes, generator)
        to_go = discounted_returns(sampled.reward, 1.0)
        fields = (sampled.observation, sampled.action, to_go, sampled.log_prob, sampled.valid)
        return PolicyBatch(*fields), sampled.reward.mean((1, 2))

    def adapted(logits: Tensor, batch: PolicyBatch) -> Tensor:
        step = grad(lambda table: estimator.inner_loss(policy(table), batch))(logits)
        return logits - problem.step_size * mdp.horizon * step

    support, _ = collect(problem.logits.expand(num_batches, *problem.logits.shape), inner)
    query, reward = collect(vmap(lambda batch: adapted(problem.logits, batch))(support), outer)
    baseline = adapted_return(mdp, problem.logits, problem.step_size) / mdp.horizon

    def loss(logits: Tensor, first: PolicyBatch, second: PolicyBatch, mean_reward: Tensor) -> Tensor:
        value = surrogate(policy(adapted(logits, first))(second.observation), second)
        if estimator.sampling_loss is not None:
            value = value + estimator.sampling_loss(policy(logits), first, baseline - mean_reward)
        return value

    return -mdp.horizon * vmap(grad(loss), in_dims=(None, 0, 0, 0))(problem.logits, support, query, reward)


def enumerated_mean(name: str, problem: Problem, inner: int) -> Tensor:
    """The exact expectation of an estimator on returns to go."""
    batch, probability = enumerated(problem, "returns")
    kinds = all_batches(len(probability), inner)
    batches = PolicyBatch(*(field[:, 0][kinds] for field in batch))
    each = meta_gradients(ESTIMATORS[name], problem, batches)
    return torch.einsum("b,bsa->sa", batch_probability(probability, kinds), each)


@pytest.mark.parametrize("name", NAMES)
def test_a_sampled_pipeline_has_the_enumerated_mean_and_only_e_maml_that_of_its_objective(name):
    problem, inner = small(horizon=2), 2
    samples = sampled_meta_gradients(name, problem, 20_000, inner, outer=3)
    assert z_scores(samples, enumerated_mean(name, problem, inner)).max() < 6
    objective = grad(lambda table: finite_sample_return(problem.mdp, table, problem.step_size, inner))(problem.logits)
    worst = z_scores(samples, objective).max()
    assert worst < 6 if name == "e_maml" else worst > 10


def test_with_many_episodes_dice_finds_the_true_meta_gradient_and_maml_does_not():
    problem = random_problem(0, num_states=3, num_actions=2, horizon=3, step_size=1.5)
    batches = sample_batches(problem, "exact", 200, 400, torch.Generator().manual_seed(1))
    truth = meta_gradient(problem.mdp, problem.logits, problem.step_size)
    found = {name: meta_gradients(ESTIMATORS[name], problem, batches) for name in ("maml", "dice")}
    assert relative(found["dice"].mean(0), truth) < 0.02
    assert relative(found["maml"].mean(0), truth) > 0.1
    assert z_scores(found["dice"], truth).max() < 6 < z_scores(found["maml"], truth).max()
