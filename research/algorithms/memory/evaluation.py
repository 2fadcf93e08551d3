"""Adaptation curves of a recurrent policy: the return of each episode of a trial, and the regret where it is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from research import rng
from research.evaluation import AdaptationCurve, check_num_adapt_steps
from research.policies.gru import GRUPolicy
from research.sampling.trials import collect_trials
from research.tasks import SolvedTasks, TaskDistribution
from research.tasks.base import KnownOptimum
from research.types import Params, Trials


def trial_curve(
    policy: GRUPolicy,
    params: Params,
    distribution: TaskDistribution,
    *,
    num_tasks: int,
    num_adapt_steps: int,
    trials: int,
    seed: int,
) -> AdaptationCurve:
    """Returns the return of the first, second, ... episode of a trial on each held-out task, averaged over trials.

    For `SolvedTasks` the curve also has the extra `regret`, and the totals `total` (see `expected_total`) and
    `total_regret`.

    Args:
        policy: A recurrent policy.
        params: Its parameters.
        distribution: Has the held-out tasks, and makes their environments.
        num_tasks: Number of held-out tasks.
        num_adapt_steps: Episodes after the first one, at least 0; may exceed those of training.
        trials: Trials for each task.
        seed: The curve is a pure function of the arguments and this. Fewer episodes are the first ones of more.

    Raises:
        ValueError: `num_adapt_steps` is below 0, or there are fewer held-out tasks.
    """
    check_num_adapt_steps(num_adapt_steps)
    episodes = num_adapt_steps + 1
    tasks = distribution.test_tasks(num_tasks)
    envs = distribution.make_envs(tasks, trials)
    generator = rng.torch_generator(seed, "evaluation", device=next(iter(params.values())).device)
    sampled = collect_trials(policy, params, envs, num_tasks, episodes, distribution.horizon, generator)
    envs.close()
    score = _per_episode(sampled, sampled.reward.double(), episodes)
    curve = AdaptationCurve("mean return", score, tasks, unit="episodes of the trial", distribution=distribution)
    if not isinstance(distribution, SolvedTasks):
        return curve
    regret = _per_episode(sampled, action_regret(distribution, tasks, sampled), episodes)
    mean_optimal = distribution.mean_optimal_return() if isinstance(distribution, KnownOptimum) else None
    total = expected_total(regret, distribution.optimal_return(tasks), mean_optimal)
    return curve._replace(extras={"regret": regret}, totals={"total": total, "total_regret": regret.sum(0)})


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


def action_regret(distribution: SolvedTasks, tasks: Any, trials: Trials) -> Tensor:
    """Returns the expected return lost by each valid action, `[tasks, trials, time]`, float64; 0 elsewhere."""
    observation, action = (field.cpu().numpy() for field in (trials.observation, trials.action))
    regret = torch.as_tensor(distribution.action_regret(tasks, observation, action), device=trials.valid.device)
    return regret * trials.valid


def _per_episode(trials: Trials, values: Tensor, num_episodes: int) -> NDArray[np.float64]:
    """Returns the sums over each episode, averaged over trials: `[episodes, tasks]`."""
    sums: NDArray[np.float64] = trials.episode_sums(values, num_episodes).mean(-1).cpu().numpy()
    return sums
