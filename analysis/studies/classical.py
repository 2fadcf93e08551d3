"""`python -m analysis classical`: reproduces the columns of classical policies in the tables of the RL² paper.

Plays the policies of research/oracles/bandits.py and the agents of analysis/studies/tabular_agents.py on random bandits
and MDPs, compares their total rewards with those of the paper (analysis/studies/rl2_paper.py), and updates
`docs/results/rl2_classical.md` and the CSV file of the same name. `--search` instead tries settings on other bandits
and MDPs, and updates the table of settings.

A total is estimated as the best possible total, which is known, minus the mean regret. The regret is computed from mean
rewards rather than rewards, and depends little on the value of the best arm. Both reduce the variance without bias.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.studies import rl2_paper as paper
from analysis.studies import tabular_agents as m
from analysis.studies.bayes_optimal import bayes_optimal_return
from analysis.studies.classical_tables import (
    Family,
    Row,
    Total,
    chosen,
    differences_table,
    search_table,
    totals_table,
    write_csv,
)
from analysis.studies.gittins import discounted_indices, finite_horizon_indices
from analysis.studies.pages import markdown_table, measure_and_renew
from research import rng
from research.memory import keep_freed_memory
from research.oracles import bandits as b
from research.tasks.tabular_mdp import TabularMDP

COMMAND = "python -m analysis classical"
SEARCH = COMMAND + " --search"
REPORTED_SEED, SEARCH_SEED = 0, 1
EPISODES = "episodes of the trial"
"""The unit of RL²'s adaptation, which for bandits is a pull."""

_CHUNK = 500
_MDPS_OF_OPTIMUM = 200_000

Floats = NDArray[np.float64]


@functools.cache
def gittins(discount: float) -> b.Policy:
    """Returns the policy of the discounted Gittins index, for games up to the longest of the paper."""
    return b.by_index(discounted_indices(max(paper.PULLS), discount))


BANDITS = (
    Family("random", "random", lambda _, n: b.random),
    Family("gittins", "Gittins index, discount {}", lambda discount, n: gittins(discount), 0.99,
           (0.9, 0.95, 0.98, 0.99, 0.995)),
    Family("thompson", "Thompson", lambda _, n: b.thompson),
    Family("optimistic_thompson", "most probable of {} posterior samples",
           lambda samples, n: b.optimistic_thompson(int(samples)), 20, (2, 5, 10, 20, 50), thinning=10),
    Family("ucb1", "UCB1, c = {}", lambda scale, n: b.ucb1(scale), 0.2, (0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1)),
    Family("epsilon_greedy", "ε-greedy, ε = {}", lambda epsilon, n: b.epsilon_greedy(epsilon), 0.02,
           (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)),
    Family("greedy", "greedy", lambda _, n: b.greedy),
)  # fmt: skip
"""The columns of the first table."""

REMAINING_GITTINS = Family("gittins", "Gittins index of the pulls that remain",
                           lambda _, n: b.by_remaining_index(finite_horizon_indices(n)), longest=100)  # fmt: skip
"""Nearly optimal: the index policy is optimal in the infinite discounted game only."""

BANDIT_VARIANTS = (
    REMAINING_GITTINS,
    Family("optimistic_thompson", "Thompson, never below the mean (May et al. 2012)",
           lambda _, n: b.mean_bounded_thompson),
    Family("ucb1", "UCB1, c = {} (Auer et al. 2002)", lambda scale, n: b.ucb1(scale), 1),
)  # fmt: skip
"""Other interpretations of the paper's text."""

MDPS = (
    Family("random", "random", lambda _, n: m.random),
    Family("psrl", "PSRL", lambda _, n: m.psrl),
    Family("optimistic_psrl", "optimistic PSRL, {} samples", lambda samples, n: m.optimistic_psrl(int(samples)), 20,
           (2, 5, 10, 20), thinning=4),
    Family("ucrl2", "UCRL2, c = {}", lambda scale, n: m.ucrl2(scale), 0.4, (0.1, 0.2, 0.3, 0.35, 0.4, 0.5),
           thinning=2),
    Family("beb", "BEB, β = {}", lambda bonus, n: m.beb(bonus), 25, (10, 15, 20, 25, 30, 40)),
    Family("epsilon_greedy", "ε-greedy, ε = {}", lambda epsilon, n: m.epsilon_greedy(epsilon), 0.15,
           (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)),
    Family("greedy", "greedy", lambda _, n: m.greedy),
)  # fmt: skip
"""The columns of the second table."""

BEB_OF_THE_PRIOR = Family("beb", "BEB, β = {}, prior mean 1", lambda bonus, n: m.beb(bonus), 10, prior_mean=1.0)
"""BEB with the true distribution of mean rewards as its prior."""

MDP_VARIANTS = (
    Family("psrl", "PSRL, prior mean 1", lambda _, n: m.psrl, prior_mean=1.0),
    Family("optimistic_psrl", "PSRL, the best of {} samples", lambda samples, n: m.best_of_psrl(int(samples)), 10,
           thinning=4),
    Family("ucrl2", "UCRL2, c = {}, prior mean 1", lambda scale, n: m.ucrl2(scale), 0.1, thinning=2, prior_mean=1.0),
    BEB_OF_THE_PRIOR,
    Family("beb", "BEB, bonus {} / (10 + visits)", lambda bonus, n: m.beb(bonus, 10), 22),
    Family("beb", "BEB, bonus {} / (1 + visits)", lambda bonus, n: m.beb(bonus, 1), 2.5),
    Family("epsilon_greedy", "ε-greedy on the MAP estimate, ε = {}",
           lambda epsilon, n: m.epsilon_greedy(epsilon, m.greedy_map), 0.1),
    Family("greedy", "greedy on the MAP estimate", lambda _, n: m.greedy_map),
    Family("greedy", "greedy on the MAP estimate, prior mean 1", lambda _, n: m.greedy_map, prior_mean=1.0),
)  # fmt: skip
"""Other interpretations of the paper's text."""


def bandit_total(policy: b.Policy, arms: int, pulls: int, num_bandits: int, seed: int) -> Total:
    """Returns the total reward of a game: n k / (k + 1) minus the regret. The best of k arms has mean k / (k + 1)."""
    regrets, totals = [], []
    for chunk, size in _chunks(num_bandits):
        world = rng.generator(seed, "analysis/classical/bandits", arms, pulls, chunk)
        mean, uniform = world.random((size, arms)), world.random((size, pulls))
        made = b.play(policy, mean, uniform, rng.generator(seed, "analysis/classical/policy", arms, pulls, chunk))
        regrets.append((mean.max(1, keepdims=True) - np.take_along_axis(mean, made.arm, 1)).sum(1))
        totals.append(made.reward.sum(1))
    return _total(pulls * arms / (arms + 1), 0.0, np.concatenate(regrets), float(np.concatenate(totals).std()))


def bandit_regrets(
    policies: Mapping[str, b.Policy], arms: int, pulls: int, num_bandits: int, seeds: Sequence[int]
) -> pd.DataFrame:
    """Returns the mean regret of every pull in the format of `Runs.adaptation_curves`, for `plots.plot_regrets`.

    Returns:
        `group, seed, run, adapt_step, value, unit`; `group` is the name of the policy. Each seed plays other bandits.
    """
    frames = []
    for (name, policy), seed in itertools.product(policies.items(), seeds):
        world = rng.generator(seed, "analysis/classical/regrets", arms, pulls)
        mean, uniform = world.random((num_bandits, arms)), world.random((num_bandits, pulls))
        made = b.play(policy, mean, uniform, rng.generator(seed, "analysis/classical/regrets/policy", arms, pulls))
        regret = mean.max(1, keepdims=True) - np.take_along_axis(mean, made.arm, 1)
        frames.append(_regrets(name, seed, regret.mean(0)))
    return pd.concat(frames, ignore_index=True)


def mdp_totals(agent: m.Agent, episodes: Sequence[int], num_mdps: int, seed: int, prior_mean: float) -> list[Total]:
    """Returns the total reward after each number of episodes, all from one game of the greatest length."""
    tasks = TabularMDP()
    returns, optimal = _play_mdps(agent, max(episodes), num_mdps, seed, prior_mean)
    total = returns.cumsum(1)[:, np.array(episodes) - 1]
    regret = np.multiply.outer(optimal, episodes) - total
    best, error = mean_optimum()
    return [
        # The totals exclude the reward noise, which the totals of the paper include.
        _total(
            n * best, n * error, regret[:, i], math.sqrt(total[:, i].var() + n * tasks.horizon * tasks.reward_std**2)
        )
        for i, n in enumerate(episodes)
    ]


def mdp_regrets(
    agents: Mapping[str, tuple[m.Agent, float]], episodes: int, num_mdps: int, seeds: Sequence[int]
) -> pd.DataFrame:
    """Returns the mean regret of every episode, as `bandit_regrets` does, for agents with the mean of their prior.

    The regret is the best expected return minus the return without reward noise, so it includes the randomness of
    transitions.
    """
    frames = []
    for (name, (agent, prior_mean)), seed in itertools.product(agents.items(), seeds):
        returns, optimal = _play_mdps(agent, episodes, num_mdps, seed, prior_mean)
        frames.append(_regrets(name, seed, (optimal[:, None] - returns).mean(0)))
    return pd.concat(frames, ignore_index=True)


def _play_mdps(agent: m.Agent, episodes: int, num_mdps: int, seed: int, prior_mean: float) -> tuple[Floats, Floats]:
    """Returns an agent's returns without reward noise, `[mdps, episodes]`, and the best expected ones, `[mdps]`."""
    tasks, returns, optimal = TabularMDP(), [], []
    for chunk, size in _chunks(num_mdps):
        world = rng.generator(seed, "analysis/classical/mdps", chunk)
        batch = tasks.sample(size, world)
        numbers = m.draw_random_numbers(world, episodes, tasks.horizon, size)
        chance = rng.generator(seed, "analysis/classical/agent", chunk)
        returns.append(m.play(agent, batch.transition, batch.reward, numbers, chance, prior_mean))
        optimal.append(tasks.optimal_return(batch))
    return np.concatenate(returns), np.concatenate(optimal)


def _regrets(name: str, seed: int, regret: Floats) -> pd.DataFrame:
    """Returns the mean regrets `[steps]` of a classical policy as rows of `Runs.adaptation_curves`."""
    columns = {"group": name, "seed": seed, "run": f"{name}, {seed}", "adapt_step": range(len(regret))}
    return pd.DataFrame(columns | {"value": regret, "unit": EPISODES})


def _total(best: float, error: float, regret: Floats, spread: float) -> Total:
    """Returns the best total, which has a standard error, minus the mean of regrets `[instances]`."""
    count = len(regret)
    deviation = float(regret.std(ddof=1)) / math.sqrt(count)
    return Total(best - float(regret.mean()), math.hypot(deviation, error), spread, count)


@functools.cache
def mean_optimum() -> tuple[float, float]:
    """Returns the mean over MDPs of the best expected return, and its standard error."""
    tasks = TabularMDP()
    found = np.concatenate([
        tasks.optimal_return(tasks.sample(size, rng.generator(0, "analysis/classical/optimum", chunk)))
        for chunk, size in _chunks(_MDPS_OF_OPTIMUM)
    ])  # fmt: skip
    return float(found.mean()), float(found.std()) / math.sqrt(len(found))


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    """Yields (index, size) of chunks that fit into the processor's caches."""
    for chunk in range(math.ceil(count / _CHUNK)):
        yield chunk, min(_CHUNK, count - chunk * _CHUNK)


def bandit_rows(family: Family, setting: float, num_bandits: int, seed: int) -> Iterator[Row]:
    """Plays a policy in the games of the paper's first table. The number of pulls is the same for all lengths."""
    for arms in paper.ARMS:
        for n in paper.PULLS:
            if n <= family.longest:
                count = max(2, num_bandits * max(paper.PULLS) // n // family.thinning)
                total = bandit_total(family.make(setting, n), arms, n, count, seed)
                yield Row(family, setting, arms, n, total, paper.BANDITS[family.column][arms, n])


def mdp_rows(family: Family, setting: float, num_mdps: int, seed: int) -> Iterator[Row]:
    """Plays an agent in the games of the paper's second table."""
    count = max(2, num_mdps // family.thinning)
    agent = family.make(setting, max(paper.EPISODES))
    totals = mdp_totals(agent, paper.EPISODES, count, seed, family.prior_mean)
    for n, total in zip(paper.EPISODES, totals, strict=True):
        yield Row(family, setting, 0, n, total, paper.MDPS[family.column][n])


def measure(
    play: Callable[[Family, float, int, int], Iterator[Row]],
    families: Sequence[Family],
    instances: int,
    seed: int,
    search: bool = False,
) -> list[Row]:
    """Plays every family with its reported setting or, in a search, with all candidates."""
    rows: list[Row] = []
    for family in families:
        for setting in family.candidates if search else (family.setting,):
            rows += play(family, setting, instances, seed)
            print(f"{rows[-1].label}: {rows[-1].total.value:.2f} for {rows[-1].game}", file=sys.stderr, flush=True)
    return rows


def optimum_table() -> str:
    """Returns a Markdown table of the Bayes-optimal totals of ten pulls."""
    games = [(arms, min(paper.PULLS)) for arms in paper.ARMS]
    names = [f"n = {pulls}, k = {arms}" for arms, pulls in games]
    values = [f"{bayes_optimal_return(arms, pulls):.3f}" for arms, pulls in games]
    rl2 = [str(paper.BANDITS["rl2"][game]) for game in games]
    rows = [["", *names], ["---", "---:", "---:", "---:"], ["Bayes-optimal, exact", *values], ["RL², the paper", *rl2]]
    return markdown_table(rows)


def report(num_bandits: int, num_mdps: int, path: Path) -> str:
    """Returns the tables of the page in Markdown, and writes the CSV file."""
    bandits = measure(bandit_rows, BANDITS, num_bandits, REPORTED_SEED)
    bandit_variants = measure(bandit_rows, BANDIT_VARIANTS, num_bandits, REPORTED_SEED)
    mdps = measure(mdp_rows, MDPS, num_mdps, REPORTED_SEED)
    mdp_variants = measure(mdp_rows, MDP_VARIANTS, num_mdps, REPORTED_SEED)
    write_csv(path, [*bandits, *bandit_variants, *mdps, *mdp_variants])
    parts = {
        "Bandits: total reward ± 1.96 standard errors (the paper, difference in %)": totals_table(bandits),
        "Bandits: the most that any policy can expect": optimum_table(),
        "Bandits: difference from the paper in %, other readings below": differences_table(bandits + bandit_variants),
        "MDPs: total reward ± 1.96 standard errors (the paper, difference in %)": totals_table(mdps),
        "MDPs: difference from the paper in %, other readings below": differences_table(mdps + mdp_variants),
    }
    return "\n\n".join(f"**{title}**\n\n{table}" for title, table in parts.items())


def search(num_bandits: int, num_mdps: int) -> str:
    """Returns the table of settings in Markdown. Prints to stderr which reported settings the search would replace."""
    rows = measure(bandit_rows, BANDITS, num_bandits, SEARCH_SEED, search=True)
    rows += measure(mdp_rows, MDPS, num_mdps, SEARCH_SEED, search=True)
    for family in dict.fromkeys(row.family for row in rows):
        best, reported = chosen([row for row in rows if row.family == family]), family.named(family.setting)
        if best != reported:
            print(f"reported is {reported}, the search has {best}", file=sys.stderr)
    return search_table(rows)


def main(argv: Sequence[str]) -> int:
    """Plays the games and updates the page. Returns the exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--page", type=Path, default=Path("docs/results/rl2_classical.md"), help="the page to update")
    parser.add_argument(
        "--bandits",
        type=int,
        default=10_000,
        help="number of bandits with 500 pulls; games with fewer pulls use more bandits",
    )
    parser.add_argument("--mdps", type=int, default=4_000, help="number of MDPs")
    parser.add_argument("--search", action="store_true", help="search for settings")
    arguments = parser.parse_args(argv)
    for name in ("bandits", "mdps"):
        if getattr(arguments, name) < 2:
            print(f"--{name}={getattr(arguments, name)}: need at least 2, one value has no spread", file=sys.stderr)
            return 2
    keep_freed_memory()
    if arguments.search:
        return measure_and_renew(arguments.page, SEARCH, lambda: search(arguments.bandits, arguments.mdps))
    csv = arguments.page.with_suffix(".csv")
    return measure_and_renew(arguments.page, COMMAND, lambda: report(arguments.bandits, arguments.mdps, csv))
