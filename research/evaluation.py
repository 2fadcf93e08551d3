"""Adaptation curves: how much better an agent becomes with every gradient step on tasks it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from research import rng
from research.losses import PolicyBatch
from research.sampling.collect import collect
from research.tasks import TaskDistribution
from research.types import Params, Trajectories


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
    """

    label: str
    score: NDArray[np.float64]
    tasks: Any
    trajectories: tuple[Trajectories, ...] = ()
    lower_is_better: bool = False
    distribution: TaskDistribution | None = None
    reset_seeds: tuple[int, ...] = ()


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
