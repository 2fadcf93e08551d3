"""DQN, with Lookahead around its TD steps: one agent that learns from all transitions that it has seen.

Lookahead (Zhang et al. 2019, arXiv:1907.08610) takes k fast steps and then a slow one, φ ← φ + α (θ − φ), θ ← φ. The
DQN family applies it in three designs:

    A  `design="lookahead"`, this file: around the TD steps of one agent
           repeat
               collect `train_freq` transitions of every environment, ε-greedily; add them to the replay buffer
               `gradient_steps` times: θ ← optimiser(θ, ∇ L(θ; θ̄, minibatch)), inside Lookahead; update θ̄
       with L(θ; θ̄) = mean w ℓ(Q(s, a; θ) − r − γⁿ max_a' Q(s', a'; θ̄)), see `research.td` and `learner.py`.
       Without `lookahead_k` this is DQN (Mnih et al. 2015), with Double, Dueling, n-step returns and priorities.
    A2 the same with `target="slow"`: the slow weights are the target network, θ̄ = φ. The target then moves by α every k
       steps, and the network starts every cycle from it. α = 1, k = C is DQN with a copy every C steps, bit for bit.
    B  `design="reptile"`, reptile_dqn.py: over tasks. Each task takes K fast steps with its own optimiser, and the slow
       step goes to the mean of their parameters: φ ← φ + α mean_i(θ_iK − φ).
    C  `design="maml"`, maml_dqn.py: inside the differentiable inner loop. φ, the rate of the fast steps and α follow
       the gradient of the loss after the fast steps: φ ← φ − β ∇_φ mean_i L(θ_iK(φ); query_i).

All designs share one evaluation: `adapt_transitions` transitions of each task of it, then TD steps from the learned
parameters. Entry 0 is the greedy policy without adaptation; for a single environment the other entries mean nothing.

With several tasks, A is joint training: the environments of task i act in task i, and one network learns from all.

Differs from the paper: Lookahead's is about supervised learning. DQN's clips rewards, observes images, uses RMSprop and
takes a TD step every 4 steps; the defaults here are those for CartPole-v1 in the zoo of Stable-Baselines3.
`target_interval` counts TD steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from research import rng
from research.algorithms.adoption import grown
from research.algorithms.outer import initial_params
from research.algorithms.schedules import interpolate
from research.algorithms.value.adoption import MUTABLE, adopt_learner
from research.algorithms.value.config import TDConfig
from research.algorithms.value.design import TDDesign
from research.algorithms.value.learner import LearnerState, TDLearner, as_batch
from research.denormals import flushed_denormals
from research.sampling.interaction import Act, Finished, Interaction, Moment
from research.sampling.replay_buffer import Contents, ReplayBuffer
from research.td import TransitionBatch
from research.types import MetaParams, Metrics, StepResult
from research.validation import at_least, choices, in_unit_interval, positive_fraction

Schedule = Literal["linear", "exponential"]
T = TypeVar("T")


@dataclass(frozen=True)
class ReplayConfig:
    """Settings of the replay buffer.

    Attributes:
        buffer_size: Capacity in transitions of all environments together.
        priority_exponent: Exponent a of the priorities in the probabilities of transitions; 0 draws uniformly.
        importance_exponent: Exponent b of the importance weights at the start; it rises linearly to 1.
    """

    buffer_size: int = 100_000
    priority_exponent: float = 0.0
    importance_exponent: float = 0.4

    def __post_init__(self) -> None:
        at_least(self, 1, "buffer_size")
        in_unit_interval(self, "priority_exponent", "importance_exponent")


@dataclass(frozen=True)
class ExplorationConfig:
    """Settings of ε, the probability of a random action while training.

    Attributes:
        schedule: `"linear"` or `"exponential"` in the steps.
        start: ε at the first step.
        end: ε from `fraction` of the training on.
        fraction: Fraction of the training over which ε changes.
    """

    schedule: Schedule = "linear"
    start: float = 1.0
    end: float = 0.04
    fraction: float = 0.16

    def __post_init__(self) -> None:
        choices(self)
        in_unit_interval(self, "start", "end")
        positive_fraction(self, "fraction")
        if self.schedule == "exponential" and not (self.start > 0 and self.end > 0):
            raise ValueError(f"start={self.start}, end={self.end}: need values above 0 with schedule='exponential'")

    def epsilon(self, progress: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns ε at each fraction of the training."""
        done = np.minimum(progress / self.fraction, 1.0)
        if self.schedule == "exponential":
            return np.asarray(self.start * (self.end / self.start) ** done)
        return np.asarray(interpolate(self.start, self.end, done))


@dataclass(frozen=True)
class LookaheadDQNConfig(TDConfig):
    """Settings of DQN and of Lookahead around it, besides those of every design with TD steps.

    Attributes:
        design: Name of the design.
        meta_batch_size: Tasks that one network learns.
        replay: The replay buffer.
        exploration: Random actions while training.
        learning_starts: Transitions before the first TD step.
        train_freq: Steps of every environment before each round of TD steps.
        gradient_steps: TD steps of a round.
        phases_per_iteration: Rounds of an iteration, each with the steps before it.
    """

    mutable_settings = MUTABLE
    growing_settings = deepening_settings = frozenset({"network.hidden_sizes"})

    design: Literal["lookahead"] = "lookahead"
    num_iterations: int = 49
    meta_batch_size: int = 1
    rows_per_task: int = 1
    replay: ReplayConfig = ReplayConfig()
    exploration: ExplorationConfig = ExplorationConfig()
    learning_starts: int = 1000
    train_freq: int = 256
    gradient_steps: int = 128
    phases_per_iteration: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "train_freq", "gradient_steps", "phases_per_iteration")
        at_least(self, 0, "learning_starts")
        at_least(dict(buffer_size=self.replay.buffer_size), self.num_rows, "buffer_size")
        added = self.train_freq * self.num_rows
        held = min(added * math.ceil(max(self.learning_starts, 1) / added), self.replay.buffer_size)
        if held < self.batch_size:
            raise ValueError(f"batch_size={self.batch_size}: need at most {held}, what the replay buffer holds at the "
                             "first TD step; or raise learning_starts or replay.buffer_size")  # fmt: skip

    @property
    def env_steps_per_iteration(self) -> int:
        """Steps of all environments together."""
        return self.phases_per_iteration * self.train_freq * self.num_rows


class LookaheadDQNState(NamedTuple):
    """The state of the training between two iterations, with tensors for the arrays of the live objects.

    Attributes:
        iteration: Number of finished iterations.
        meta: The parameters of the network in `model`; `update` is empty.
        learner: The state of the TD steps.
        replay: The contents of the replay buffer.
        moment: State of the environments, from which their episodes continue.
    """

    iteration: int
    meta: MetaParams
    learner: LearnerState
    replay: Contents
    moment: Moment


class LookaheadDQN(TDDesign[LookaheadDQNConfig]):
    """DQN with Lookahead around its TD steps, see the module."""

    Config: ClassVar[type] = LookaheadDQNConfig

    def __init__(self, config: LookaheadDQNConfig):
        super().__init__(config)
        self._batch = self.tasks.sample(config.meta_batch_size, rng.generator(config.seed, "tasks"))

    def init(self) -> LookaheadDQNState:
        """Returns the state before the first iteration."""
        params = initial_params(self.network)
        interaction = Interaction(self._make_envs(), self.config.seed)
        state = LookaheadDQNState(
            0,
            MetaParams(params, {}),
            TDLearner(self.config, self.network, params).state(),
            _to_tensors(self._make_buffer().contents()),
            _to_tensors(interaction.moment()),
        )
        interaction.envs.close()
        return state

    @flushed_denormals()
    def step(self, state: LookaheadDQNState) -> StepResult:
        """Collects transitions and learns from them, `phases_per_iteration` times. `state` is not changed."""
        iteration = _Iteration(self, state)
        for round_ in range(self.config.phases_per_iteration):
            iteration.collect(round_)
            iteration.learn()
        return StepResult(iteration.state(), iteration.metrics())

    def adopt(self, state: LookaheadDQNState, before: LookaheadDQNConfig, own: LookaheadDQNState) -> LookaheadDQNState:
        """Returns a state that goes on with what was learned in a state of other settings.

        The transitions and the environments in mid-episode are those of `own`.
        """
        config, params = self.config, state.meta.model
        change = grown(before.network, config.network, self.make_network, params, config.seed, own.iteration)
        learner = adopt_learner(state.learner, params, change, before, config)
        return own._replace(meta=MetaParams(change.params(params), {}), learner=learner)

    def _make_envs(self) -> Any:
        return self.tasks.make_envs(self._batch, self.config.rows_per_task)

    def _make_buffer(self) -> ReplayBuffer:
        replay, space = self.config.replay, self.tasks.observation_space
        actions = int(self.tasks.action_space.n)  # type: ignore[attr-defined]
        like = np.zeros(space.shape, np.float64 if self.config.dtype == "float64" else np.float32)
        exponent = replay.priority_exponent
        return ReplayBuffer(replay.buffer_size, self.config.num_rows, like, actions, priority_exponent=exponent)


class _Iteration:
    """The live objects of one iteration, made from the state before it."""

    def __init__(self, algorithm: LookaheadDQN, state: LookaheadDQNState):
        config = self.config = algorithm.config
        self.before, self.start = state, time.perf_counter()
        self.collecting_seconds = 0.0
        self.learner = TDLearner(config, algorithm.network, state.meta.model, state.learner)
        self.buffer = algorithm._make_buffer()
        self.buffer.restore(_to_arrays(state.replay))
        self.interaction = Interaction(algorithm._make_envs(), config.seed, _to_arrays(state.moment))
        self.draws = rng.generator(config.seed, "replay", state.iteration)
        self.exploring = rng.generator(config.seed, "exploration", state.iteration)
        self.num_actions = int(algorithm.tasks.action_space.n)  # type: ignore[attr-defined]
        self.finished: list[Finished] = []
        self.errors: list[Tensor] = []
        self.epsilon = 0.0

    def collect(self, round_: int) -> None:
        """Steps every environment `train_freq` times, and adds the transitions to the buffer."""
        start = time.perf_counter()
        transitions, finished = self.interaction.run(self.config.train_freq, self._actions(round_))
        self.finished.append(finished)
        self.buffer.add(transitions)
        self.collecting_seconds += time.perf_counter() - start

    def learn(self) -> None:
        """Takes `gradient_steps` TD steps, once there are `learning_starts` transitions."""
        config = self.config
        if self.buffer.num_added * config.num_rows < config.learning_starts:
            return
        drawn = self._draw_uniformly() if not config.replay.priority_exponent else self._draw_by_priority()
        for batch, target_values, index in drawn:
            error = self.learner.step(batch, target_values)
            self.errors.append(error)
            if index is not None:
                self.buffer.set_priorities(index, error.cpu().numpy())

    def state(self) -> LookaheadDQNState:
        """Returns the state after the iteration, and closes the environments."""
        after = LookaheadDQNState(
            self.before.iteration + 1,
            MetaParams(self.learner.online.params(), {}),
            self.learner.state(),
            _to_tensors(self.buffer.contents()),
            _to_tensors(self.interaction.moment()),
        )
        self.interaction.envs.close()
        return after

    def metrics(self) -> Metrics:
        """Returns the metrics of the iteration; those of returns only if an episode ended."""
        returns = np.concatenate([finished.returns for finished in self.finished])
        lengths = np.concatenate([finished.lengths for finished in self.finished])
        seconds = time.perf_counter() - self.start
        metrics = {
            "epsilon": self.epsilon,
            "env_steps": float(self.config.env_steps_per_iteration),
            "td_steps": float(len(self.errors)),
            "replay_size": float(len(self.buffer)),
            "time/sample_seconds": self.collecting_seconds,
            "time/update_seconds": seconds - self.collecting_seconds,
            "time/steps_per_second": self.config.env_steps_per_iteration / seconds,
        }
        if len(returns):
            metrics |= {"episode_return": float(returns.mean()), "episode_length": float(lengths.mean())}
        if self.errors:
            metrics["td_error"] = float(torch.stack(self.errors).abs().mean())
        return metrics

    def _actions(self, round_: int) -> Act:
        """ε-greedy actions for one round; the random draws are made in advance."""
        config, rows, steps = self.config, self.config.num_rows, self.config.train_freq
        chance = self.exploring.random((steps, rows))
        at_random = self.exploring.integers(self.num_actions, size=(steps, rows))
        before = self.before.iteration * config.phases_per_iteration + round_
        total = config.schedule_length * config.phases_per_iteration * steps
        epsilons = config.exploration.epsilon((before * steps + np.arange(steps)) / total)
        self.epsilon = float(np.mean(epsilons))
        draws = zip(chance, at_random, epsilons, strict=True)

        def act(observation: Any) -> Any:
            u, random_action, epsilon = next(draws)
            explores = u < epsilon
            count = np.count_nonzero(explores)
            if count == rows:
                return random_action
            greedy = self.learner.online.greedy(observation)
            return np.where(explores, random_action, greedy) if count else greedy

        return act

    def _draw_uniformly(self) -> Iterator[tuple[TransitionBatch, Tensor, None]]:
        """The minibatches of a round, taken from the buffer at once, with the target network's values."""
        config = self.config
        index = self.buffer.draw_uniformly((config.gradient_steps, config.batch_size), self.draws)
        drawn = as_batch(self.buffer.take(index, config.discount, config.n_step), config)
        for batch, target_values in self.learner.minibatches(drawn):
            yield batch, target_values, None

    def _draw_by_priority(self) -> Iterator[tuple[TransitionBatch, None, NDArray[np.int64]]]:
        """Minibatches drawn by the current priorities, and the indices of their transitions in the buffer."""
        config = self.config
        left = max(0.0, 1 - self.before.iteration / config.schedule_length)
        exponent = interpolate(1.0, config.replay.importance_exponent, left)
        for _ in range(config.gradient_steps):
            index, weight = self.buffer.draw_by_priority(config.batch_size, self.draws, exponent)
            drawn = self.buffer.take(index, config.discount, config.n_step, weight)
            yield as_batch(drawn, config), None, index


def _to_tensors(tree: T) -> T:
    """The same tree with tensors for arrays, which share their memory."""
    return pytree.tree_map_only(np.ndarray, torch.from_numpy, tree)


def _to_arrays(tree: T) -> T:
    """The inverse of `_to_tensors`."""
    return pytree.tree_map_only(Tensor, Tensor.numpy, tree)
