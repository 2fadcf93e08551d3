"""Classical agents for episodic tabular MDPs, played on thousands of MDPs at once.

An agent plans before each episode: it computes action values Q_t(s, a) from its beliefs, and acts greedily with respect
to them throughout the episode, with random ties. The prior is Dirichlet(1, …, 1) over the successors of each (s, a) and
N(prior_mean, 1) over its mean reward. Rewards have unit noise, so the posterior after n visits with rewards r is

    P(·|s, a) ~ Dirichlet(1 + counts),   mean reward ~ N((prior_mean + Σ r) / (n + 1), 1 / (n + 1)).

Duan et al. 2016, arXiv:1611.02779, section 3.1.2, compare RL² with these agents, and describe each in one line. Each
docstring names the choices that this leaves open, and the ones that reproduce their figures. Their MDPs have mean
rewards ~ N(1, 1). The figures are reproduced with prior_mean = 0, the default of Osband's public code, and not with 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.oracles.planning import optimal_action_values, plan
from research.validation import at_least, in_unit_interval, positive

Floats = NDArray[np.float64]

_DELTA = 0.05
_EQUAL = 1e-9
"""Action values that differ by less count as equal, so that rounding does not break ties."""


class Beliefs(NamedTuple):
    """The statistics of the observed transitions.

    Attributes:
        transitions: `[mdps, states, actions, states]`, how often each transition was observed.
        reward: `[mdps, states, actions]`, the sum of the observed rewards.
        prior_mean: The mean of the prior over mean rewards.
    """

    transitions: Floats
    reward: Floats
    prior_mean: float

    def visits(self) -> Floats:
        """Returns how often each action was taken in each state, `[mdps, states, actions]`."""
        return self.transitions.sum(-1)

    def mean(self) -> tuple[Floats, Floats]:
        """Returns the transitions and rewards of the posterior mean."""
        visits = self.visits()
        transition = (self.transitions + 1) / (visits + self.transitions.shape[-1])[..., None]
        return transition, (self.prior_mean + self.reward) / (visits + 1)

    def empirical(self) -> tuple[Floats, Floats]:
        """Returns the observed frequencies and mean rewards.

        Without observations the successors are uniform and the reward is 0.
        """
        visits = self.visits()
        seen = np.maximum(visits, 1)
        unseen = (visits == 0)[..., None] / self.transitions.shape[-1]
        return self.transitions / seen[..., None] + unseen, self.reward / seen

    def draw(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Returns the transitions and rewards of an MDP sampled from the posterior."""
        weight = rng.standard_gamma(self.transitions + 1)
        spread = rng.standard_normal(self.reward.shape) / np.sqrt(self.visits() + 1)
        return weight / weight.sum(-1, keepdims=True), self.mean()[1] + spread


Agent = Callable[[Beliefs, int, int, np.random.Generator], Floats]
"""(beliefs, index of the episode, horizon, random generator) → Q `[mdps, time, states, actions]`."""


class RandomNumbers(NamedTuple):
    """The random numbers of the environment, `[episodes, time, mdps]` each, which several agents can use.

    Attributes:
        move: U[0, 1), selects the successor.
        noise: N(0, 1), the noise of the reward.
        tie: U[0, 1), selects one of several best actions.
    """

    move: Floats
    noise: Floats
    tie: Floats


def draw_random_numbers(rng: np.random.Generator, episodes: int, horizon: int, num_mdps: int) -> RandomNumbers:
    """Draws the random numbers of as many episodes and MDPs."""
    size = (episodes, horizon, num_mdps)
    return RandomNumbers(rng.random(size), rng.standard_normal(size), rng.random(size))


def play(
    agent: Agent,
    transition: Floats,
    reward: Floats,
    numbers: RandomNumbers,
    rng: np.random.Generator,
    prior_mean: float = 0.0,
) -> Floats:
    """Plays an agent from state 0. Returns the return of each episode without reward noise, `[mdps, episodes]`.

    Args:
        agent: The agent to play.
        transition: `[mdps, states, actions, states]`, the true transition probabilities.
        reward: `[mdps, states, actions]`, the true mean rewards; the agent observes them with unit noise.
        numbers: The random numbers of the environment. Their shape sets the number of episodes and the horizon.
        rng: The generator of the agent's own random choices.
        prior_mean: See `Beliefs`.
    """
    episodes, horizon, mdps = numbers.move.shape
    rows = np.arange(mdps)
    cumulative = transition.cumsum(-1)[..., :-1]  # without the last entry, which is 1 up to rounding
    beliefs = Beliefs(np.zeros(transition.shape), np.zeros(reward.shape), prior_mean)
    returns = np.zeros((mdps, episodes))
    for episode in range(episodes):
        values = agent(beliefs, episode, horizon, rng)
        state = np.zeros(mdps, np.int64)
        for t in range(horizon):
            action = _best(values[rows, t, state], numbers.tie[episode, t])
            mean = reward[rows, state, action]
            passed = numbers.move[episode, t][:, None] >= cumulative[rows, state, action]
            following = np.count_nonzero(passed, 1)
            beliefs.transitions[rows, state, action, following] += 1
            beliefs.reward[rows, state, action] += mean + numbers.noise[episode, t]
            returns[:, episode] += mean
            state = following
    return returns


def _best(values: Floats, tie: Floats) -> NDArray[np.int64]:
    """Returns the index of the greatest of `values [mdps, actions]`, uniformly random among equal ones."""
    best = values >= values.max(1, keepdims=True) - _EQUAL
    rank = np.floor(tie * best.sum(1)) + 1
    return (best.cumsum(1) >= rank[:, None]).argmax(1)


def random(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
    """Gives every action the same value."""
    return np.zeros((len(beliefs.reward), horizon, *beliefs.reward.shape[1:]))


def greedy(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
    """Plans for the observed frequencies and mean rewards.

    The paper names the MAP estimate, which for these priors has the same frequencies but shrinks the rewards towards
    the prior mean (`greedy_map`).
    """
    return optimal_action_values(*beliefs.empirical(), horizon)


def greedy_map(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
    """Plans for the mode of the posterior: observed frequencies, and rewards shrunk towards the prior mean."""
    return optimal_action_values(beliefs.empirical()[0], beliefs.mean()[1], horizon)


def epsilon_greedy(epsilon: float, plans: Agent = greedy) -> Agent:
    """Takes a uniformly random action with probability ε at every step, otherwise the greedy one; ε found by search."""
    in_unit_interval(dict(epsilon=epsilon), "epsilon")

    def agent(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
        values = plans(beliefs, episode, horizon, rng)
        # Each time step occurs once in an episode, so equal values at (time, state) make that step random.
        values[rng.random(values.shape[:3]) < epsilon] = 0.0
        return values

    return agent


def psrl(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
    """Plans for an MDP sampled from the posterior (Strens 2000; Osband et al. 2013, arXiv:1306.0940)."""
    return optimal_action_values(*beliefs.draw(rng), horizon)


def optimistic_psrl(num_samples: int) -> Agent:
    """Takes the element-wise maximum of the optimal action values of N MDPs sampled from the posterior.

    N is found by search. The paper gives only the name. The other reading, `best_of_psrl`, falls short of its figures.
    """
    positive(dict(num_samples=num_samples), "num_samples")

    def agent(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
        values = psrl(beliefs, episode, horizon, rng)
        for _ in range(num_samples - 1):
            np.maximum(values, psrl(beliefs, episode, horizon, rng), out=values)
        return values

    return agent


def best_of_psrl(num_samples: int) -> Agent:
    """Plans for the one of N MDPs sampled from the posterior that has the greatest optimal value in state 0."""
    positive(dict(num_samples=num_samples), "num_samples")

    def agent(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
        values = psrl(beliefs, episode, horizon, rng)
        for _ in range(num_samples - 1):
            other = psrl(beliefs, episode, horizon, rng)
            better = other[:, 0, 0].max(-1) > values[:, 0, 0].max(-1)
            values[better] = other[better]
        return values

    return agent


def beb(bonus: float, weight: float | None = None) -> Agent:
    """Plans for the posterior mean with rewards r(s, a) + β / (w + visits) (Kolter & Ng 2009, equation 4).

    β is found by search. The default w = 1 + states is theirs, one more than the sum of the prior's parameters.
    w = states reproduces the RL² paper's figures slightly better. w = 1, which ignores the weight of the prior, gives a
    better agent than the paper's.
    """
    at_least(dict(bonus=bonus), 0, "bonus")
    if weight is not None:
        positive(dict(weight=weight), "weight")

    def agent(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
        transition, reward = beliefs.mean()
        before = 1 + beliefs.transitions.shape[-1] if weight is None else weight
        return optimal_action_values(transition, reward + bonus / (before + beliefs.visits()), horizon)

    return agent


def ucrl2(scale: float) -> Agent:
    """Plans for the best MDP of a confidence set (Jaksch, Ortner & Auer 2010), by extended value iteration.

    With n = max(1, visits) and episode k, the set around the posterior mean is

        reward ± c √(4 ln(2 S A (k + 1) / δ) / n),   ‖P − P̂‖₁ ≤ c √(4 S ln(2 S A (k + 1) / δ) / n),   δ = 0.05.

    c is found by search. The details are assumptions: Jaksch et al. have other constants (equations 3 and 4), centre
    the set at the frequencies and count steps. Their horizon is infinite, and they replan when a count has doubled.
    """
    positive(dict(scale=scale), "scale")

    def agent(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
        transition, reward = beliefs.mean()
        _, states, actions = reward.shape
        log = np.log(2 * states * actions * (episode + 1) / _DELTA)
        width = scale * np.sqrt(4 * log / np.maximum(beliefs.visits(), 1))
        return optimistic_action_values(transition, reward + width, np.sqrt(states) * width, horizon)

    return agent


def optimistic_action_values(transition: Floats, reward: Floats, radius: Floats, horizon: int) -> Floats:
    """Returns Q_t(s, a) = r(s, a) + max {Σ P V_{t+1} : ‖P − P̂(·|s, a)‖₁ ≤ radius(s, a)}, as `optimal_action_values`.

    The maximum moves radius / 2 of the probability, or all of it, from the worst successors to the best one (Jaksch,
    Ortner & Auer 2010, figure 2).
    """
    mdps, states, actions = reward.shape
    # Successors come before (state, action), so that operations for each pair run along the last axis.
    centre = np.ascontiguousarray(transition.reshape(mdps, states * actions, states).transpose(0, 2, 1))
    half = radius.reshape(mdps, 1, states * actions) / 2

    def backup(value: Floats) -> Floats:
        order = value.argsort(1)
        value = np.take_along_axis(value, order, 1)[:, None]
        ordered = centre[np.arange(mdps)[:, None], order]
        # The probability left on the j worst successors. Summation by parts avoids a second sort.
        left = np.maximum(ordered.cumsum(1)[:, :-1] - half, 0.0)
        following = value[..., -1:] - np.diff(value) @ left
        return reward + following.reshape(reward.shape)

    return plan(backup, reward, horizon)
