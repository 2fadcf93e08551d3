"""DQN, and Lookahead on its TD loss: an agent that goes on learning from all that it has seen.

Lookahead (Zhang et al. 2019, arXiv:1907.08610) takes k fast steps and then a slow one, φ ← φ + α (θ − φ), θ ← φ. Three
designs make something of it, behind one `LookaheadDQNConfig`:

    A  `design="lookahead"`, this file: around the TD steps of one agent
           repeat
               act ε-greedily, `train_freq` steps of every row; add them to the replay buffer
               `gradient_steps` times: θ ← optimiser(θ, ∇ L(θ; θ̄, minibatch)), Lookahead around it; move θ̄
       with L(θ; θ̄) = mean w ℓ(Q(s, a; θ) − r − γⁿ max_a' Q(s', a'; θ̄)), see `research.td` and `learner.py`.
       Without `lookahead_k` this is DQN (Mnih et al. 2015), with Double, Dueling, n-step returns and priorities.
    A2 the same with `target="slow"`: the slow weights are the target network, θ̄ = φ. The target then moves by α every k
       steps, and the network starts every cycle from it. α = 1, k = C is DQN with a copy every C steps, bit for bit.
    B  `design="reptile"`, reptile_dqn.py: over tasks. Each task is a cycle of k = K fast steps with an optimiser of its
       own, and the slow step goes to their mean: φ ← φ + α mean_i(θ_iK − φ).
    C  `design="maml"`, maml_dqn.py: inside. φ, the rate of the fast steps and α follow the gradient of the loss after
       them: φ ← φ − β ∇_φ mean_i L(θ_iK(φ); query_i).

An evaluation is the same for all: `adapt_transitions` transitions of each held-out task, then TD steps from what was
learned. Entry 0 is the greedy policy as it is; for a single environment it is all there is to know.

With several tasks, A is joint training: the rows of task i act in task i, and one network learns from all of them.

Differs from the paper: Lookahead's is about supervised learning. DQN's clips rewards, sees pictures, uses RMSprop and
takes a TD step every 4 steps; the defaults here are those that CartPole-v1 is solved with in the zoo of
Stable-Baselines3. `target_interval` counts TD steps.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from research import rng
from research.algorithms.schedules import interpolate
from research.algorithms.value.config import LookaheadDQNConfig
from research.algorithms.value.evaluation import evaluate
from research.algorithms.value.exploration import Bandit, epsilon_at
from research.algorithms.value.learner import LearnerState, TDLearner, as_batch, init_params, make_network
from research.algorithms.value.meta_gradient import MetaState, TDMetaGradient
from research.denormals import flushed_denormals
from research.evaluation import AdaptationCurve
from research.sampling.interaction import Act, Finished, Interaction, Moment
from research.sampling.replay_buffer import Contents, ReplayBuffer
from research.tasks import make_tasks
from research.td import TransitionBatch
from research.types import MetaParams, Metrics, StepResult

T = TypeVar("T")


class State(NamedTuple):
    """Everything that training carries from one iteration to the next: tensors where the live objects have arrays.

    Attributes:
        iteration: Finished iterations.
        meta: The network's parameters, and in `update` what is learned of the TD step, see `meta_gradient.py`.
        learner: What the TD steps carry.
        replay: What the buffer holds.
        moment: Where the environments are.
        bandit: What is known of the exploration rates.
        meta_gradient: What the steps of the meta-gradient carry.
    """

    iteration: int
    meta: MetaParams
    learner: LearnerState
    replay: Contents
    moment: Moment
    bandit: Bandit
    meta_gradient: MetaState


class LookaheadDQN:
    """The algorithm. See the module."""

    Config: ClassVar[type] = LookaheadDQNConfig

    def __init__(self, config: LookaheadDQNConfig):
        self.config = config
        self.tasks = make_tasks(config.task, horizon=config.horizon, **config.task_args)
        self.network = make_network(config, self.tasks)
        self._batch = self.tasks.sample(config.meta_batch_size, rng.generator(config.seed, "tasks"))

    def init(self) -> State:
        """The state before the first iteration."""
        params = init_params(self.network)
        learner = TDLearner(self.config, self.network, params)
        interaction = Interaction(self._make_envs(), self.config.seed)
        meta_gradient = TDMetaGradient(self.config)
        bandit = Bandit.start(len(self.config.exploration.arms), self.config.num_rows)
        state = State(
            0,
            MetaParams(params, meta_gradient.init()),
            learner.state(),
            _to_tensors(self._make_buffer().contents()),
            _to_tensors(interaction.moment()),
            _to_tensors(bandit),
            meta_gradient.start(),
        )
        interaction.envs.close()
        return state

    @flushed_denormals()
    def step(self, state: State) -> StepResult:
        """One iteration: some phases of acting and learning. Only a copy of the state is changed."""
        run = _Run(self, state)
        for phase in range(self.config.phases_per_iteration):
            run.act(phase)
            run.learn()
        return StepResult(run.state(), run.metrics())

    def evaluate(self, state: State, num_tasks: int, num_adapt_steps: int) -> AdaptationCurve:
        """Returns on held-out tasks of the greedy policy, and after TD steps on transitions of theirs."""
        return evaluate(self.config, self.tasks, self.network, state.meta.model, num_tasks, num_adapt_steps)

    def _make_envs(self) -> Any:
        return self.tasks.make_envs(self._batch, self.config.rows_per_task)

    def _make_buffer(self) -> ReplayBuffer:
        replay, space = self.config.replay, self.tasks.observation_space
        actions = int(self.tasks.action_space.n)  # type: ignore[attr-defined]
        like = np.zeros(space.shape, np.float64 if self.config.dtype == "float64" else np.float32)
        exponent = replay.priority_exponent
        return ReplayBuffer(replay.buffer_size, self.config.num_rows, like, actions, priority_exponent=exponent)


class _Run:
    """The live objects of one iteration, made from the state before it."""

    def __init__(self, algorithm: LookaheadDQN, state: State):
        config = self.config = algorithm.config
        self.before, self.start = state, time.perf_counter()
        self.acting = 0.0
        self.learner = TDLearner(config, algorithm.network, state.meta.model, state.learner)
        self.buffer = algorithm._make_buffer()
        self.buffer.restore(_to_arrays(state.replay))
        self.interaction = Interaction(algorithm._make_envs(), config.seed, _to_arrays(state.moment))
        self.bandit: Bandit = _to_arrays(state.bandit)
        self.meta_gradient = TDMetaGradient(config, state.meta.update, state.meta_gradient)
        self.draws = rng.generator(config.seed, "replay", state.iteration)
        self.exploring = rng.generator(config.seed, "exploration", state.iteration)
        self.num_actions = int(algorithm.tasks.action_space.n)  # type: ignore[attr-defined]
        self.finished: list[Finished] = []
        self.errors: list[Tensor] = []
        self.epsilon = 0.0

    def act(self, phase: int) -> None:
        """`train_freq` steps of every row, into the buffer."""
        began = time.perf_counter()
        act, on_end = self._actions(phase), self._learn_rate if self._has_bandit else None
        transitions, finished = self.interaction.run(self.config.train_freq, act, on_end)
        self.finished.append(finished)
        self.buffer.add(transitions)
        self.acting += time.perf_counter() - began

    def learn(self) -> None:
        """`gradient_steps` TD steps, once there are enough transitions."""
        config = self.config
        if self.buffer.num_added * config.num_rows < config.learning_starts:
            return
        drawn = self._draw_uniformly() if not config.replay.priority_exponent else self._draw_by_priority()
        for batch, target_values, index in drawn:
            error = self.learner.step(self.meta_gradient.prepare(self.learner, batch), target_values)
            self.errors.append(error)
            if index is not None:
                self.buffer.set_priorities(index, error.cpu().numpy())

    def state(self) -> State:
        """The state after the iteration."""
        after = State(
            self.before.iteration + 1,
            MetaParams(self.learner.params(), self.meta_gradient.learned()),
            self.learner.state(),
            _to_tensors(self.buffer.contents()),
            _to_tensors(self.interaction.moment()),
            _to_tensors(self.bandit),
            self.meta_gradient.state(),
        )
        self.interaction.envs.close()
        return after

    def metrics(self) -> Metrics:
        """What the iteration was like; returns only if an episode ended."""
        returns = np.concatenate([finished.returns for finished in self.finished])
        lengths = np.concatenate([finished.lengths for finished in self.finished])
        seconds = time.perf_counter() - self.start
        metrics = {
            "epsilon": self.epsilon,
            "env_steps": float(self.config.env_steps_per_iteration),
            "td_steps": float(len(self.errors)),
            "replay_size": float(len(self.buffer)),
            "time/sample_seconds": self.acting,
            "time/update_seconds": seconds - self.acting,
            "time/steps_per_second": self.config.env_steps_per_iteration / seconds,
        }
        if len(returns):
            metrics |= {"episode_return": float(returns.mean()), "episode_length": float(lengths.mean())}
        if self.errors:
            metrics["td_error"] = float(torch.stack(self.errors).abs().mean())
        return metrics | self.meta_gradient.metrics()

    @property
    def _has_bandit(self) -> bool:
        return self.config.exploration.schedule == "bandit"

    def _actions(self, phase: int) -> Act:
        """ε-greedy actions for one phase, drawn ahead."""
        config, rows, steps = self.config, self.config.num_rows, self.config.train_freq
        chance = self.exploring.random((steps, rows))
        at_random = self.exploring.integers(self.num_actions, size=(steps, rows))
        before = self.before.iteration * config.phases_per_iteration + phase
        total = config.num_iterations * config.phases_per_iteration * steps
        schedule = epsilon_at(config.exploration, (before * steps + np.arange(steps)) / total)
        self.epsilon = float(np.mean(self._arms() if self._has_bandit else schedule))
        rates = itertools.repeat(None, steps) if self._has_bandit else schedule
        draws = zip(chance, at_random, rates, strict=True)

        def act(observation: Any) -> Any:
            u, random_action, rate = next(draws)
            explores = u < (self._arms() if rate is None else rate)
            count = np.count_nonzero(explores)
            if count == rows:
                return random_action
            greedy = self.learner.greedy(observation)
            return np.where(explores, random_action, greedy) if count else greedy

        return act

    def _arms(self) -> Any:
        return np.asarray(self.config.exploration.arms)[self.bandit.arm]

    def _learn_rate(self, rows: Any, returns: Any) -> None:
        for row, value in zip(rows, returns, strict=True):
            self.bandit = self.bandit.after(int(row), float(value), self.config.exploration)

    def _draw_uniformly(self) -> Iterator[tuple[TransitionBatch, Tensor, None]]:
        """The minibatches of a phase, gathered at once."""
        config = self.config
        index = self.buffer.draw_uniformly((config.gradient_steps, config.batch_size), self.draws)
        drawn = as_batch(self.buffer.take(index, self.meta_gradient.discount, config.n_step), config)
        for batch, target_values in self.learner.minibatches(drawn):
            yield batch, target_values, None

    def _draw_by_priority(self) -> Iterator[tuple[TransitionBatch, None, NDArray[np.int64]]]:
        """Minibatches by the priorities as they are, and where their transitions lie."""
        config = self.config
        left = 1 - self.before.iteration / config.num_iterations
        exponent = interpolate(1.0, config.replay.importance_exponent, left)
        for _ in range(config.gradient_steps):
            index, weight = self.buffer.draw_by_priority(config.batch_size, self.draws, exponent)
            drawn = self.buffer.take(index, self.meta_gradient.discount, config.n_step, weight)
            yield as_batch(drawn, config), None, index


def _to_tensors(tree: T) -> T:
    """The same with tensors for arrays, which share their memory."""
    return pytree.tree_map_only(np.ndarray, torch.from_numpy, tree)


def _to_arrays(tree: T) -> T:
    """The inverse of `_to_tensors`."""
    return pytree.tree_map_only(Tensor, Tensor.numpy, tree)
