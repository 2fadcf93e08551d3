"""The evaluation of the DQN family: transitions of held-out tasks, TD steps on them, and the greedy policy's return."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from research import rng
from research.algorithms.value.config import DQNConfig, TDConfig
from research.algorithms.value.learner import FlatNetwork, TDLearner, as_batch
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

Advance = Callable[[list[TransitionBatch]], Params]
"""Takes a TD step for each of the next minibatches (there may be none), and returns the per-task parameters then."""

_GREEDY_LOGIT = 1e4
"""The logit of the best action where all others are 0: its probability is 1 in floating point."""


class GreedyPolicy(nn.Module):
    """The policy that takes the best action of a Q-network with probability 1."""

    accepts_task_axis = True

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, observation: Tensor) -> Categorical:
        values = self.network(observation)
        return Categorical(torch.zeros_like(values).scatter_(-1, values.argmax(-1, keepdim=True), _GREEDY_LOGIT))


def collect_transitions(
    config: DQNConfig,
    distribution: TaskDistribution,
    tasks: Any,
    network: nn.Module,
    params: Params,
    stream: str,
    *index: int,
) -> ReplayBuffer:
    """Collects `adapt_transitions` transitions of each task; each action explores with probability `adapt_epsilon`.

    Args:
        config: The settings.
        distribution: Makes the environments.
        tasks: The task batch.
        network: The Q-network of the greedy actions.
        params: Its parameters.
        stream: Name of the random draws, see `research.rng`.
        index: Numbers that tell these draws from others of the stream, e.g. the iteration.
    """
    envs = distribution.make_envs(tasks, config.rows_per_task)
    num_tasks = envs.num_envs // config.rows_per_task
    draws = rng.generator(config.seed, stream, *index)
    num_actions = int(distribution.action_space.n)  # type: ignore[attr-defined]
    policy = None if config.adapt_epsilon == 1 else FlatNetwork(network, params)
    counts: list[dict[bytes, NDArray[np.float64]]] = [{} for _ in range(num_tasks)]

    def act(observation: NDArray[Any]) -> NDArray[np.int64]:
        rows = len(observation)
        explores = draws.random(rows) < config.adapt_epsilon
        if config.adapt_actions == "random":
            explored = draws.integers(num_actions, size=rows)
        else:
            explored = _least_tried(observation, counts, draws.random((rows, num_actions)))
        return explored if policy is None else np.where(explores, explored, policy.greedy(observation))

    interaction = Interaction(envs, int(draws.integers(2**31)))
    transitions, _ = interaction.run(config.adapt_transitions // config.rows_per_task, act)
    envs.close()
    size = transitions.reward.size
    buffer = ReplayBuffer(size, envs.num_envs, transitions.observation[0, 0], num_actions, num_tasks)
    buffer.add(transitions)
    return buffer


def _least_tried(
    observation: NDArray[Any], counts: list[dict[bytes, NDArray[np.float64]]], tie_break: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The action of each row that its task tried least at its observation; `tie_break [rows, actions]` is in [0, 1)."""
    actions = np.empty(len(observation), np.int64)
    rows = len(observation) // len(counts)
    for row, seen in enumerate(observation):
        tried = counts[row // rows].setdefault(seen.tobytes(), np.zeros(tie_break.shape[1]))
        actions[row] = (tried + tie_break[row]).argmin()
        tried[actions[row]] += 1
    return actions


def minibatches(
    config: DQNConfig, buffer: ReplayBuffer, stream: str, *index: int, n_step: int = 1
) -> Iterator[TransitionBatch]:
    """Yields minibatches of every task without end, `[tasks, batch, ...]`. Arguments as for `collect_transitions`."""
    draws = rng.generator(config.seed, stream, *index)
    while True:
        drawn = buffer.draw_uniformly((config.batch_size,), draws)
        drawn = drawn if drawn.ndim == 2 else drawn[None]
        yield as_batch(buffer.take(drawn, config.discount, n_step), config)


def by_td_steps(config: TDConfig, network: nn.Module, params: Params, num_tasks: int) -> Advance:
    """Adaptation by TD steps from `params`, of each task on its own, with a new optimiser."""
    learner = TDLearner(config, network, expand(params, num_tasks))

    def advance(batches: list[TransitionBatch]) -> Params:
        for batch in batches:
            learner.step(batch)
        return learner.online.params()

    return advance


@flushed_denormals()
def evaluate(
    config: DQNConfig,
    distribution: TaskDistribution,
    network: nn.Module,
    params: Params,
    num_tasks: int,
    num_adapt_steps: int,
    advance: Advance,
    n_step: int = 1,
) -> AdaptationCurve:
    """The mean return of the greedy policy on held-out tasks after every `td_steps_per_adapt_step` TD steps.

    Args:
        config: The settings.
        distribution: The tasks.
        network: The Q-network.
        params: Its parameters before adaptation.
        num_tasks: Number of held-out tasks.
        num_adapt_steps: Entries of the curve after the first.
        advance: Adapts to the tasks.
        n_step: Steps of the environment before a target bootstraps.
    """
    check_num_adapt_steps(num_adapt_steps)
    tasks = distribution.test_tasks(num_tasks)
    buffer = collect_transitions(config, distribution, tasks, network, params, "evaluation/transitions")
    batches = minibatches(config, buffer, "evaluation/minibatches", n_step=n_step)
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
    config: DQNConfig,
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


def _score(config: DQNConfig, episodes: Trajectories) -> Any:
    """The mean return of each task."""
    if not config.discounted_score:
        return episodes.returns().mean(1).double().cpu().numpy()
    reward = (episodes.reward * episodes.valid).double()
    powers = config.discount ** torch.arange(reward.shape[-1], dtype=torch.float64, device=reward.device)
    return (reward * powers).sum(-1).mean(1).cpu().numpy()
