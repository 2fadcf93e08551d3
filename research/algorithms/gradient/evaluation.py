"""Adaptation curves of a policy that adapts by gradient steps on its own episodes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from research import rng
from research.evaluation import AdaptationCurve, Episodes, check_num_adapt_steps
from research.losses import PolicyBatch
from research.sampling.collect import collect, reset_seed
from research.tasks import TaskDistribution
from research.types import Params, Trajectories


def adaptation_curve(
    policy: nn.Module,
    adapt: Callable[[list[PolicyBatch]], Params],
    process: Callable[[Trajectories], PolicyBatch],
    distribution: TaskDistribution,
    *,
    num_tasks: int,
    num_adapt_steps: int,
    episodes: int,
    seed: int,
    num_threads: int = 0,
) -> AdaptationCurve:
    """Returns the mean return on each held-out task after 0, 1, ..., `num_adapt_steps` steps, on new episodes each.

    Args:
        policy: Observation → distribution.
        adapt: Returns the per-task parameters `[tasks, ...]` after one inner step on each batch.
        process: Converts episodes to the batch of one inner step.
        distribution: Has the held-out tasks, and makes their environments.
        num_tasks: Number of held-out tasks.
        num_adapt_steps: Gradient steps, at least 0; may exceed those of training.
        episodes: Episodes per task and step.
        seed: The curve is a pure function of the arguments and this.
        num_threads: Threads that step the environments, see `collect`.

    Raises:
        ValueError: `num_adapt_steps` is below 0, or there are fewer held-out tasks.
    """
    check_num_adapt_steps(num_adapt_steps)
    batches: list[PolicyBatch] = []
    sampled: list[Trajectories] = []
    seeds: list[int] = []
    tasks = distribution.test_tasks(num_tasks)
    envs = distribution.make_envs(tasks, episodes)
    for step in range(num_adapt_steps + 1):
        params = adapt(batches)
        generator = rng.torch_generator(seed, "evaluation", step, device=next(iter(params.values())).device)
        sampled.append(collect(policy, params, envs, num_tasks, distribution.horizon, generator, num_threads))
        seeds.append(reset_seed(generator))
        if step < num_adapt_steps:
            batches.append(process(sampled[-1]))
    envs.close()
    return AdaptationCurve(
        "mean return",
        np.stack([each.returns().mean(1).double().cpu().numpy() for each in sampled]),
        tasks,
        distribution=distribution,
        details=Episodes(tuple(sampled), tuple(seeds)),
    )
