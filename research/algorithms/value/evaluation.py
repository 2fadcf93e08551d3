"""Held-out tasks: transitions of each, TD steps on them, and what the greedy policy is worth on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from research import rng
from research.algorithms.value.config import LookaheadDQNConfig
from research.algorithms.value.learner import TDLearner, as_batch
from research.denormals import flushed_denormals
from research.distributions import Categorical
from research.evaluation import AdaptationCurve, Episodes, check_num_adapt_steps
from research.per_task import expand
from research.sampling.collect import collect, reset_seed
from research.sampling.interaction import Interaction
from research.sampling.replay_buffer import ReplayBuffer
from research.tasks import TaskDistribution
from research.td import TransitionBatch
from research.types import Params, Trajectories

Minibatches = Iterator[TransitionBatch]
Advance = Callable[[list[TransitionBatch]], Params]
"""The next minibatches, one for each TD step, perhaps none → per-task parameters after them."""

_CERTAIN = 1e4


class GreedyPolicy(nn.Module):
    """The best action of a Q-network, as the distribution that it is certain in."""

    accepts_task_axis = True

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, observation: Tensor) -> Categorical:
        values = self.network(observation)
        return Categorical(torch.zeros_like(values).scatter_(-1, values.argmax(-1, keepdim=True), _CERTAIN))


def gather(
    config: LookaheadDQNConfig, distribution: TaskDistribution, tasks: Any, policy: TDLearner | None, *index: Any
) -> ReplayBuffer:
    """`adapt_transitions` transitions of each task, with actions that explore with the chance `adapt_epsilon`.

    Args:
        config: The settings.
        distribution: Makes the environments.
        tasks: A task batch.
        policy: Acts otherwise; None if it never does.
        index: What the draws depend on beside the seed: a stream, and numbers.
    """
    envs = distribution.make_envs(tasks, config.rows_per_task)
    draws = rng.generator(config.seed, *index)
    num_actions = int(distribution.action_space.n)  # type: ignore[attr-defined]

    counts: list[dict[bytes, NDArray[np.float64]]] = [{} for _ in range(envs.num_envs // config.rows_per_task)]

    def explore(observation: NDArray[Any]) -> NDArray[np.int64]:
        if config.adapt_actions == "random":
            return draws.integers(num_actions, size=len(observation))
        return _least_tried(observation, counts, draws.random((len(observation), num_actions)))

    def act(observation: NDArray[Any]) -> NDArray[np.int64]:
        explores = draws.random(len(observation)) < config.adapt_epsilon
        explored = explore(observation)
        return explored if policy is None else np.where(explores, explored, policy.greedy(observation))

    interaction = Interaction(envs, int(draws.integers(2**31)))
    transitions, _ = interaction.run(config.adapt_transitions // config.rows_per_task, act)
    envs.close()
    num_tasks = envs.num_envs // config.rows_per_task
    size = transitions.reward.size
    buffer = ReplayBuffer(size, envs.num_envs, transitions.observation[0, 0], num_actions, num_tasks)
    buffer.add(transitions)
    return buffer


def _least_tried(
    observation: NDArray[Any], counts: list[dict[bytes, NDArray[np.float64]]], chance: NDArray[np.float64]
) -> NDArray[np.int64]:
    """For each row the action that its task tried least where it is, by `chance [rows, actions]` one of the equals."""
    actions = np.empty(len(observation), np.int64)
    rows = len(observation) // len(counts)
    for row, seen in enumerate(observation):
        tried = counts[row // rows].setdefault(seen.tobytes(), np.zeros(chance.shape[1]))
        actions[row] = (tried + chance[row]).argmin()
        tried[actions[row]] += 1
    return actions


def minibatches(config: LookaheadDQNConfig, buffer: ReplayBuffer, *index: Any) -> Minibatches:
    """Minibatches of every task without end, `[tasks, batch, ...]`; `index` as for `gather`."""
    draws = rng.generator(config.seed, *index)
    while True:
        drawn = buffer.draw_uniformly((config.batch_size,), draws)
        drawn = drawn if drawn.ndim == 2 else drawn[None]
        yield as_batch(buffer.take(drawn, config.discount, config.n_step), config)


def by_td_steps(config: LookaheadDQNConfig, network: nn.Module, params: Params, num_tasks: int) -> Advance:
    """TD steps from `params` by each task on its own, with an optimiser that has just been made."""
    learner = TDLearner(config, network, expand(params, num_tasks))

    def advance(batches: list[TransitionBatch]) -> Params:
        for batch in batches:
            learner.step(batch)
        return learner.params()

    return advance


@flushed_denormals()
def evaluate(
    config: LookaheadDQNConfig,
    distribution: TaskDistribution,
    network: nn.Module,
    params: Params,
    num_tasks: int,
    num_adapt_steps: int,
    advance: Advance | None = None,
) -> AdaptationCurve:
    """The greedy policy's mean return on held-out tasks after every `td_steps_per_adapt_step` TD steps.

    Args:
        config: The settings.
        distribution: The tasks.
        network: The Q-network.
        params: What was learned.
        num_tasks: Held-out tasks.
        num_adapt_steps: Entries of the curve after the first.
        advance: Adapts; None for `by_td_steps`.
    """
    check_num_adapt_steps(num_adapt_steps)
    tasks = distribution.test_tasks(num_tasks)
    policy = None if config.adapt_epsilon == 1 else TDLearner(config, network, params)
    buffer = gather(config, distribution, tasks, policy, "evaluation/transitions")
    advance = advance or by_td_steps(config, network, params, num_tasks)
    batches = minibatches(config, buffer, "evaluation/minibatches")
    counts = [0] + [config.td_steps_per_adapt_step] * num_adapt_steps
    adapted = (advance(list(itertools.islice(batches, count))) for count in counts)
    episodes = _play(config, distribution, network, tasks, num_tasks, adapted)
    each = config.td_steps_per_adapt_step
    return AdaptationCurve(
        "mean discounted return" if config.discounted_score else "mean return",
        np.stack([_score(config, sampled) for sampled in episodes.trajectories]),
        tasks,
        unit="TD steps" if each == 1 else f"× {each} TD steps",
        distribution=distribution,
        details=episodes,
    )


def _play(
    config: LookaheadDQNConfig,
    distribution: TaskDistribution,
    network: nn.Module,
    tasks: Any,
    num_tasks: int,
    adapted: Iterator[Params],
) -> Episodes:
    """Episodes of the greedy policy with each of the per-task parameters."""
    envs, policy = distribution.make_envs(tasks, config.eval_episodes), GreedyPolicy(network)
    sampled: list[Trajectories] = []
    seeds: list[int] = []
    for step, params in enumerate(adapted):
        named = {f"network.{name}": value for name, value in params.items()}
        generator = rng.torch_generator(config.seed, "evaluation", step, device=config.device)
        sampled.append(collect(policy, named, envs, num_tasks, config.horizon, generator))
        seeds.append(reset_seed(generator))
    envs.close()
    return Episodes(tuple(sampled), tuple(seeds))


def _score(config: LookaheadDQNConfig, episodes: Trajectories) -> Any:
    """The mean return of each task."""
    if not config.discounted_score:
        return episodes.returns().mean(1).double().cpu().numpy()
    reward = (episodes.reward * episodes.valid).double()
    powers = config.discount ** torch.arange(reward.shape[-1], dtype=torch.float64, device=reward.device)
    return (reward * powers).sum(-1).mean(1).cpu().numpy()
