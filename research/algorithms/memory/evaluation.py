"""Adaptation curves of a recurrent policy: the return of each episode of a trial, and the regret where it is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from research import rng
from research.algorithms.memory.agent import MemoryAgent
from research.algorithms.memory.recurrent import action_regret
from research.evaluation import AdaptationCurve, RecordedTrials, check_num_adapt_steps, spread
from research.sampling.trials import collect_trials
from research.tasks import SolvedTasks
from research.tasks.base import KnownBayesOptimum, KnownOptimum
from research.tasks.splits import SplitName, evaluation_stream, evaluation_tasks
from research.types import Params, Trials

_RECORDED = 4
"""Largest number of tasks of which a trial is recorded."""


def trial_curve(
    agent: MemoryAgent[Any], params: Params, num_tasks: int, num_adapt_steps: int | None, split: SplitName = "test"
) -> AdaptationCurve:
    """Returns the return of the first, second, ... episode of a trial, averaged over `eval_trials`.

    For `SolvedTasks` the curve also has the extra `regret`, and the totals `total` (see `expected_total`) and
    `total_regret`. With a `KnownBayesOptimum` that is exact it has the total `below_bayes_optimal`, the Bayes-optimal
    return of a trial less that of the policy, if the tasks stand for the family (`_stand_for_family`). Actions are
    sampled, or with `eval_actions="mode"` the most probable ones. A trial of each of a few distinct tasks is recorded
    (`RecordedTrials`). The curve is a pure function of the arguments; fewer episodes are the first ones of more.

    Args:
        agent: The policy, its tasks and its settings.
        params: Parameters of the policy.
        num_tasks: Number of tasks.
        num_adapt_steps: Episodes of a trial after the first one, at least 0; None for as many as in training.
        split: The split of the tasks.

    Raises:
        ValueError: `num_adapt_steps` is below 0, or the split has fewer tasks.
    """
    config, distribution = agent.config, agent.tasks
    episodes = config.episodes_per_trial if num_adapt_steps is None else num_adapt_steps + 1
    check_num_adapt_steps(episodes - 1)
    tasks, evaluated = evaluation_tasks(distribution, split, num_tasks)
    envs = distribution.make_envs(tasks, config.eval_trials)
    generator = rng.torch_generator(config.seed, evaluation_stream(split), device=agent.device)
    sizes = (num_tasks, episodes, distribution.horizon)
    is_mode = config.eval_actions == "mode"
    trials = collect_trials(
        agent.policy, params, envs, *sizes, generator, num_threads=agent.num_threads, take_mode=is_mode
    )
    envs.close()
    score = _per_episode(trials, trials.reward.double(), episodes)
    curve = AdaptationCurve(
        "mean return", score, tasks, unit="episodes of the trial", distribution=distribution, evaluated=evaluated
    )
    curve = curve._replace(details=_record(curve, trials, generator.initial_seed() % 2**31))
    if not isinstance(distribution, SolvedTasks):
        return curve._replace(totals=_below_bayes_optimal(curve, score.sum(0), episodes))
    regret = _per_episode(trials, action_regret(distribution, tasks, trials), episodes)
    total = expected_total(regret, distribution.optimal_return(tasks), known_mean_optimum(curve))
    totals = {"total": total, "total_regret": regret.sum(0), **_below_bayes_optimal(curve, total, episodes)}
    return curve._replace(extras={"regret": regret}, totals=totals)


def expected_total(
    regret: NDArray[np.float64], optimal: NDArray[np.float64], mean_optimal: float | None = None
) -> NDArray[np.float64]:
    """Returns the total return of all episodes on each task, `[tasks]`, without the noise of rewards and transitions.

    With R* the expected return of the optimal policy of a task and Δ_e the regret of the actions of episode e, whose
    expectation is R* − E return_e,

        E Σ_e return_e = n E R* − E Σ_e Δ_e

    The first term is known exactly for some distributions, e.g. k/(k + 1) for the best of k arms whose means are
    uniform on [0, 1]. Then only the regret is estimated, and the mean R* of the sampled tasks adds no noise.

    Args:
        regret: Δ_e of each episode and task, `[episodes, tasks]`.
        optimal: R* of each task, `[tasks]`.
        mean_optimal: E R* over the distribution of tasks, which then replaces `optimal`; None if it is not known.
    """
    best = optimal if mean_optimal is None else np.full_like(optimal, mean_optimal)
    return len(regret) * best - regret.sum(0)


def known_mean_optimum(curve: AdaptationCurve) -> float | None:
    """Returns E R* over the distribution of tasks, if it is known and the tasks of the curve stand for it."""
    distribution: object = curve.distribution
    if isinstance(distribution, KnownOptimum) and _stand_for_family(curve):
        return distribution.mean_optimal_return()
    return None


def _stand_for_family(curve: AdaptationCurve) -> bool:
    """Returns whether the tasks are draws, or all tasks of the family, equally often: not the first few of a list."""
    return curve.evaluated.num_tasks is None or curve.has_all_tasks()


def _below_bayes_optimal(
    curve: AdaptationCurve, total: NDArray[np.float64], episodes: int
) -> dict[str, NDArray[np.float64]]:
    """Returns the total that says how far `total [tasks]` is from Bayes-optimal; none if that is not known exactly.

    Only its mean over all tasks of the distribution is at least 0: a search is lucky on some tasks.
    """
    distribution: object = curve.distribution
    if not isinstance(distribution, KnownBayesOptimum) or not _stand_for_family(curve):
        return {}
    found = distribution.bayes_optimal_return(episodes)
    return {"below_bayes_optimal": found.low - total} if found and found.is_exact else {}


def _record(curve: AdaptationCurve, trials: Trials, reset_seed: int) -> RecordedTrials:
    """Returns the first trial of a few tasks, evenly spaced among the distinct ones."""
    first = np.sort(np.unique(curve.distinct(), return_index=True)[1])
    chosen = first[spread(len(first), _RECORDED)]
    num_tasks, trials_per_task = trials.diverged.shape
    rows = rng.Rows(chosen * trials_per_task, num_tasks * trials_per_task)
    kept = Trials(*(field[chosen][:, :1].clone() for field in trials))
    return RecordedTrials(kept, chosen, rows, reset_seed)


def _per_episode(trials: Trials, values: Tensor, num_episodes: int) -> NDArray[np.float64]:
    """Returns the sums over each episode, averaged over trials: `[episodes, tasks]`."""
    sums: NDArray[np.float64] = trials.episode_sums(values, num_episodes).mean(-1).cpu().numpy()
    return sums
