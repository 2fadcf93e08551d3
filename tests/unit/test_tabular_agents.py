from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from analysis.studies import tabular, tabular_agents
from analysis.studies.tabular_agents import Beliefs, RandomNumbers, draw_random_numbers, optimistic_action_values, play
from research import rng
from research.oracles.planning import optimal_action_values

STATES, ACTIONS, HORIZON = 4, 3, 5
AGENTS = {
    "random": tabular_agents.random,
    "greedy": tabular_agents.greedy,
    "greedy_map": tabular_agents.greedy_map,
    "epsilon_greedy": tabular_agents.epsilon_greedy(0.1),
    "psrl": tabular_agents.psrl,
    "optimistic_psrl": tabular_agents.optimistic_psrl(3),
    "best_of_psrl": tabular_agents.best_of_psrl(3),
    "ucrl2": tabular_agents.ucrl2(0.3),
    "beb": tabular_agents.beb(5.0),
    "light_beb": tabular_agents.beb(1.0, weight=1.0),
}
FIXED = ("random", "greedy", "greedy_map", "ucrl2", "beb", "light_beb")


def worlds(num, seed=0):
    chance = rng.generator(seed, "test")
    size = (num, STATES, ACTIONS)
    return chance.dirichlet(np.ones(STATES), size), chance.normal(1.0, 1.0, size)


def beliefs(num=6, seed=0, prior_mean=0.0):
    """Some counts, some of them zero."""
    chance = rng.generator(seed, "beliefs")
    count = chance.poisson(0.6, (num, STATES, ACTIONS, STATES)).astype(float)
    count[0, 0, 0] = 0
    return Beliefs(count, chance.normal(1.0, 1.0, (num, STATES, ACTIONS)) * count.sum(-1), prior_mean)


def ask(agent, known, episode=3, seed=0):
    return agent(known, episode, HORIZON, rng.generator(seed, "agent"))


def loop_values(transition, reward):
    """Value iteration by loops, for one MDP."""
    values = np.zeros((HORIZON + 1, STATES, ACTIONS))
    for t, s, a in itertools.product(reversed(range(HORIZON)), range(STATES), range(ACTIONS)):
        follow = sum(transition[s, a, p] * values[t + 1, p].max() for p in range(STATES))
        values[t, s, a] = reward[s, a] + follow
    return values[:HORIZON]


def test_beliefs_by_hand():
    count = np.zeros((1, 2, 1, 2))
    count[0, 0, 0] = [1, 3]
    known = Beliefs(count, np.array([[[10.0], [0.0]]]), prior_mean=1.0)
    np.testing.assert_array_equal(known.visits(), [[[4], [0]]])
    transition, reward = known.mean()
    np.testing.assert_allclose(transition[0, :, 0], [[2 / 6, 4 / 6], [1 / 2, 1 / 2]])
    np.testing.assert_allclose(reward[0, :, 0], [11 / 5, 1.0])
    transition, reward = known.empirical()
    np.testing.assert_allclose(transition[0, :, 0], [[1 / 4, 3 / 4], [1 / 2, 1 / 2]])
    np.testing.assert_allclose(reward[0, :, 0], [10 / 4, 0.0])


def test_draws_from_the_posterior_have_its_moments():
    count = np.broadcast_to(np.array([[[[2.0, 0.0, 1.0]]], [[[0.0, 0.0, 0.0]]]]), (2, 1, 1, 3))
    known = Beliefs(np.repeat(count, 40_000, 0), np.repeat(np.array([[[4.5]], [[0.0]]]), 40_000, 0), prior_mean=1.0)
    transition, reward = known.draw(rng.generator(0, "test"))
    np.testing.assert_allclose(transition.sum(-1), 1.0)
    for part, alpha, mean, deviation in (
        (slice(0, 40_000), np.array([3, 1, 2]), 5.5 / 4, 1 / 2),
        (slice(40_000, None), np.array([1, 1, 1]), 1.0, 1.0),
    ):
        own, total = transition[part, 0, 0], alpha.sum()
        np.testing.assert_allclose(own.mean(0), alpha / total, atol=0.005)
        np.testing.assert_allclose(own.var(0), alpha * (total - alpha) / (total**2 * (total + 1)), rtol=0.04)
        assert reward[part].mean() == pytest.approx(mean, abs=0.02)
        assert reward[part].std() == pytest.approx(deviation, rel=0.02)


def test_two_episodes_by_hand():
    transition = np.zeros((1, 2, 2, 2))
    transition[0, :, 0] = [0.25, 0.75]
    transition[0, :, 1] = [1.0, 0.0]
    reward = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    numbers = RandomNumbers(
        move=np.array([[[0.5], [0.9]], [[0.2], [0.3]]]),
        noise=np.array([[[0.5], [-1.0]], [[0.0], [2.0]]]),
        tie=np.zeros((2, 2, 1)),
    )
    seen = []

    def agent(known, episode, horizon, chance):
        seen.append((episode, horizon, known.transitions.copy(), known.reward.copy()))
        values = np.zeros((1, 2, 2, 2))
        values[0, 1, :, 1] = 1.0  # action 0 first, then action 1
        return values

    returns = play(agent, transition, reward, numbers, rng.generator(0, "test"))
    # Episode 1: state 0, action 0, move 0.5 → state 1, action 1. Episode 2: move 0.2 → state 0, action 1.
    np.testing.assert_allclose(returns, [[1 + 4, 1 + 2]])
    assert [entry[:2] for entry in seen] == [(0, 2), (1, 2)]
    assert seen[0][2].sum() == 0
    count = np.zeros((1, 2, 2, 2))
    count[0, 0, 0, 1] = count[0, 1, 1, 0] = 1
    np.testing.assert_array_equal(seen[1][2], count)
    np.testing.assert_allclose(seen[1][3], [[[1.5, 0.0], [0.0, 3.0]]])


def test_the_world_moves_as_its_transitions_say():
    transition, reward = worlds(1)
    num, moved = 20_000, []

    def agent(known, episode, horizon, chance):
        moved.append(known.transitions.sum(0))
        return np.zeros((num, horizon, STATES, ACTIONS))

    many = np.repeat(transition, num, 0), np.repeat(reward, num, 0)
    play(agent, *many, draw_random_numbers(rng.generator(0, "luck"), 2, HORIZON, num), rng.generator(0, "test"))
    seen = moved[1]
    assert seen.sum() == num * HORIZON and (seen.sum((1, 2)) > 0).all()
    np.testing.assert_allclose(seen / seen.sum(-1, keepdims=True), transition[0], atol=0.03)
    # All actions are equal, so each is taken as often as the others.
    np.testing.assert_allclose(seen.sum(-1) / seen.sum((1, 2))[:, None], 1 / ACTIONS, atol=0.02)


def test_one_of_equal_actions_is_taken_and_rounding_makes_none_unequal():
    values = np.array([[1.0, 3.0, 3.0 + 1e-13, 3.0]] * 3000)
    tie = (np.arange(3000) + 0.5) / 3000
    share = np.bincount(tabular_agents._best(values, tie), minlength=4)
    np.testing.assert_array_equal(share, [0, 1000, 1000, 1000])


@pytest.mark.thorough
def test_random_agents_earn_what_the_uniform_policy_earns():
    transition, reward = worlds(3)
    start = torch.zeros(3, STATES, dtype=torch.float64)
    start[:, 0] = 1.0
    mdps = tabular.TabularMDPs(torch.from_numpy(transition), torch.from_numpy(reward), start, HORIZON)
    expected = tabular.expected_return(mdps, torch.zeros(3, STATES, ACTIONS, dtype=torch.float64)).numpy()
    numbers = draw_random_numbers(rng.generator(0, "luck"), 5000, HORIZON, 3)
    returns = play(tabular_agents.random, transition, reward, numbers, rng.generator(0, "test"))
    assert (np.abs(returns.mean(1) - expected) < 4 * returns.std(1) / math.sqrt(5000)).all()


@pytest.mark.parametrize("name", ["greedy", "greedy_map"])
def test_greedy_agents_plan_with_their_estimate(name):
    known = beliefs()
    transition, reward = known.empirical()
    reward = reward if name == "greedy" else known.mean()[1]
    values = ask(AGENTS[name], known)
    for index in range(len(values)):
        np.testing.assert_allclose(values[index], loop_values(transition[index], reward[index]), rtol=1e-12)


def test_epsilon_greedy_takes_any_action_as_often_as_it_says():
    known = Beliefs(np.full((8000, 2, 2, 2), 10.0), np.tile([40.0, 0.0], (8000, 2, 1)), 0.0)
    values = tabular_agents.epsilon_greedy(0.25)(known, 0, 3, rng.generator(0, "agent"))
    tied = (values[..., 0] == values[..., 1]).mean((0, 2))
    np.testing.assert_allclose(tied, 0.25, atol=0.02)
    kept = values[..., 0] != values[..., 1]
    plan = tabular_agents.greedy(known, 0, 3, rng.generator(0, "agent"))
    np.testing.assert_array_equal(values[kept], plan[kept])


def test_psrl_and_its_optimistic_kin_plan_with_the_same_draws():
    known = beliefs()
    chance = rng.generator(0, "agent")
    plans = [optimal_action_values(*known.draw(chance), HORIZON) for _ in range(3)]
    np.testing.assert_array_equal(ask(tabular_agents.psrl, known), plans[0])
    np.testing.assert_array_equal(ask(tabular_agents.optimistic_psrl(1), known), plans[0])
    np.testing.assert_array_equal(ask(tabular_agents.optimistic_psrl(3), known), np.max(plans, 0))
    worth = [plan[:, 0, 0].max(-1) for plan in plans]
    expected = [plans[draw][index] for index, draw in enumerate(np.argmax(worth, 0))]
    np.testing.assert_array_equal(ask(tabular_agents.best_of_psrl(3), known), expected)
    assert len(set(np.argmax(worth, 0))) > 1


def test_bonuses_by_hand():
    count = np.zeros((1, 2, 1, 2))
    count[0, 0, 0] = [1, 3]
    known = Beliefs(count, np.array([[[10.0], [0.0]]]), prior_mean=1.0)
    one_step = [tabular_agents.beb(6.0, weight)(known, 0, 1, None)[0, 0, :, 0] for weight in (None, 1.0)]
    np.testing.assert_allclose(one_step[0], [11 / 5 + 6 / 7, 1 + 6 / 3])
    np.testing.assert_allclose(one_step[1], [11 / 5 + 6 / 5, 1 + 6 / 1])
    two_steps = tabular_agents.beb(6.0)(known, 0, 2, None)[0, 0, 0, 0]
    assert two_steps == pytest.approx(one_step[0][0] + (one_step[0] @ [2 / 6, 4 / 6]))


def best_in_ball(centre, radius, value):
    """max Σ P V over distributions P with ‖P − centre‖₁ ≤ radius: the best vertex of all.

    In three dimensions a vertex lies on the plane Σ P = 1 and on two more of the half-spaces' edges: P_i ≥ 0 and
    s · (P − centre) ≤ radius for each vector s of signs.
    """
    signs = np.array(list(itertools.product((-1, 1), repeat=3)), float)
    normal = np.concatenate([-np.eye(3), signs])
    offset = np.concatenate([np.zeros(3), signs @ centre + radius])
    best = -np.inf
    for first, second in itertools.combinations(range(len(normal)), 2):
        system = np.stack([np.ones(3), normal[first], normal[second]])
        if abs(np.linalg.det(system)) > 1e-9:
            vertex = np.linalg.solve(system, [1.0, offset[first], offset[second]])
            if (normal @ vertex <= offset + 1e-9).all():
                best = max(best, vertex @ value)
    return best


def test_extended_value_iteration_finds_the_best_mdp_of_the_set():
    chance = rng.generator(0, "test")
    num, states, actions, horizon = 6, 3, 2, 3
    transition = chance.dirichlet(np.ones(states), (num, states, actions))
    reward, radius = chance.normal(size=(num, states, actions)), chance.uniform(0, 1.5, (num, states, actions))
    transition[0, 0, 0], radius[1, 0, 0], radius[2] = [0.0, 1.0, 0.0], 5.0, 0.0
    ours = optimistic_action_values(transition, reward, radius, horizon)
    for mdp in range(num):
        value = np.zeros(states)
        for t in reversed(range(horizon)):
            expected = np.array([
                [reward[mdp, s, a] + best_in_ball(transition[mdp, s, a], radius[mdp, s, a], value)
                 for a in range(actions)] for s in range(states)
            ])  # fmt: skip
            np.testing.assert_allclose(ours[mdp, t], expected, atol=1e-9)
            value = expected.max(1)
    np.testing.assert_allclose(ours[2], optimal_action_values(transition, reward, horizon)[2])


def test_ucrl2_widens_its_set_as_it_says():
    known = beliefs()
    values = tabular_agents.ucrl2(0.3)(known, 7, 1, None)[:, 0]
    log = math.log(2 * STATES * ACTIONS * 8 / 0.05)
    width = 0.3 * np.sqrt(4 * log / np.maximum(known.visits(), 1))
    np.testing.assert_allclose(values, known.mean()[1] + width)
    longer = optimistic_action_values(known.mean()[0], known.mean()[1] + width, width * math.sqrt(STATES), HORIZON)
    np.testing.assert_allclose(ask(tabular_agents.ucrl2(0.3), known, episode=7), longer)


@pytest.mark.parametrize("name", [name for name in AGENTS if name not in ("random", "epsilon_greedy")])
def test_agents_that_know_the_world_act_best(name):
    transition, reward = worlds(20)
    known = Beliefs(transition * 1e9, reward * 1e9, 0.0)
    best = optimal_action_values(transition, reward, HORIZON)
    np.testing.assert_allclose(ask(AGENTS[name], known), best, atol=2e-2)
    worth = np.take_along_axis(best, ask(AGENTS[name], known).argmax(-1)[..., None], -1)[..., 0]
    np.testing.assert_allclose(worth, best.max(-1), atol=2e-2)


@pytest.mark.thorough
@pytest.mark.parametrize("name", AGENTS)
def test_agents_learn_and_none_beats_the_best_policy(name):
    transition, reward = worlds(300)
    episodes = 40
    numbers = draw_random_numbers(rng.generator(0, "luck"), episodes, HORIZON, 300)
    returns = play(AGENTS[name], transition, reward, numbers, rng.generator(0, "agent"))
    best = optimal_action_values(transition, reward, HORIZON)[:, 0, 0].max(-1)
    regret = best[:, None] - returns
    error = regret.mean(1).std() / math.sqrt(300)
    assert regret.mean() > -4 * error
    late, early = regret[:, -10:].mean(), regret[:, :3].mean()
    if name == "random":
        assert abs(late - early) < 0.3
    else:
        assert late < 0.75 * early


@pytest.mark.parametrize("name", AGENTS)
def test_games_repeat(name):
    numbers = draw_random_numbers(rng.generator(0, "luck"), 4, HORIZON, 10)
    first, second = (play(AGENTS[name], *worlds(10), numbers, rng.generator(0, "agent")) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", FIXED)
def test_mdps_do_not_depend_on_each_other(name):
    transition, reward = worlds(30)
    numbers = draw_random_numbers(rng.generator(0, "luck"), 6, HORIZON, 30)
    order = rng.generator(0, "order").permutation(30)[:12]
    whole = play(AGENTS[name], transition, reward, numbers, rng.generator(0, "agent"))
    theirs = RandomNumbers(*(part[..., order] for part in numbers))
    part = play(AGENTS[name], transition[order], reward[order], theirs, rng.generator(1, "agent"))
    np.testing.assert_allclose(part, whole[order], rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tabular_agents.epsilon_greedy(-0.1), "epsilon=-0.1: need a value from 0 to 1"),
        (lambda: tabular_agents.optimistic_psrl(0), "num_samples=0: need a value above 0"),
        (lambda: tabular_agents.best_of_psrl(0), "num_samples=0: need a value above 0"),
        (lambda: tabular_agents.beb(-1.0), "bonus=-1.0: need at least 0"),
        (lambda: tabular_agents.beb(1.0, weight=0.0), "weight=0.0: need a value above 0"),
        (lambda: tabular_agents.ucrl2(0.0), "scale=0.0: need a value above 0"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
