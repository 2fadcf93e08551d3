"""`python -m analysis estimators`: measures bias and variance of the meta-gradient estimators.

The exact meta-gradient of a tabular MDP is known (analysis/studies/tabular.py). Each of research/estimators.py gets the
same batches of inner episodes and the exact outer gradient ∇J(θ'), so the error comes from the inner batch alone.
Draws `docs/results/estimators.png` and updates the tables of `docs/results/estimators.md`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.func import grad, vmap

from analysis.plots import plot_estimates
from analysis.studies.enumeration import all_batches, batch_probability, enumerate_episodes, finite_sample_return
from analysis.studies.pages import markdown_table, measure_and_renew
from analysis.studies.tabular import (
    TabularMDPs,
    action_values,
    adapt,
    adapted_return,
    advantages,
    expected_return,
    meta_gradient,
    occupancy,
    policy,
    policy_gradient,
    random_mdps,
    sample_episodes,
)
from research import rng
from research.estimators import ESTIMATORS, Estimator
from research.losses import PolicyBatch
from research.parallel import available_cores, parallel_map
from research.returns import discounted_returns

ADVANTAGES = {"exact": "exact advantages", "sampled": "sampled returns minus exact values"}
EPISODES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_ROWS_AT_ONCE = 1 << 13
COMMAND = "python -m analysis estimators"


@dataclass(frozen=True, eq=False)
class Problem:
    """An MDP without leading axes and with discount 1, the parameters to adapt, and the size of the step along ∇J."""

    mdp: TabularMDPs
    logits: Tensor
    step_size: float

    def truth(self) -> Tensor:
        """Returns the meta-gradient of the exact inner step, `[states, actions]`."""
        return meta_gradient(self.mdp, self.logits, self.step_size)


class Estimate(NamedTuple):
    """An estimator's errors relative to the norm of the truth, as (value, low, high) with ± 1.96 standard errors."""

    bias: tuple[float, float, float]
    rmse: tuple[float, float, float]
    cosine: tuple[float, float, float]


def random_problem(
    seed: int, num_states: int, num_actions: int, horizon: int, step_size: float, noise: float = 0.0
) -> Problem:
    """Returns a random MDP in the manner of the RL² paper, and normal logits with standard deviation 0.5."""
    draws = rng.generator(seed, "analysis/estimators")
    mdps = random_mdps(1, draws, num_states, num_actions, horizon, reward_std=noise)
    mdp = TabularMDPs(mdps.transition[0], mdps.reward[0], mdps.start[0], horizon, reward_std=noise)
    return Problem(mdp, torch.from_numpy(draws.normal(0.0, 0.5, (num_states, num_actions))), step_size)


def sample_batches(problem: Problem, kind: str, batches: int, episodes: int, generator: torch.Generator) -> PolicyBatch:
    """Samples inner batches `[batches, episodes, time]`, with advantages of a kind in `ADVANTAGES`."""
    sampled = sample_episodes(
        problem.mdp.expand(batches), problem.logits.expand(batches, *problem.logits.shape), episodes, generator
    )
    state, step = sampled.observation.argmax(-1), torch.arange(problem.mdp.horizon)
    exact = advantages(problem.mdp, problem.logits)
    if kind == "exact":
        advantage = exact[step, state, sampled.action]
    else:
        values = (action_values(problem.mdp, problem.logits) - exact)[..., 0]
        advantage = discounted_returns(sampled.reward, 1.0) - values[step, state]
    return PolicyBatch(sampled.observation, sampled.action, advantage, sampled.log_prob, sampled.valid)


def meta_gradients(estimator: Estimator, problem: Problem, batches: PolicyBatch) -> Tensor:
    """Returns the estimate of ∇J(θ') from each of `batches [batches, episodes, time]`: `[batches, states, actions]`.

    The inner losses are means over steps, so the inner learning rate is step_size · horizon. The outcome that e_maml
    assigns to the sampled episodes is the exact J(θ') minus the return after an exact inner step, a good constant
    baseline.
    """
    mdp, horizon = problem.mdp, problem.mdp.horizon
    baseline = adapted_return(mdp, problem.logits, problem.step_size) / horizon

    def outer_loss(logits: Tensor, batch: PolicyBatch) -> Tensor:
        gradient = grad(lambda table: estimator.inner_loss(policy(table), batch))(logits)
        loss = -expected_return(mdp, logits - problem.step_size * horizon * gradient) / horizon
        if estimator.sampling_loss is None:
            return loss
        return loss + estimator.sampling_loss(policy(logits), batch, loss + baseline)

    chunk = max(1, _ROWS_AT_ONCE // batches.valid[0].numel())
    estimates: Tensor = vmap(lambda batch: grad(outer_loss)(problem.logits, batch), chunk_size=chunk)(batches)
    return -horizon * estimates


def summarise(estimates: Tensor, truth: Tensor) -> Estimate:
    """Returns the errors of independent estimates `[n, ...]` of the truth `[...]`, each with ± 1.96 standard errors.

    The squared bias is estimated by ‖mean − truth‖² − tr(S)/n, with S the sample covariance. Its last term removes the
    variance of the mean. The variance of the estimate is 4 bᵀSb/n + 2 tr(S²)/n². Negative values are set to 0.
    """
    count, size = len(estimates), float(truth.norm())
    error = (estimates - truth).flatten(1) / size
    mean = error.mean(0)
    covariance = error.T.cov()
    bias = float(mean @ mean - covariance.trace() / count)
    spread = 4 * float(mean @ covariance @ mean) / count + 2 * float((covariance @ covariance).trace()) / count**2
    cosine = torch.cosine_similarity(estimates.flatten(1), truth.flatten().unsqueeze(0))
    return Estimate(
        _roots(bias, math.sqrt(spread)),
        _roots(float(error.square().sum(1).mean()), float(error.square().sum(1).std()) / math.sqrt(count)),
        _interval(float(cosine.mean()), float(cosine.std()) / math.sqrt(count)),
    )


def measure(
    problem: Problem, kind: str, sizes: Sequence[int], num_batches: int, seed: int = 0
) -> dict[str, list[Estimate]]:
    """Returns the errors of every estimator for each number of inner episodes, all on the same batches."""
    truth = problem.truth()

    def errors(size: int) -> list[Estimate]:
        generator = rng.torch_generator(seed, f"analysis/estimators/{kind}", size)
        batches = sample_batches(problem, kind, num_batches, size, generator)
        return [summarise(meta_gradients(estimator, problem, batches), truth) for estimator in ESTIMATORS.values()]

    rows = parallel_map(errors, sizes, available_cores())
    return {name: [row[index] for row in rows] for index, name in enumerate(ESTIMATORS)}


def biases(found: Mapping[str, Sequence[Estimate]], sizes: Sequence[int]) -> pd.DataFrame:
    """Returns biases from `measure` as `estimator, episodes, value, low, high`, for `analysis.plots.plot_bias`."""
    rows = [(name, size, *each.bias) for name, of in found.items() for size, each in zip(sizes, of, strict=True)]
    return pd.DataFrame(rows, columns=["estimator", "episodes", "value", "low", "high"])


def limits(problem: Problem) -> dict[str, Tensor]:
    """Returns the exact limits of the biased estimators for infinitely many episodes, from the state occupancy.

    The inner loss converges to its expectation. E-MAML's second term converges to the derivative of the expected inner
    step in the parameters of the sampling policy. With exact advantages, which also depend on θ, this is not all of
    ∇²J.
    """
    mdp, logits, step_size = problem.mdp, problem.logits, problem.step_size
    weight, advantage, q = occupancy(mdp, logits), advantages(mdp, logits), action_values(mdp, logits)
    log_probs = logits.log_softmax(-1)

    def through(inner: Callable[[Tensor], Tensor]) -> Tensor:
        estimate: Tensor = grad(lambda table: expected_return(mdp, table + step_size * grad(inner)(table)))(logits)
        return estimate

    def frozen_step(sampling: Tensor) -> Tensor:
        """Returns the expected inner step at the logits for episodes sampled by another policy."""
        met = occupancy(mdp, sampling)
        step: Tensor = grad(lambda table: (met * advantage * table.log_softmax(-1)).sum())(logits)
        return step

    maml = through(lambda table: (weight * advantage * table.log_softmax(-1)).sum())
    pull = torch.func.vjp(frozen_step, logits)[1]
    outer = policy_gradient(mdp, adapt(mdp, logits, step_size))
    return {
        "maml": maml,
        "maml, no baseline": through(lambda table: (weight * q * table.log_softmax(-1)).sum()),
        "e_maml, exact advantages": maml + step_size * pull(outer)[0],
        "lvc": through(lambda table: (weight * advantage * (table.log_softmax(-1) - log_probs).exp()).sum()),
    }


def exact_biases(problem: Problem, num_episodes: int) -> dict[str, tuple[float, float]]:
    """Returns ‖E ĝ − ∇F_N‖ / ‖∇F_N‖ and ‖E ĝ − ∇J(θ')‖ / ‖∇J(θ')‖ of every estimator, with returns to go.

    F_N is the expected return after a step on N sampled episodes (analysis/studies/enumeration.py), θ' the exact step.
    All expectations are sums over all batches; nothing is sampled.
    """
    mdp, logits = problem.mdp, problem.logits
    episodes = enumerate_episodes(mdp)
    kinds = all_batches(len(episodes.dynamics), num_episodes)
    probability = batch_probability(episodes.probability(logits), kinds)
    log_prob = episodes.log_prob(logits)
    batches = PolicyBatch(
        observation=episodes.observation[kinds],
        action=episodes.action[kinds],
        advantage=episodes.returns_to_go()[kinds],
        log_prob=log_prob[kinds],
        valid=torch.ones(log_prob[kinds].shape, dtype=torch.bool),
    )
    finite = grad(lambda table: finite_sample_return(mdp, table, problem.step_size, num_episodes))(logits)
    found = {}
    for name, estimator in ESTIMATORS.items():
        expected = torch.einsum("b,bsa->sa", probability, meta_gradients(estimator, problem, batches))
        found[name] = (relative(expected, finite), relative(expected, problem.truth()))
    return found


def relative(estimate: Tensor, truth: Tensor) -> float:
    """Returns ‖estimate − truth‖ / ‖truth‖."""
    return float((estimate - truth).norm() / truth.norm())


def _interval(value: float, deviation: float) -> tuple[float, float, float]:
    return value, value - 1.96 * deviation, value + 1.96 * deviation


def _roots(square: float, deviation: float) -> tuple[float, float, float]:
    value, low, high = (math.sqrt(max(0.0, end)) for end in _interval(square, deviation))
    return value, low, high


def sampled_table(found: Mapping[str, Sequence[Estimate]], sizes: Sequence[int], field: str) -> str:
    """Returns one kind of error of every estimator, a row for each number of episodes."""
    rows = [["episodes", *found], ["---:"] * (len(found) + 1)]
    for index, size in enumerate(sizes):
        ends = [getattr(estimates[index], field) for estimates in found.values()]
        rows.append([str(size), *(f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in ends)])
    return markdown_table(rows)


def exact_table(problem: Problem, sizes: Sequence[int]) -> str:
    """Returns the biases of `exact_biases`, a row for each number of episodes."""
    rows = [["episodes", *(f"{name}: own / exact" for name in ESTIMATORS)], ["---:"] * (len(ESTIMATORS) + 1)]
    for size in sizes:
        found = exact_biases(problem, size)
        rows.append([str(size), *(f"{own:.1e} / {exact:.3f}" for own, exact in found.values())])
    return markdown_table(rows)


def limits_table(problems: Sequence[Problem]) -> str:
    """Returns bias and cosine for infinitely many episodes: median, minimum and maximum over problems."""
    rows = [["estimator", "relative bias", "cosine with the meta-gradient"], ["---", "---:", "---:"]]
    found = [(problem.truth(), limits(problem)) for problem in problems]
    for name in found[0][1]:
        biases = [relative(limit[name], truth) for truth, limit in found]
        cosines = [float((limit[name] * truth).sum() / limit[name].norm() / truth.norm()) for truth, limit in found]
        rows.append([name, *(f"{np.median(v):.3f} ({min(v):.3f} to {max(v):.3f})" for v in (biases, cosines))])
    return markdown_table(rows)


def report(batches: int, picture: Path) -> str:
    """Returns the tables of the page in Markdown, and draws the picture."""
    problem = random_problem(seed=0, num_states=5, num_actions=3, horizon=5, step_size=2.0, noise=1.0)
    found = {kind: measure(problem, kind, EPISODES, batches) for kind in ADVANTAGES}
    final = {name: relative(limit, problem.truth()) for name, limit in limits(problem).items()}
    plot_estimates({ADVANTAGES[kind]: found[kind] for kind in ADVANTAGES}, EPISODES, final, picture)
    parts = [
        f"**Relative {label}, {ADVANTAGES[kind]}**\n\n{sampled_table(found[kind], EPISODES, field)}"
        for field, label in (("bias", "bias"), ("rmse", "root mean square error"))
        for kind in ADVANTAGES
    ]
    others = [random_problem(seed, 5, 3, 5, 2.0) for seed in range(20)]
    title = f"**With infinitely many episodes, {len(others)} random MDPs: median (least to largest)**"
    parts.append(f"{title}\n\n{limits_table(others)}")
    small = random_problem(seed=0, num_states=2, num_actions=2, horizon=2, step_size=2.0)
    parts.append(f"**By enumeration, 2 states, 2 actions, 2 steps**\n\n{exact_table(small, (1, 2, 4, 8))}")
    return "\n\n".join(parts)


def main(argv: Sequence[str]) -> int:
    """Measures the errors, draws the picture and updates the page. Returns the exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--page", type=Path, default=Path("docs/results/estimators.md"), help="the page to update")
    parser.add_argument("--picture", type=Path, default=Path("docs/results/estimators.png"), help="the file to draw to")
    parser.add_argument("--batches", type=int, default=1000, help="batches for each number of episodes, at least 2")
    arguments = parser.parse_args(argv)
    if arguments.batches < 2:
        print(f"--batches={arguments.batches}: need at least 2, one value has no spread", file=sys.stderr)
        return 2
    return measure_and_renew(arguments.page, COMMAND, lambda: report(arguments.batches, arguments.picture))
