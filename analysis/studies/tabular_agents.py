"""Classical agents for episodic tabular MDPs, thousands of MDPs at once.

An agent plans before each episode: from its beliefs it makes action values Q_t(s, a), and follows the greatest of each
state throughout the episode, any of equal ones. The prior is Dirichlet(1, …, 1) over the successors of each (s, a) and
N(prior_mean, 1) over its mean reward, and rewards have unit noise, so that after n visits with rewards r

    P(·|s, a) ~ Dirichlet(1 + counts),   mean reward ~ N((prior_mean + Σ r) / (n + 1), 1 / (n + 1)).

Duan et al. 2016, arXiv:1611.02779, section 3.1.2, compare RL² with these, and say in a line each what they are. What
had to be guessed stands in each docstring, with what meets their figures. Their MDPs have mean rewards ~ N(1, 1); it
is with prior_mean = 0, the default of Osband's public code for such agents, that the figures are met, not with 1.
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
"""Action values this near to each other are equal: rounding must not break ties."""


class Beliefs(NamedTuple):
    """What is known of MDPs.

    Attributes:
        moves: `[mdps, states, actions, states]`, how often each transition was seen.
        reward: `[mdps, states, actions]`, the sum of rewards seen.
        prior_mean: Mean of the prior over mean rewards.
    """

    moves: Floats
    reward: Floats
    prior_mean: float

    def visits(self) -> Floats:
        """How often each action was taken in each state, `[mdps, states, actions]`."""
        return self.moves.sum(-1)

    def mean(self) -> tuple[Floats, Floats]:
        """Transitions and rewards of the mean MDP of the posterior."""
        visits = self.visits()
        transition = (self.moves + 1) / (visits + self.moves.shape[-1])[..., None]
        return transition, (self.prior_mean + self.reward) / (visits + 1)

    def empirical(self) -> tuple[Floats, Floats]:
        """Frequencies and mean rewards as seen; all successors alike and reward 0 where nothing was."""
        visits = self.visits()
        seen = np.maximum(visits, 1)
        unseen = (visits == 0)[..., None] / self.moves.shape[-1]
        return self.moves / seen[..., None] + unseen, self.reward / seen

    def draw(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Transitions and rewards of an MDP drawn from the posterior."""
        weight = rng.standard_gamma(self.moves + 1)
        spread = rng.standard_normal(self.reward.shape) / np.sqrt(self.visits() + 1)
        return weight / weight.sum(-1, keepdims=True), self.mean()[1] + spread


Agent = Callable[[Beliefs, int, int, np.random.Generator], Floats]
"""Beliefs, the number of the episode from 0 on, the horizon, chance → Q `[mdps, time, states, actions]`."""


class Luck(NamedTuple):
    """All chance of the world, `[episodes, time, mdps]` each: given, so that agents can be compared on the same.

    Attributes:
        move: U[0, 1), which successor comes.
        noise: N(0, 1), the noise of the reward.
        tie: U[0, 1), which of equal actions is taken.
    """

    move: Floats
    noise: Floats
    tie: Floats


def draw_luck(rng: np.random.Generator, episodes: int, horizon: int, num_mdps: int) -> Luck:
    """Independent luck."""
    size = (episodes, horizon, num_mdps)
    return Luck(rng.random(size), rng.standard_normal(size), rng.random(size))


def play(
    agent: Agent, transition: Floats, reward: Floats, luck: Luck, rng: np.random.Generator, prior_mean: float = 0.0
) -> Floats:
    """The return of each episode without the noise of its rewards, `[mdps, episodes]`.

    Args:
        agent: Plans.
        transition: `[mdps, states, actions, states]`, the world's.
        reward: `[mdps, states, actions]`, the world's mean rewards; the agent sees them with unit noise.
        luck: As many episodes and steps as are played. All start in state 0.
        rng: The agent's own chance.
        prior_mean: See `Beliefs`.
    """
    episodes, horizon, mdps = luck.move.shape
    rows = np.arange(mdps)
    cumulative = transition.cumsum(-1)[..., :-1]  # without the last, which is 1 up to rounding
    beliefs = Beliefs(np.zeros(transition.shape), np.zeros(reward.shape), prior_mean)
    returns = np.zeros((mdps, episodes))
    for episode in range(episodes):
        values = agent(beliefs, episode, horizon, rng)
        state = np.zeros(mdps, np.int64)
        for t in range(horizon):
            action = _best(values[rows, t, state], luck.tie[episode, t])
            mean = reward[rows, state, action]
            passed = luck.move[episode, t][:, None] >= cumulative[rows, state, action]
            following = np.count_nonzero(passed, 1)
            beliefs.moves[rows, state, action, following] += 1
            beliefs.reward[rows, state, action] += mean + luck.noise[episode, t]
            returns[:, episode] += mean
            state = following
    return returns


def _best(values: Floats, tie: Floats) -> NDArray[np.int64]:
    """The index of the greatest of `values [mdps, actions]`; of several, any one with the same probability."""
    best = values >= values.max(1, keepdims=True) - _EQUAL
    rank = np.floor(tie * best.sum(1)) + 1
    return (best.cumsum(1) >= rank[:, None]).argmax(1)


def random(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
    """Every action alike."""
    return np.zeros((len(beliefs.reward), horizon, *beliefs.reward.shape[1:]))


def greedy(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
    """The best plan for the frequencies and mean rewards as seen.

    The paper speaks of the MAP estimate, which for these priors has the frequencies but shrinks the rewards
    (`greedy_map`).
    """
    return optimal_action_values(*beliefs.empirical(), horizon)


def greedy_map(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
    """The best plan for the mode of the posterior: frequencies, and rewards drawn towards the prior."""
    return optimal_action_values(beliefs.empirical()[0], beliefs.mean()[1], horizon)


def epsilon_greedy(epsilon: float, plans: Agent = greedy) -> Agent:
    """Any action with probability ε at every step, else that of a greedy agent. ε by search."""
    in_unit_interval(dict(epsilon=epsilon), "epsilon")

    def agent(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
        values = plans(beliefs, episode, horizon, rng)
        # A time comes once in an episode: forgetting the values of (time, state) is one random step.
        values[rng.random(values.shape[:3]) < epsilon] = 0.0
        return values

    return agent


def psrl(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
    """The best plan for an MDP drawn from the posterior (Strens 2000; Osband et al. 2013, arXiv:1306.0940)."""
    return optimal_action_values(*beliefs.draw(rng), horizon)


def optimistic_psrl(num_samples: int) -> Agent:
    """The greatest action values of the best plans for N MDPs drawn from the posterior, entry by entry. N by search.

    Guessed: the paper has no more than the name. `luckiest_psrl` is the other reading, and falls short of the figures.
    """
    positive(dict(num_samples=num_samples), "num_samples")

    def agent(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
        values = psrl(beliefs, episode, horizon, rng)
        for _ in range(num_samples - 1):
            np.maximum(values, psrl(beliefs, episode, horizon, rng), out=values)
        return values

    return agent


def luckiest_psrl(num_samples: int) -> Agent:
    """The best plan for that one of N MDPs drawn from the posterior whose best plan is worth most in state 0."""
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
    """The best plan for the posterior mean with r(s, a) + β / (w + visits) (Kolter & Ng 2009, equation 4). β by search.

    They have w = 1 + states, the default: one more than the sum of the prior's parameters. The paper's figures are met
    a little better by w = states; w = 1, as if the prior weighed nothing, makes a better agent than the paper's.
    """
    at_least(dict(bonus=bonus), 0, "bonus")
    if weight is not None:
        positive(dict(weight=weight), "weight")

    def agent(beliefs: Beliefs, episode: int, horizon: int, rng: np.random.Generator) -> Floats:
        transition, reward = beliefs.mean()
        before = 1 + beliefs.moves.shape[-1] if weight is None else weight
        return optimal_action_values(transition, reward + bonus / (before + beliefs.visits()), horizon)

    return agent


def ucrl2(scale: float) -> Agent:
    """The best plan for the best MDP of a confidence set (Jaksch, Ortner & Auer 2010), by extended value iteration.

    With n = max(1, visits) and episode k the set is, around the posterior mean,

        reward ± c √(4 ln(2 S A (k + 1) / δ) / n),   ‖P − P̂‖₁ ≤ c √(4 S ln(2 S A (k + 1) / δ) / n),   δ = 0.05.

    c by search. Guessed: Jaksch et al. have other constants (equations 3 and 4), frequencies at the centre and count
    steps; their horizon is infinite and they plan anew when a count has doubled, not at every episode.
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
    """Q_t(s, a) = r(s, a) + max {Σ P V_{t+1} : ‖P − P̂(·|s, a)‖₁ ≤ radius(s, a)}, as `optimal_action_values`.

    The maximum moves radius / 2 of the probability, or all that there is, from the worst successors to the best one
    (Jaksch, Ortner & Auer 2010, figure 2).
    """
    mdps, states, actions = reward.shape
    # Successors before (state, action): what is done for each pair runs along the last axis.
    centre = np.ascontiguousarray(transition.reshape(mdps, states * actions, states).transpose(0, 2, 1))
    half = radius.reshape(mdps, 1, states * actions) / 2

    def backup(value: Floats) -> Floats:
        order = value.argsort(1)
        value = np.take_along_axis(value, order, 1)[:, None]
        ordered = centre[np.arange(mdps)[:, None], order]
        # What is left on the j worst successors together; summed by parts, it needs no second sort.
        left = np.maximum(ordered.cumsum(1)[:, :-1] - half, 0.0)
        following = value[..., -1:] - np.diff(value) @ left
        return reward + following.reshape(reward.shape)

    return plan(backup, reward, horizon)
