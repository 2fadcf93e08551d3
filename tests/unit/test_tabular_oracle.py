from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from analysis.studies.enumeration import (
    all_batches,
    batch_probability,
    enumerate_episodes,
    finite_sample_return,
)
from analysis.studies.tabular import (
    TabularMDPs,
    action_values,
    adapt,
    adapted_return,
    advantages,
    expected_return,
    meta_gradient,
    occupancy,
    optimal_action_values,
    optimal_return,
    policy,
    policy_gradient,
    random_mdps,
    sample_episodes,
    state_visitation,
)
from research import rng

HORIZON, STATES, ACTIONS = 3, 2, 2


def tiny(num=3, horizon=HORIZON, discount=0.9, reward_std=0.0) -> TabularMDPs:
    """Random MDPs that may start in either state."""
    mdps = random_mdps(num, rng.generator(0, "test"), STATES, ACTIONS, horizon, discount, reward_std)
    start = torch.tensor([0.7, 0.3], dtype=torch.float64).expand(num, STATES)
    return TabularMDPs(mdps.transition, mdps.reward, start, horizon, discount, reward_std)


def one(mdps: TabularMDPs, index=0) -> TabularMDPs:
    return TabularMDPs(
        mdps.transition[index], mdps.reward[index], mdps.start[index], mdps.horizon, mdps.discount, mdps.reward_std
    )


def table(*shape, seed=0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def walks(mdp: TabularMDPs, probs: np.ndarray):
    """(probability, states, actions, discounted return) of every walk; `probs [time, states, actions]`."""
    transition, reward, start = mdp.transition.numpy(), mdp.reward.numpy(), mdp.start.numpy()

    def extend(prob, states, actions, total):
        t = len(actions)
        if t == mdp.horizon:
            yield prob, states, actions, total
            return
        s = states[-1]
        for a in range(ACTIONS):
            gained = total + mdp.discount**t * reward[s, a]
            followers = range(STATES) if t + 1 < mdp.horizon else (None,)
            for following in followers:
                moved = 1.0 if following is None else transition[s, a, following]
                further = states if following is None else (*states, following)
                yield from extend(prob * probs[t, s, a] * moved, further, (*actions, a), gained)

    for s in range(STATES):
        yield from extend(start[s], (s,), (), 0.0)


def by_hand(mdps: TabularMDPs, logits: Tensor, index: int):
    tables = logits[index] if logits.ndim == 4 else logits[index].expand(mdps.horizon, STATES, ACTIONS)
    return list(walks(one(mdps, index), tables.softmax(-1).numpy()))


TABLES = [pytest.param((3, STATES, ACTIONS), id="stationary"), pytest.param((3, HORIZON, STATES, ACTIONS), id="timed")]


@pytest.mark.parametrize("shape", TABLES)
def test_return_visitation_and_occupancy_equal_sums_over_all_walks(shape):
    mdps, logits = tiny(), table(*shape)
    visitation, occupied = state_visitation(mdps, logits), occupancy(mdps, logits)
    for index in range(3):
        listed = by_hand(mdps, logits, index)
        assert sum(prob for prob, *_ in listed) == pytest.approx(1.0)
        total = sum(prob * gained for prob, _, _, gained in listed)
        assert expected_return(mdps, logits)[index].item() == pytest.approx(total, rel=1e-12)
        for t, s, a in itertools.product(range(HORIZON), range(STATES), range(ACTIONS)):
            here = [(prob, actions) for prob, states, actions, _ in listed if states[t] == s]
            assert visitation[index, t, s].item() == pytest.approx(sum(p for p, _ in here), rel=1e-12)
            taken = sum(p for p, actions in here if actions[t] == a) * 0.9**t
            assert occupied[index, t, s, a].item() == pytest.approx(taken, rel=1e-12)
    torch.testing.assert_close((occupied * mdps.reward.unsqueeze(1)).sum((1, 2, 3)), expected_return(mdps, logits))


@pytest.mark.parametrize("shape", TABLES)
def test_action_values_are_the_returns_after_that_action(shape):
    mdps, logits = tiny(), table(*shape)
    q, advantage = action_values(mdps, logits), advantages(mdps, logits)
    for index, t, s in itertools.product(range(3), range(HORIZON), range(STATES)):
        weights, future = np.zeros(ACTIONS), np.zeros(ACTIONS)
        for prob, states, actions, _ in by_hand(mdps, logits, index):
            if states[t] == s:
                rest = zip(states[t:], actions[t:], strict=True)
                gained = sum(0.9**k * mdps.reward[index, i, j].item() for k, (i, j) in enumerate(rest))
                weights[actions[t]] += prob
                future[actions[t]] += prob * gained
        np.testing.assert_allclose(q[index, t, s].numpy(), future / weights, rtol=1e-12)
        probs = weights / weights.sum()
        np.testing.assert_allclose(advantage[index, t, s].numpy(), future / weights - future.sum() / weights.sum())
        assert abs(probs @ advantage[index, t, s].numpy()) < 1e-12


def central_difference(function, at: Tensor, eps=1e-5) -> Tensor:
    result = torch.zeros_like(at)
    for index in itertools.product(*map(range, at.shape)):
        step = torch.zeros_like(at)
        step[index] = eps
        result[index] = (function(at + step) - function(at - step)) / (2 * eps)
    return result


@pytest.mark.parametrize("shape", TABLES)
def test_policy_gradient_equals_the_theorem_and_finite_differences(shape):
    mdps, logits = tiny(), table(*shape)
    gradient = policy_gradient(mdps, logits)
    weighted = occupancy(mdps, logits) * advantages(mdps, logits)  # Σ_a of it is 0, so ∇log π leaves it as it is
    by_theorem = weighted if logits.ndim == 4 else weighted.sum(1)
    torch.testing.assert_close(gradient, by_theorem)
    numeric = central_difference(lambda x: expected_return(mdps, x).sum(), logits)
    torch.testing.assert_close(gradient, numeric, atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("shape", TABLES)
def test_meta_gradient_equals_finite_differences_of_the_adapted_return(shape, steps):
    mdps, logits = tiny(), table(*shape)
    torch.testing.assert_close(adapt(mdps, logits, 0.7), logits + 0.7 * policy_gradient(mdps, logits))
    gradient = meta_gradient(mdps, logits, 0.7, steps)
    numeric = central_difference(lambda x: adapted_return(mdps, x, 0.7, steps).sum(), logits)
    torch.testing.assert_close(gradient, numeric, atol=1e-8, rtol=1e-7)
    first_order = policy_gradient(mdps, adapt(mdps, logits, 0.7, steps))
    assert (gradient - first_order).abs().max() > 1e-2  # else nothing was differentiated through


def test_optimal_values_are_the_best_of_all_deterministic_policies():
    mdps = tiny(discount=0.8)
    best = torch.full((3,), -math.inf, dtype=torch.float64)
    for choice in itertools.product(range(ACTIONS), repeat=HORIZON * STATES):
        actions = torch.tensor(choice).reshape(HORIZON, STATES)
        logits = 1e3 * torch.nn.functional.one_hot(actions, ACTIONS).double().expand(3, HORIZON, STATES, ACTIONS)
        best = torch.maximum(best, expected_return(mdps, logits))
    torch.testing.assert_close(optimal_return(mdps), best)
    greedy = 1e3 * torch.nn.functional.one_hot(optimal_action_values(mdps).argmax(-1), ACTIONS).double()
    torch.testing.assert_close(expected_return(mdps, greedy), best)
    assert (optimal_return(mdps) > expected_return(mdps, table(3, STATES, ACTIONS))).all()


def test_random_mdps_are_those_of_the_paper():
    mdps = random_mdps(400, rng.generator(1, "test"))
    assert mdps.transition.shape == (400, 10, 5, 10) and mdps.horizon == 10 and mdps.reward_std == 1.0
    assert mdps.transition.dtype == torch.float64
    assert (mdps.start == torch.eye(10, dtype=torch.float64)[0]).all()
    count = mdps.reward.numel()
    assert abs(mdps.reward.mean() - 1.0) < 5 / math.sqrt(count)
    assert abs(mdps.reward.var() - 1.0) < 5 * math.sqrt(2 / count)
    # Dirichlet(1) over n outcomes: each has mean 1/n and variance (n − 1) / n² (n + 1).
    variance = mdps.transition.var().item()
    assert variance == pytest.approx(9 / (100 * 11), rel=0.03)
    again = random_mdps(400, rng.generator(1, "test"))
    assert torch.equal(again.reward, mdps.reward) and torch.equal(again.transition, mdps.transition)


@pytest.mark.parametrize("shape", TABLES)
def test_sampled_episodes_follow_the_mdp_and_the_policy(shape):
    mdps, logits, episodes = tiny(discount=1.0, reward_std=0.5), table(*shape), 20_000
    sampled = sample_episodes(mdps, logits, episodes, torch.Generator().manual_seed(3))
    assert sampled.reward.shape == (3, episodes, HORIZON)
    assert sampled.valid.all() and torch.equal(sampled.terminated.any((0, 1)), torch.tensor([False, False, True]))
    index = sampled.observation.argmax(-1)
    state = index if logits.ndim == 3 else index - STATES * torch.arange(HORIZON)
    again = torch.stack([policy(logits[i])(sampled.observation[i]).log_prob(sampled.action[i]) for i in range(3)])
    torch.testing.assert_close(again, sampled.log_prob)
    expected = occupancy(mdps, logits)
    tolerance = 5 * 0.5 / math.sqrt(episodes)  # a share's deviation is at most half over the root of the count
    for s, a in itertools.product(range(STATES), range(ACTIONS)):
        share = ((state == s) & (sampled.action == a)).double().mean(1)
        assert (share - expected[..., s, a]).abs().max() < tolerance
    pairs = torch.zeros(3, STATES, ACTIONS, STATES, dtype=torch.float64)
    for i, s, a in itertools.product(range(3), range(STATES), range(ACTIONS)):
        met = (state[i, :, :-1] == s) & (sampled.action[i, :, :-1] == a)
        for following in range(STATES):
            pairs[i, s, a, following] = (state[i, :, 1:][met] == following).double().mean()
    assert (pairs - mdps.transition).abs().max() < 0.05
    noise = sampled.reward - torch.stack([mdps.reward[i][state[i], sampled.action[i]] for i in range(3)])
    assert noise.std().item() == pytest.approx(0.5, rel=0.02)
    returns = sampled.returns()
    error = returns.std(1) / math.sqrt(episodes)
    assert ((returns.mean(1) - expected_return(mdps, logits)).abs() < 5 * error).all()


def test_enumerated_episodes_have_the_expected_return():
    mdp, logits = one(tiny()), table(STATES, ACTIONS)
    episodes = enumerate_episodes(mdp)
    assert len(episodes.dynamics) == (STATES * ACTIONS) ** HORIZON
    probability = episodes.probability(logits)
    assert probability.sum().item() == pytest.approx(1.0)
    torch.testing.assert_close((probability * episodes.returns_to_go(0.9)[:, 0]).sum(), expected_return(mdp, logits))
    listed = walks(mdp, logits.expand(HORIZON, STATES, ACTIONS).softmax(-1).numpy())
    by_walk = {(states, actions): prob for prob, states, actions, _ in listed}
    for row, prob in enumerate(probability.tolist()):
        states = tuple(episodes.observation[row].argmax(-1).tolist())
        assert prob == pytest.approx(by_walk.pop((states, tuple(episodes.action[row].tolist()))), rel=1e-12)
    assert not by_walk


def test_impossible_episodes_are_left_out():
    transition = torch.zeros(STATES, ACTIONS, STATES, dtype=torch.float64)
    transition[:, 0, 0] = transition[:, 1, 1] = 1.0
    mdp = TabularMDPs(transition, table(STATES, ACTIONS), torch.tensor([1.0, 0.0]).double(), horizon=3)
    assert len(enumerate_episodes(mdp).dynamics) == ACTIONS**3


def test_batches_are_counted_without_regard_to_order():
    probability = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    batches = all_batches(3, 2)
    assert batches.tolist() == [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 2]]
    expected = torch.tensor([0.25, 0.3, 0.2, 0.09, 0.12, 0.04], dtype=torch.float64)
    torch.testing.assert_close(batch_probability(probability, batches), expected)
    assert batch_probability(probability, all_batches(3, 7)).sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("num_episodes", [1, 2])
def test_finite_sample_return_equals_a_sum_over_ordered_batches(num_episodes):
    mdp, logits, step_size = one(tiny(horizon=2)), table(STATES, ACTIONS), 0.8
    listed = list(walks(mdp, logits.expand(2, STATES, ACTIONS).softmax(-1).numpy()))
    total = 0.0
    for batch in itertools.product(listed, repeat=num_episodes):
        moved, probs = logits.clone(), logits.softmax(-1)
        for _, states, actions, _ in batch:
            rewards = [mdp.reward[s, a] for s, a in zip(states, actions, strict=True)]
            for t, (s, a) in enumerate(zip(states, actions, strict=True)):
                to_go = sum(0.9**k * r for k, r in enumerate(rewards[t:]))
                score = -probs[s]
                score[a] += 1.0
                moved[s] += step_size / num_episodes * score * to_go
        total += math.prod(prob for prob, *_ in batch) * expected_return(mdp, moved).item()
    assert finite_sample_return(mdp, logits, step_size, num_episodes).item() == pytest.approx(total, rel=1e-12)


def test_gradient_of_the_finite_sample_return_equals_finite_differences():
    mdp, logits = one(tiny(horizon=2)), table(STATES, ACTIONS)
    gradient = grad(lambda x: finite_sample_return(mdp, x, 0.8, 2))(logits)
    numeric = central_difference(lambda x: finite_sample_return(mdp, x, 0.8, 2), logits)
    torch.testing.assert_close(gradient, numeric, atol=1e-8, rtol=1e-7)


def test_with_more_episodes_the_finite_sample_return_tends_to_that_of_the_exact_step():
    transition = torch.zeros(STATES, ACTIONS, STATES, dtype=torch.float64)
    transition[:, 0, 0] = transition[:, 1, 1] = 1.0
    mdp = TabularMDPs(transition, table(STATES, ACTIONS), torch.tensor([1.0, 0.0]).double(), horizon=2)
    logits = table(STATES, ACTIONS, seed=1)
    exact = adapted_return(mdp, logits, 0.8)
    gaps = [abs(finite_sample_return(mdp, logits, 0.8, n) - exact).item() for n in (4, 8, 16, 32)]
    assert all(later / earlier == pytest.approx(0.5, abs=0.07) for earlier, later in itertools.pairwise(gaps))


def test_everything_passes_through_vmap():
    mdp, many = one(tiny()), table(5, STATES, ACTIONS)
    direct = expected_return(mdp.expand(5), many)
    torch.testing.assert_close(vmap(lambda x: expected_return(mdp, x))(many), direct)
    torch.testing.assert_close(
        vmap(lambda x: meta_gradient(mdp, x, 0.5))(many), meta_gradient(mdp.expand(5), many, 0.5)
    )


GOOD = dict(transition=torch.full((2, 2, 2), 0.5), reward=torch.zeros(2, 2), start=torch.tensor([1.0, 0.0]), horizon=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(horizon=0), r"horizon=0: need at least 1"),
        (dict(discount=1.5), r"discount=1.5: need a value from 0 to 1"),
        (dict(reward_std=-1.0), r"reward_std=-1.0: need at least 0"),
        (dict(transition=torch.full((2, 2, 3), 0.5)), r"transition: its shape is \(2, 2, 3\).*need \(2, 2, 2\)"),
        (dict(transition=torch.full((2, 2, 2), 0.4)), r"transition: need probabilities that sum to 1.*sums from 0.8"),
        (dict(start=torch.tensor([1.5, -0.5])), r"start: need probabilities.*least value of -0.5"),
    ],
)
def test_bad_mdps_are_refused_by_name(change, message):
    TabularMDPs(**GOOD)
    with pytest.raises(ValueError, match=message):
        TabularMDPs(**(GOOD | change))


def test_bad_use_is_refused_by_name():
    mdps = tiny()
    with pytest.raises(ValueError, match=r"logits: their shape is \(2, 2\); need \(3, 2, 2\), or \(3, 3, 2, 2\)"):
        expected_return(mdps, table(2, 2))
    with pytest.raises(ValueError, match="num_episodes=0: need at least 1"):
        sample_episodes(mdps, table(3, 2, 2), 0, torch.Generator())
    with pytest.raises(ValueError, match=r"leading axes are \(\), need one; expand\(1\)"):
        sample_episodes(one(mdps), table(2, 2), 1, torch.Generator())
    with pytest.raises(ValueError, match=r"leading axes are \(3,\), need none"):
        enumerate_episodes(mdps)
    with pytest.raises(ValueError, match=r"reward_std=1.0: need 0"):
        enumerate_episodes(one(tiny(reward_std=1.0)))
    with pytest.raises(ValueError, match=r"horizon=20: .* make 1099511627776 sequences, need at most 1000000"):
        enumerate_episodes(one(tiny(horizon=20)))
    with pytest.raises(ValueError, match=r"num_episodes=100: 64 kinds .* need at most 1000000"):
        all_batches(64, 100)
    with pytest.raises(ValueError, match="num_states=0: need at least 1"):
        random_mdps(1, rng.generator(0, "test"), num_states=0)
