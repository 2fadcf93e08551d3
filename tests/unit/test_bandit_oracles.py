from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from analysis.studies.bayes_optimal import bayes_optimal_return, num_states
from analysis.studies.gittins import discounted_indices, finite_horizon_indices
from research import rng
from research.oracles import bandits
from research.oracles.bandits import Counts, play

POLICIES = {
    "random": bandits.random,
    "greedy": bandits.greedy,
    "epsilon_greedy": bandits.epsilon_greedy(0.1),
    "ucb1": bandits.ucb1(0.2),
    "thompson": bandits.thompson,
    "optimistic_thompson": bandits.optimistic_thompson(5),
    "mean_bounded_thompson": bandits.mean_bounded_thompson,
    "gittins": bandits.by_index(discounted_indices(10, 0.99)),
    "finite_gittins": bandits.by_remaining_index(finite_horizon_indices(10)),
}
FIXED = ("greedy", "ucb1", "gittins", "finite_gittins")


class Dealt:
    """A source of chance that deals given Beta draws."""

    def __init__(self, *draws):
        self.draws = iter(np.array(draw, float) for draw in draws)

    def beta(self, alpha, beta):
        return next(self.draws)


def counts(success, failure):
    return Counts(np.array(success), np.array(failure))


def problem(num, arms=3, pulls=10, seed=0):
    chance = rng.generator(seed, "test")
    return chance.random((num, arms)), chance.random((num, pulls))


def test_a_game_by_hand():
    chosen = iter([[0, 1], [1, 1], [0, 0]])
    seen = []

    def policy(known, time, chance):
        seen.append((time, known.success.tolist(), known.failure.tolist()))
        return np.array(next(chosen))

    uniform = np.array([[0.4, 0.4, 0.6], [0.8, 0.9, 0.1]])
    made = play(policy, np.array([[0.5, 0.3], [0.2, 0.85]]), uniform, rng.generator(0, "test"))
    np.testing.assert_array_equal(made.arm, [[0, 1, 0], [1, 1, 0]])
    np.testing.assert_array_equal(made.reward, [[True, False, False], [True, False, True]])
    assert seen == [
        (0, [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
        (1, [[1, 0], [0, 1]], [[0, 0], [0, 0]]),
        (2, [[1, 0], [0, 1]], [[0, 1], [0, 1]]),
    ]


def test_ucb1_by_hand():
    known = counts([[3, 0, 0], [9, 1, 0]], [[1, 0, 2], [1, 1, 0]])
    time, scale = 4, 0.5
    for row, (a, b) in enumerate(zip(known.success + 1, known.failure + 1, strict=True)):
        bound = [a[i] / (a[i] + b[i]) + scale * math.sqrt(2 * math.log(5) / (a[i] + b[i])) for i in range(3)]
        assert bandits.ucb1(scale)(known, time, None)[row] == np.argmax(bound)
    # The bonus decides: without it arm 0 leads in both, with a large one the least tried arm.
    np.testing.assert_array_equal(bandits.ucb1(0.0)(known, time, None), [0, 0])
    np.testing.assert_array_equal(bandits.ucb1(5.0)(known, time, None), [1, 2])
    # Pulls are counted from 1, and ln 1 = 0.
    np.testing.assert_array_equal(bandits.ucb1(5.0)(known, 0, None), [0, 0])


def test_greedy_takes_the_greatest_posterior_mean():
    np.testing.assert_array_equal(bandits.greedy(counts([[0, 1, 3]], [[0, 0, 2]]), 6, None), [1])
    np.testing.assert_allclose(counts([[0, 1, 3]], [[0, 0, 2]]).mean(), [[1 / 2, 2 / 3, 4 / 7]])


def test_epsilon_greedy_explores_as_often_as_it_says():
    known = counts([[0, 5, 0, 0]] * 40_000, [[0, 0, 0, 0]] * 40_000)
    share = np.bincount(bandits.epsilon_greedy(0.2)(known, 5, rng.generator(0, "test")), minlength=4) / 40_000
    np.testing.assert_allclose(share, [0.05, 0.85, 0.05, 0.05], atol=0.01)


def test_thompson_takes_an_arm_as_often_as_it_is_the_best():
    # X ~ Beta(4, 2) has the density 20 x³ (1 − x), Y ~ Beta(2, 3) the distribution function 6y² − 8y³ + 3y⁴:
    # P(Y < X) = 20 ∫ (x³ − x⁴)(6x² − 8x³ + 3x⁴) dx.
    wins = 20 * (6 / 6 - 14 / 7 + 11 / 8 - 3 / 9)
    known = counts([[3, 1]] * 40_000, [[1, 2]] * 40_000)
    share = (bandits.thompson(known, 7, rng.generator(0, "test")) == 0).mean()
    assert share == pytest.approx(wins, abs=0.01)


def test_optimistic_thompson_takes_the_sample_of_the_greatest_density():
    known = counts([[2, 0]], [[1, 1]])
    density = lambda x: x[0] ** 2 * (1 - x[0]) * (1 - x[1])  # noqa: E731
    draws = [[[0.3, 0.9]], [[0.6, 0.7]], [[0.7, 0.2]], [[0.1, 0.05]]]
    for chosen in itertools.permutations(draws, 3):
        likeliest = max(chosen, key=lambda draw: density(draw[0]))
        assert bandits.optimistic_thompson(3)(known, 4, Dealt(*chosen))[0] == np.argmax(likeliest[0])
    one = bandits.optimistic_thompson(1)(counts(*[[[3, 1, 0]] * 500] * 2), 4, rng.generator(0, "test"))
    np.testing.assert_array_equal(one, bandits.thompson(counts(*[[[3, 1, 0]] * 500] * 2), 4, rng.generator(0, "test")))


def test_sampled_means_of_0_and_1_are_no_trouble():
    known = counts([[0, 0]], [[0, 0]])
    assert bandits.optimistic_thompson(2)(known, 0, Dealt([[0.0, 1.0]], [[1.0, 0.0]]))[0] == 1


def test_mean_bounded_thompson_lifts_samples_to_the_mean():
    known = counts([[3, 0]], [[0, 0]])  # means 0.8 and 0.5
    assert bandits.mean_bounded_thompson(known, 3, Dealt([[0.1, 0.7]]))[0] == 0
    assert bandits.mean_bounded_thompson(known, 3, Dealt([[0.1, 0.85]]))[0] == 1


def rules(success, failure, remaining, discount):
    """(expected discounted reward, expected discounted pulls) of every way to go on and stop, one pull at least."""
    p = (success + 1) / (success + failure + 2)
    if remaining == 1:
        return [(p, 1.0)]
    ways = []
    lucky, unlucky = ([(0.0, 0.0), *rules(success + won, failure + 1 - won, remaining - 1, discount)] for won in (1, 0))
    for (reward, pulls), (other_reward, other_pulls) in itertools.product(lucky, unlucky):
        ways.append((p + discount * (p * reward + (1 - p) * other_reward),
                     1 + discount * (p * pulls + (1 - p) * other_pulls)))  # fmt: skip
    return ways


def test_finite_horizon_indices_are_those_of_the_best_stopping_rule():
    tables = finite_horizon_indices(6)
    assert [len(table) for table in tables] == [6, 5, 4, 3, 2, 1]
    for remaining in (1, 2, 3, 4):
        for success, failure in itertools.product(range(3), repeat=2):
            if success + failure + remaining <= 6:
                best = max(reward / pulls for reward, pulls in rules(success, failure, remaining, 1.0))
                assert tables[remaining - 1][success, failure] == pytest.approx(best, abs=1e-4)


def test_discounted_indices_are_the_published_ones():
    # Gittins, Glazebrook & Weber 2011, table 8.2 and following: Beta(1, 1), (2, 1), (1, 2), (2, 2); discount 0.9, 0.99.
    table = discounted_indices(3, 0.9)
    np.testing.assert_allclose(table[[0, 1, 0, 1], [0, 0, 1, 1]], [0.7029, 0.8001, 0.5001, 0.6346], atol=1e-4)
    assert discounted_indices(1, 0.99)[0, 0] == pytest.approx(0.8699, abs=1e-4)
    assert table[2, 2] == 0, "more pulls than asked for"


def test_discounted_indices_are_those_of_the_best_stopping_rule_when_the_future_hardly_counts():
    table = discounted_indices(3, 0.05)
    for success, failure in ((0, 0), (1, 0), (0, 2), (1, 1)):
        best = max(reward / pulls for reward, pulls in rules(success, failure, 4, 0.05))
        assert table[success, failure] == pytest.approx(best, abs=1e-4)


def test_index_policies_read_their_tables():
    known = counts([[2, 0, 1]], [[0, 1, 0]])
    table = np.zeros((3, 3))
    table[0, 1] = 1.0
    assert bandits.by_index(table)(known, 0, None)[0] == 1
    later = [np.eye(3)[:, ::-1], table, np.zeros((1, 1))]  # 1, 2 and 3 pulls remain
    policy = bandits.by_remaining_index(later)
    assert policy(known, 2, None)[0] == 0 and policy(known, 1, None)[0] == 1


def by_trees(arms, pulls):
    """The best expected total over all deterministic decision trees, each history weighed by its probability."""
    outcomes = list(itertools.product((0, 1), repeat=pulls))
    nodes = [history for length in range(pulls) for history in itertools.product((0, 1), repeat=length)]
    place = {node: index for index, node in enumerate(nodes)}
    trees = np.array(list(itertools.product(range(arms), repeat=len(nodes))))
    total = np.zeros(len(trees))
    factorial = np.array([math.factorial(i) for i in range(pulls + 2)], float)
    for outcome in outcomes:
        wins, losses = np.zeros((2, len(trees), arms), int)
        for t, won in enumerate(outcome):
            arm = trees[:, place[outcome[:t]]]
            (wins if won else losses)[np.arange(len(trees)), arm] += 1
        probability = (factorial[wins] * factorial[losses] / factorial[wins + losses + 1]).prod(1)
        total += probability * sum(outcome)
    return total.max()


@pytest.mark.parametrize(("arms", "pulls"), [(1, 3), (2, 1), (2, 2), (2, 3), (2, 4), (3, 3)])
def test_the_bayes_optimal_return_is_that_of_the_best_decision_tree(arms, pulls):
    assert bayes_optimal_return(arms, pulls) == pytest.approx(by_trees(arms, pulls), rel=1e-12)


def by_ordered_arms(pulls):
    """The same for 2 arms by recursion on arrays over all (s₁, f₁, s₂, f₂), which are not sorted."""
    grid = np.arange(pulls + 2)
    s1, f1, s2, f2 = np.ix_(grid, grid, grid, grid)
    p1, p2 = (s1 + 1) / (s1 + f1 + 2), (s2 + 1) / (s2 + f2 + 2)
    value = np.zeros([pulls + 2] * 4)
    for _ in range(pulls):
        padded = np.pad(value, [(0, 1)] * 4)
        inner = slice(0, pulls + 2)
        first = p1 * (1 + padded[1:, inner, inner, inner]) + (1 - p1) * padded[inner, 1:, inner, inner]
        second = p2 * (1 + padded[inner, inner, 1:, inner]) + (1 - p2) * padded[inner, inner, inner, 1:]
        value = np.maximum(first, second)
    return value[0, 0, 0, 0]


def test_the_bayes_optimal_return_of_two_arms_in_a_longer_game():
    assert bayes_optimal_return(2, 20) == pytest.approx(by_ordered_arms(20), rel=1e-12)


def test_more_arms_than_pulls_are_no_better():
    assert bayes_optimal_return(4, 4) == bayes_optimal_return(50, 4) > bayes_optimal_return(3, 4)


@pytest.mark.parametrize(("arms", "pulls"), [(1, 5), (2, 4), (3, 5), (5, 3)])
def test_states_are_counted_right(arms, pulls):
    kinds = [(wins, losses) for wins in range(pulls + 1) for losses in range(pulls + 1 - wins)]
    batches = itertools.combinations_with_replacement(kinds, arms)
    assert num_states(arms, pulls) == sum(sum(map(sum, batch)) == pulls for batch in batches)


def test_games_too_large_to_count_are_refused():
    with pytest.raises(ValueError, match=r"pulls=100: 5 arms have \d+ belief states, need at most 1000000"):
        bayes_optimal_return(5, 100)
    with pytest.raises(ValueError, match="num_arms=0: need at least 1"):
        bayes_optimal_return(0, 3)


@pytest.mark.thorough
@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_beats_the_bayes_optimal_one_and_good_ones_come_near(name):
    num, arms, pulls = 20_000, 5, 10
    mean, uniform = problem(num, arms, pulls)
    made = play(POLICIES[name], mean, uniform, rng.generator(0, "policy"))
    regret = (mean.max(1, keepdims=True) - np.take_along_axis(mean, made.arm, 1)).sum(1)
    total = pulls * arms / (arms + 1) - regret.mean()
    error = regret.std() / math.sqrt(num)
    best = bayes_optimal_return(arms, pulls)
    assert total < best + 4 * error
    if name == "random":
        assert total == pytest.approx(5.0, abs=4 * error)
    elif name in ("finite_gittins", "ucb1", "gittins"):
        assert total > best - 0.1
    else:
        assert total > 5.5


@pytest.mark.parametrize("name", POLICIES)
def test_games_repeat(name):
    games = [play(POLICIES[name], *problem(50), rng.generator(0, "policy")) for _ in range(2)]
    for first, second in zip(*games, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", FIXED)
def test_bandits_do_not_depend_on_each_other(name):
    mean, uniform = problem(50)
    order = rng.generator(0, "order").permutation(50)[:20]
    whole = play(POLICIES[name], mean, uniform, rng.generator(0, "policy"))
    part = play(POLICIES[name], mean[order], uniform[order], rng.generator(1, "policy"))
    np.testing.assert_array_equal(part.arm, whole.arm[order])
    np.testing.assert_array_equal(part.reward, whole.reward[order])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bandits.epsilon_greedy(1.5), "epsilon=1.5: need a value from 0 to 1"),
        (lambda: bandits.ucb1(-1.0), "scale=-1.0: need at least 0"),
        (lambda: bandits.optimistic_thompson(0), "num_samples=0: need a value above 0"),
        (lambda: discounted_indices(0, 0.9), "pulls=0: need a value above 0"),
        (lambda: discounted_indices(5, 1.0), "discount=1.0: need a value between 0 and 1"),
        (lambda: finite_horizon_indices(0), "pulls=0: need a value above 0"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
