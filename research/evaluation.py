"""Adaptation curves: how much better an agent becomes with every step of adaptation on tasks it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from research import rng
from research.losses import PolicyBatch
from research.policies.gru import GRUPolicy
from research.sampling.collect import collect
from research.sampling.trials import collect_trials
from research.tasks import TaskDistribution
from research.tasks.base import KnownOptimum, SolvedTasks
from research.types import Params, Trajectories, Trials


class AdaptationCurve(NamedTuple):
    """The score of every held-out task before and after each step of adaptation.

    Attributes:
        label: What the score is, e.g. `"mean return"`.
        score: `[steps + 1, tasks]`, entry 0 before adaptation.
        tasks: The task batch.
        trajectories: What was sampled at each step, if the scores come from sampling.
        lower_is_better: Whether the score is an error.
        distribution: Made the environments, if the scores come from sampling.
        reset_seeds: What the environments of each step were reset with, so that their episodes can be replayed.
        unit: What a step of adaptation is, in the plural. Entry k of `score` comes after k of them.
        regret: `[steps + 1, tasks]`, what the actions of an episode gave away against the best ones for the task, each
            in expectation (`SolvedTasks.action_regret`); None where that is not known.
        optimal: `[tasks]`, the expected return of the best policy for each task; None likewise.
        mean_optimal: Its mean over the distribution of tasks, where it is known exactly.
        details: Data from which the scores were computed, of a type of the algorithm's own; None if it keeps none.
    """

    label: str
    score: NDArray[np.float64]
    tasks: Any
    trajectories: tuple[Trajectories, ...] = ()
    lower_is_better: bool = False
    distribution: TaskDistribution | None = None
    reset_seeds: tuple[int, ...] = ()
    unit: str = "gradient steps"
    regret: NDArray[np.float64] | None = None
    optimal: NDArray[np.float64] | None = None
    mean_optimal: float | None = None
    details: Any = None

    def total(self) -> NDArray[np.float64]:
        """What all steps together earned on each task, `[tasks]`; their mean estimates the expected total return.

        Where the best policies are known, what is lost is summed, and not what is earned: with R* the best expected
        return of a task and Δ_e the regret of an episode, of which E Δ_e = R* − E return_e,

            E Σ_e return_e = n E R* − E Σ_e Δ_e

        and the luck of rewards and moves is added to neither term. The first term is known exactly for some
        distributions (k/(k + 1) for the best of k arms that are uniform on [0, 1]), and then only the regret is left to
        be estimated: whether the sampled tasks are rich or poor no longer matters.
        """
        if self.regret is None or self.optimal is None:
            return self.score.sum(0)
        best = self.optimal if self.mean_optimal is None else np.full_like(self.optimal, self.mean_optimal)
        return len(self.regret) * best - self.regret.sum(0)

    def summary(self) -> dict[str, Any]:
        """What a record keeps: means over tasks after each step and, where there is a regret, of all steps together."""
        found: dict[str, Any] = {"label": self.label, "unit": self.unit, "score": self.score.mean(1).tolist()}
        if self.regret is not None:
            found |= {"total": float(self.total().mean()), "total_regret": float(self.regret.sum(0).mean())}
        return found

    def by_task(self) -> dict[str, Any]:
        """What a record keeps of every task: score and regret `[steps + 1, tasks]`, and what they are."""
        return {
            "label": self.label,
            "unit": self.unit,
            "lower_is_better": self.lower_is_better,
            "score": self.score.tolist(),
            "regret": None if self.regret is None else self.regret.tolist(),
        }


def spread(length: int, count: int) -> list[int]:
    """At most `count` indices of a list of this length, from the first to the last, as even as they can be."""
    return sorted({round(place) for place in np.linspace(0, length - 1, min(length, count))})


def adaptation_curve(
    policy: nn.Module,
    adapt: Callable[[list[PolicyBatch]], Params],
    process: Callable[[Trajectories], PolicyBatch],
    distribution: TaskDistribution,
    tasks: Any,
    *,
    num_tasks: int,
    num_adapt_steps: int,
    episodes: int,
    seed: int,
    num_threads: int = 0,
) -> AdaptationCurve:
    """The policy's mean return on each task after 0, 1, ..., `num_adapt_steps` steps, each on fresh episodes.

    Args:
        policy: Observation → distribution.
        adapt: Per-task parameters `[tasks, ...]` after one inner step for each batch; `[]` gives those before.
        process: Episodes → the batch of one inner step.
        distribution: Makes the environments.
        tasks: A task batch, usually `distribution.test_tasks(num_tasks)`.
        num_tasks: Its length.
        num_adapt_steps: Gradient steps, at least 0; may exceed the number trained for.
        episodes: Episodes per task and step.
        seed: The curve is a pure function of the arguments and this.
        num_threads: Threads that step the environments, see `collect`.
    """
    if num_adapt_steps < 0:
        raise ValueError(f"num_adapt_steps={num_adapt_steps}: need at least 0 steps")
    batches: list[PolicyBatch] = []
    trajectories: list[Trajectories] = []
    seeds: list[int] = []
    envs = distribution.make_envs(tasks, episodes)
    for step in range(num_adapt_steps + 1):
        params = adapt(batches)
        device = next(iter(params.values())).device
        generator = rng.torch_generator(seed, "evaluation", step, device=device)
        sampled = collect(policy, params, envs, num_tasks, distribution.horizon, generator, num_threads)
        trajectories.append(sampled)
        seeds.append(generator.initial_seed() % 2**31)  # as `collect` resets them; replays are checked
        if step < num_adapt_steps:
            batches.append(process(sampled))
    envs.close()
    score = np.stack([sampled.returns().mean(1).double().cpu().numpy() for sampled in trajectories])
    return AdaptationCurve(
        "mean return", score, tasks, tuple(trajectories), distribution=distribution, reset_seeds=tuple(seeds)
    )


def trial_curve(
    policy: GRUPolicy,
    params: Params,
    distribution: TaskDistribution,
    tasks: Any,
    *,
    num_tasks: int,
    num_adapt_steps: int,
    trials: int,
    seed: int,
) -> AdaptationCurve:
    """The return of the first, second, ... episode of a trial on each task, mean over trials.

    Args:
        policy: A recurrent policy.
        params: Its parameters.
        distribution: Makes the environments.
        tasks: A task batch, usually `distribution.test_tasks(num_tasks)`.
        num_tasks: Its length.
        num_adapt_steps: Episodes after the first one, at least 0; may exceed those of training.
        trials: Trials for each task.
        seed: The curve is a pure function of the arguments and this. Fewer episodes are the beginning of more.
    """
    if num_adapt_steps < 0:
        raise ValueError(f"num_adapt_steps={num_adapt_steps}: need at least 0 steps")
    episodes = num_adapt_steps + 1
    envs = distribution.make_envs(tasks, trials)
    generator = rng.torch_generator(seed, "evaluation", device=next(iter(params.values())).device)
    sampled = collect_trials(policy, params, envs, num_tasks, episodes, distribution.horizon, generator)
    envs.close()
    regret = optimal = mean_optimal = None
    if isinstance(distribution, SolvedTasks):
        optimal = distribution.optimal_return(tasks)
        regret = _per_episode(sampled, action_regret(distribution, tasks, sampled), episodes)
        mean_optimal = distribution.mean_optimal_return() if isinstance(distribution, KnownOptimum) else None
    return AdaptationCurve(
        "mean return",
        _per_episode(sampled, sampled.reward.double(), episodes),
        tasks,
        distribution=distribution,
        unit="episodes of the trial",
        regret=regret,
        optimal=optimal,
        mean_optimal=mean_optimal,
    )


def action_regret(distribution: SolvedTasks, tasks: Any, trials: Trials) -> Tensor:
    """What each valid action of the trials gave away in expectation, `[tasks, trials, time]`, float64; 0 elsewhere."""
    seen, done = (field.cpu().numpy() for field in (trials.observation, trials.action))
    return torch.as_tensor(distribution.action_regret(tasks, seen, done), device=trials.valid.device) * trials.valid


def _per_episode(trials: Trials, values: Tensor, num_episodes: int) -> NDArray[np.float64]:
    """Sums over each episode, mean over trials: `[episodes, tasks]`."""
    sums: NDArray[np.float64] = trials.episode_sums(values, num_episodes).mean(-1).cpu().numpy()
    return sums
