"""Adaptation curves of a policy that adapts by gradient steps on its own episodes, and the algorithms that have one."""

from __future__ import annotations

from typing import Any, Generic, Self, TypeVar

import numpy as np

from research import rng
from research.algorithms.gradient.agent import Agent, AgentConfig
from research.distributed import ALONE, Ranks
from research.evaluation import AdaptationCurve, Episodes, check_num_adapt_steps
from research.losses import PolicyBatch
from research.sampling.collect import collect, reset_seed
from research.tasks.splits import SplitName, evaluation_stream, evaluation_tasks
from research.types import MetaParams, Trajectories

C = TypeVar("C", bound=AgentConfig)


class AgentAlgorithm(Generic[C]):
    """An algorithm around an `Agent`: all but its settings `Config`, its `init` and its `step`.

    The state of the algorithm has its meta-parameters as `meta`.

    Args:
        config: The settings.
        ranks: The processes that share the tasks of a meta-batch.
    """

    def __init__(self, config: C, ranks: Ranks = ALONE):
        self.config = config
        self.agent = Agent(config, ranks)

    def with_ranks(self, ranks: Ranks) -> Self:
        """Returns the same algorithm as one of several processes that share its tasks."""
        return type(self)(self.config, ranks)

    def evaluate(self, state: Any, num_tasks: int, num_adapt_steps: int, split: SplitName = "test") -> AdaptationCurve:
        """Returns the mean return on tasks of a split after 0, 1, ... gradient steps."""
        return adaptation_curve(self.agent, state.meta, num_tasks, num_adapt_steps, split)


def adaptation_curve(
    agent: Agent, meta: MetaParams, num_tasks: int, num_adapt_steps: int, split: SplitName = "test"
) -> AdaptationCurve:
    """Returns the mean return on tasks of a split after 0, 1, ..., `num_adapt_steps` gradient steps.

    Each entry is the mean of `eval_episodes` new episodes per task, and the next gradient step uses the same episodes.
    The curve is a pure function of the arguments.

    Args:
        agent: The policy, its inner loop, its tasks and its settings.
        meta: The meta-parameters, with the learning rates of training.
        num_tasks: Number of tasks.
        num_adapt_steps: Gradient steps, at least 0; may exceed those of training.
        split: The split of the tasks.

    Raises:
        ValueError: `num_adapt_steps` is below 0, or the split has fewer tasks.
    """
    check_num_adapt_steps(num_adapt_steps)
    config, meta = agent.config, agent.config.at_evaluation(meta)
    tasks, evaluated = evaluation_tasks(agent.tasks, split, num_tasks)
    envs = agent.tasks.make_envs(tasks, config.eval_episodes)
    batches: list[PolicyBatch] = []
    sampled: list[Trajectories] = []
    seeds: list[int] = []
    for step in range(num_adapt_steps + 1):
        params = agent.adapt(meta, batches, num_tasks)
        generator = rng.torch_generator(config.seed, evaluation_stream(split), step, device=agent.device)
        sampled.append(
            collect(agent.policy, params, envs, num_tasks, agent.tasks.horizon, generator, config.num_threads)
        )
        seeds.append(reset_seed(generator))
        if step < num_adapt_steps:
            batches.append(agent.process(sampled[-1]))
    envs.close()
    return AdaptationCurve(
        "mean return",
        np.stack([episodes.returns().mean(1).double().cpu().numpy() for episodes in sampled]),
        tasks,
        distribution=agent.tasks,
        details=Episodes(tuple(sampled), tuple(seeds)),
        evaluated=evaluated,
    )
