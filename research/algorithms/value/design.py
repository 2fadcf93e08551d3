"""The base of the designs of the DQN family: their network, their tasks, transitions of them, and the evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

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
from research.policies.q_network import QNetworkConfig, make_q_network
from research.sampling.collect import collect, reset_seed
from research.sampling.interaction import Interaction
from research.sampling.replay_buffer import ReplayBuffer
from research.tasks import make_tasks
from research.tasks.splits import SplitName, evaluation_stream, evaluation_tasks
from research.td import TransitionBatch
from research.types import Params, Trajectories

C = TypeVar("C", bound=DQNConfig)
T = TypeVar("T", bound=TDConfig)

Advance = Callable[[list[TransitionBatch]], Params]
"""Takes a TD step for each of the next minibatches (there may be none), and returns the per-task parameters then."""

_GREEDY_LOGIT = 1e4
"""The logit of the best action where all others are 0: its probability is 1 in floating point."""


class GreedyPolicy(nn.Module):
    """The policy that takes the best action of a Q-network with probability 1.

    Args:
        network: The network.
        values: Function that returns what the network does, with the parameters of the tasks; None for the network.
    """

    accepts_task_axis = True

    def __init__(self, network: nn.Module, values: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.network, self._values = network, values

    def forward(self, observation: Tensor) -> Categorical:
        values = (self._values or self.network)(observation)
        return Categorical(torch.zeros_like(values).scatter_(-1, values.argmax(-1, keepdim=True), _GREEDY_LOGIT))


class DQNDesign(Generic[C]):
    """A design of the DQN family: all but its settings `Config`, its `init`, its `step` and its `evaluate`.

    Attributes:
        config: The settings.
        tasks: The task distribution.
        network: The Q-network, with the initial parameters of the run.
    """

    def __init__(self, config: C):
        self.config = config
        self.tasks = make_tasks(config.task, horizon=config.horizon, **config.task_args)
        self.network = self.make_network(config.network)

    def make_network(self, settings: QNetworkConfig) -> nn.Module:
        """Returns a Q-network with these settings, and the initial parameters of the run for them."""
        spaces = self.tasks.observation_space, self.tasks.action_space
        network = make_q_network(settings, *spaces, rng.torch_generator(self.config.seed, "network"))
        return network.to(self.config.device, getattr(torch, self.config.dtype))

    def sample(self, iteration: int) -> Any:
        """Returns the tasks of an iteration."""
        return self.tasks.sample(self.config.meta_batch_size, rng.generator(self.config.seed, "tasks", iteration))

    def collect_transitions(self, tasks: Any, params: Params, stream: str, *index: int) -> ReplayBuffer:
        """Collects `adapt_transitions` transitions of each task; each action explores with chance `adapt_epsilon`.

        Args:
            tasks: The task batch.
            params: The parameters of the network that chooses greedy actions.
            stream: Name of the random draws, see `research.rng`.
            index: Numbers that tell these draws from others of the stream, e.g. the iteration.
        """
        config, envs = self.config, self.tasks.make_envs(tasks, self.config.rows_per_task)
        num_tasks = envs.num_envs // config.rows_per_task
        draws = rng.generator(config.seed, stream, *index)
        num_actions = int(self.tasks.action_space.n)  # type: ignore[attr-defined]
        policy = None if config.adapt_epsilon == 1 else FlatNetwork(self.network, params)
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

    def minibatches(self, buffer: ReplayBuffer, stream: str, *index: int, n_step: int = 1) -> Iterator[TransitionBatch]:
        """Yields minibatches of every task without end, `[tasks, batch, ...]`.

        Args:
            buffer: The transitions, drawn uniformly.
            stream: Name of the random draws.
            index: Numbers that tell these draws from others of the stream.
            n_step: Steps of the environment before a target bootstraps.
        """
        config, draws = self.config, rng.generator(self.config.seed, stream, *index)
        while True:
            drawn = buffer.draw_uniformly((config.batch_size,), draws)
            drawn = drawn if drawn.ndim == 2 else drawn[None]
            yield as_batch(buffer.take(drawn, config.discount, n_step), config)

    @flushed_denormals()
    def adaptation_curve(
        self,
        params: Params,
        num_tasks: int,
        num_adapt_steps: int,
        advance: Advance,
        n_step: int = 1,
        split: SplitName = "test",
    ) -> AdaptationCurve:
        """Returns the mean return of the greedy policy on tasks, and after each round of TD steps on them.

        Args:
            params: The parameters before adaptation.
            num_tasks: Number of tasks.
            num_adapt_steps: Rounds of `td_steps_per_adapt_step` TD steps.
            advance: Adapts to the tasks.
            n_step: Steps of the environment before a target bootstraps.
            split: The split of the tasks.
        """
        check_num_adapt_steps(num_adapt_steps)
        stream, each = evaluation_stream(split), self.config.td_steps_per_adapt_step
        tasks, evaluated = evaluation_tasks(self.tasks, split, num_tasks)
        buffer = self.collect_transitions(tasks, params, f"{stream}/transitions")
        batches = self.minibatches(buffer, f"{stream}/minibatches", n_step=n_step)
        counts = [0] + [each] * num_adapt_steps
        adapted = (advance(list(itertools.islice(batches, count))) for count in counts)
        episodes = self._play(tasks, num_tasks, adapted, stream)
        return AdaptationCurve(
            "mean discounted return" if self.config.discounted_score else "mean return",
            np.stack([_score(self.config, sampled) for sampled in episodes.trajectories]),
            tasks,
            unit="TD steps" if each == 1 else f"× {each} TD steps",
            distribution=self.tasks,
            details=episodes,
            evaluated=evaluated,
        )

    def _play(self, tasks: Any, num_tasks: int, adapted: Iterator[Params], stream: str) -> Episodes:
        """Returns episodes of the greedy policy with each of the per-task parameters."""
        config = self.config
        envs = self.tasks.make_envs(tasks, config.eval_episodes)
        sampled: list[Trajectories] = []
        seeds: list[int] = []
        for step, params in enumerate(adapted):
            named = {f"network.{name}": value for name, value in params.items()}
            generator = rng.torch_generator(config.seed, stream, step, device=config.device)
            sampled.append(
                collect(_greedy_policy(self.network, params), named, envs, num_tasks, config.horizon, generator)
            )
            seeds.append(reset_seed(generator))
        envs.close()
        return Episodes(tuple(sampled), tuple(seeds))


class TDDesign(DQNDesign[T]):
    """A design that adapts to a task by the TD steps of `TDLearner`. Its state has the parameters in `meta.model`."""

    def evaluate(self, state: Any, num_tasks: int, num_adapt_steps: int, split: SplitName = "test") -> AdaptationCurve:
        """Returns the mean return of the greedy policy on tasks of a split, before and after TD steps on them."""
        params = state.meta.model
        learner = TDLearner(self.config, self.network, expand(params, num_tasks))

        def advance(batches: list[TransitionBatch]) -> Params:
            for batch in batches:
                learner.step(batch)
            return learner.online.params()

        return self.adaptation_curve(params, num_tasks, num_adapt_steps, advance, self.config.n_step, split)


def _greedy_policy(network: nn.Module, params: Params) -> GreedyPolicy:
    """Returns the greedy policy of a network with these per-task parameters."""
    flat = FlatNetwork(network, params)
    return GreedyPolicy(network, lambda observation: flat.values(observation))  # copies share what a function refers to


def _least_tried(
    observation: NDArray[Any], counts: list[dict[bytes, NDArray[np.float64]]], tie_break: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Returns the action of each row that its task tried least there. `tie_break`: `[rows, actions]`, below 1."""
    actions = np.empty(len(observation), np.int64)
    rows = len(observation) // len(counts)
    for row, seen in enumerate(observation):
        tried = counts[row // rows].setdefault(seen.tobytes(), np.zeros(tie_break.shape[1]))
        actions[row] = (tried + tie_break[row]).argmin()
        tried[actions[row]] += 1
    return actions


def _score(config: DQNConfig, episodes: Trajectories) -> Any:
    """Returns the mean return of each task, `[tasks]`."""
    if not config.discounted_score:
        return episodes.returns().mean(1).double().cpu().numpy()
    reward = (episodes.reward * episodes.valid).double()
    powers = config.discount ** torch.arange(reward.shape[-1], dtype=torch.float64, device=reward.device)
    return (reward * powers).sum(-1).mean(1).cpu().numpy()
