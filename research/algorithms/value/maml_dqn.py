"""MAML for DQN: parameters from which a few TD steps lead far. Design C of `lookahead_dqn.py`.

    repeat
        sample tasks T_1..T_B, and of each two sets of transitions, D_i and D'_i, `adapt_actions`
        for each task: θ_i ← φ
            K times: θ_i ← inner step(θ_i, ∇ L(θ_i; ⊥θ_i, minibatch of D_i))      Lookahead around it, if asked for
        θ̄_i ← K + M inner steps from φ̄, at the rates of η̄
        η ← Adam(η, ∇_η mean_i L(θ_i(η); θ̄_i, minibatch of D'_i))
        η̄ ← η̄ + τ (η − η̄)                                             or η every C iterations

with L(θ; ⊥θ̄) = mean ℓ(Q(s, a; θ) − ⊥(r + γ max_a' Q(s', a'; θ̄))), see `research.td.semi_gradient_loss`, and η all that
is learned: φ, the rate of the inner steps (`learn_inner_lr`), Lookahead's α (`learn_lookahead_alpha`). In the inner
steps the network itself is the target network; that it moves is no part of any gradient, as in TD learning itself. The
inner loop is `inner_loop`: `func`, `higher` or `learn2learn`.

Finn, Abbeel & Levine 2017, arXiv:1703.03400, algorithm 1, with the TD loss in place of a supervised one.

Differs from the paper: it has no value learning. Values travel a move or so in each TD step, so a loss that bootstraps
from what K steps have learned is short-sighted, and so is what it teaches φ. Here it bootstraps from what M more steps
(`target_steps`) would learn, as in Flennerhag et al. 2022, arXiv:2109.04504, who match what is further on the way. And
what is learned is its own target, which can run away as in Q-learning without a target network; hence the slow copy η̄
(`target`, `polyak`, `target_interval`). M = 0 and C = 1 is the plain form.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from research import rng
from research.algorithms.outer import clip_norm, learned, replaced
from research.algorithms.schedules import anneal
from research.algorithms.value.config import Design, LookaheadDQNConfig, Target
from research.algorithms.value.evaluation import Advance, evaluate, gather, minibatches
from research.algorithms.value.learner import TDLearner, init_params, make_network
from research.denormals import flushed_denormals
from research.evaluation import AdaptationCurve
from research.inner_loops import make_inner_loop
from research.inner_loops.base import adapted_names
from research.optim.differentiable import AdamState, adam, adam_start
from research.optim.flat import norm
from research.per_task import expand
from research.tasks import make_tasks
from research.td import TransitionBatch, semi_gradient_loss, td_loss, td_target, values_at
from research.types import Forward, MetaParams, Params, StepResult


@dataclass(frozen=True)
class MAMLDQNConfig(LookaheadDQNConfig):
    """Settings of MAML-DQN: those of the family, with values that suit it."""

    design: Design = "maml"
    inner_optimizer: str = "sgd"
    inner_lr: float | tuple[float, ...] = 0.1
    num_inner_steps: int = 6
    target: Target = "polyak"
    polyak: float = 0.05
    meta_lr: float = 1e-3
    meta_batch_size: int = 10
    rows_per_task: int = 4
    num_iterations: int = 300


class State(NamedTuple):
    """Everything that training carries from one iteration to the next.

    Attributes:
        iteration: Finished iterations.
        meta: What is meta-learned, and the constants of the inner update rule.
        optimizer: Adam's moments of what is meta-learned.
        target: The slow copy of it, η̄.
    """

    iteration: int
    meta: MetaParams
    optimizer: AdamState
    target: MetaParams


class MAMLDQN:
    """The algorithm. See the module."""

    Config: ClassVar[type] = MAMLDQNConfig

    def __init__(self, config: LookaheadDQNConfig):
        self.config = config
        self.tasks = make_tasks(config.task, horizon=config.horizon, **config.task_args)
        self.network = make_network(config, self.tasks)
        self.inner_loop = make_inner_loop(config.inner_loop, config)
        adapted_names(config, dict(self.network.named_parameters()))  # refuses what is not there

    def init(self) -> State:
        """The state before the first iteration."""
        params = init_params(self.network)
        update = self.inner_loop.init_update(self.network, params, max(1, self.config.num_inner_steps))
        meta = MetaParams(params, update)
        return State(0, meta, adam_start(learned(meta, self.config)), meta)

    @flushed_denormals()
    def step(self, state: State) -> StepResult:
        """One iteration: transitions of every task, and a meta-update of Adam."""
        config, start = self.config, time.perf_counter()
        tasks = self.tasks.sample(config.meta_batch_size, rng.generator(config.seed, "tasks", state.iteration))
        policy = None if config.adapt_epsilon == 1 else TDLearner(config, self.network, state.meta.model)
        support = gather(config, self.tasks, tasks, policy, "transitions/support", state.iteration)
        query = gather(config, self.tasks, tasks, policy, "transitions/query", state.iteration)
        sampled = time.perf_counter()
        batches = minibatches(config, support, "minibatches/support", state.iteration)
        after = next(minibatches(config, query, "minibatches/query", state.iteration))
        inner = list(itertools.islice(batches, config.num_inner_steps))
        target = self.target(state.target, [*inner, *itertools.islice(batches, config.target_steps)], after)
        gradient, error = self.gradient(state.meta, inner, after, target)
        gradient, length = clip_norm(gradient, config.max_grad_norm)
        rate = anneal(config.meta_lr, config.anneal_from, state.iteration / config.num_iterations)
        before = learned(state.meta, config)
        params, optimizer = adam(before, gradient, state.optimizer, rate)
        metrics = {
            "td_error": float(error.abs().mean()),
            "env_steps": float(len(support) + len(query)),
            "td_steps": float(config.num_inner_steps),
            "gradient_norm": length,
            "step_norm": norm({name: value - before[name] for name, value in params.items()}),
            "time/sample_seconds": sampled - start,
            "time/update_seconds": time.perf_counter() - sampled,
        }
        meta = replaced(state.meta, params)
        slow = self._moved_target(state.target, meta, state.iteration + 1)
        return StepResult(State(state.iteration + 1, meta, optimizer, slow), metrics)

    @torch.no_grad()
    def target(self, meta: MetaParams, batches: Sequence[TransitionBatch], query: TransitionBatch) -> Tensor:
        """What the values of the query are compared with, `[tasks, batch]`, after an inner step for each minibatch."""
        adapted = self._adapt(meta, batches, len(query.action))
        return td_target(query, functional_call(self.network, adapted, (query.next_observation,)))

    def gradient(
        self, meta: MetaParams, batches: Sequence[TransitionBatch], query: TransitionBatch, target: Tensor
    ) -> tuple[Params, Tensor]:
        """The meta-gradient, and the TD errors after adaptation, `[tasks, batch]`."""
        leaves = {name: value.detach().requires_grad_() for name, value in learned(meta, self.config).items()}
        adapted = self._adapt(replaced(meta, leaves), batches, len(query.action))
        error = values_at(functional_call(self.network, adapted, (query.observation,)), query.action) - target
        loss = td_loss(error, query.weight, self.config.td_loss).mean()
        gradient = torch.autograd.grad(loss, list(leaves.values()))
        return dict(zip(leaves, gradient, strict=True)), error.detach()  # errors are reported

    def evaluate(self, state: State, num_tasks: int, num_adapt_steps: int) -> AdaptationCurve:
        """Returns on held-out tasks of the greedy policy, and after inner steps on transitions of theirs."""
        meta = self.config.at_evaluation(state.meta)
        advance = self._by_inner_steps(meta, num_tasks)
        return evaluate(self.config, self.tasks, self.network, meta.model, num_tasks, num_adapt_steps, advance)

    def _moved_target(self, target: MetaParams, meta: MetaParams, iteration: int) -> MetaParams:
        """The slow copy after an iteration."""
        if self.config.target == "hard":
            return meta if iteration % self.config.target_interval == 0 else target
        slow, fast = learned(target, self.config), learned(meta, self.config)
        return replaced(meta, {name: value.lerp(fast[name], self.config.polyak) for name, value in slow.items()})

    def _by_inner_steps(self, meta: MetaParams, num_tasks: int) -> Advance:
        seen: list[TransitionBatch] = []

        @torch.no_grad()
        def advance(batches: list[TransitionBatch]) -> Params:
            seen.extend(batches)
            return self._adapt(meta, seen, num_tasks)

        return advance

    def _adapt(self, meta: MetaParams, batches: Sequence[TransitionBatch], num_tasks: int) -> Params:
        """Per-task parameters after one inner step for each minibatch."""
        if not batches:
            return expand(meta.model, num_tasks)
        return self.inner_loop.adapt(self.network, meta.model, meta.update, self._inner_loss, batches)

    def _inner_loss(self, network: Forward, batch: TransitionBatch) -> Tensor:
        return semi_gradient_loss(network, batch, self.config.td_loss)
