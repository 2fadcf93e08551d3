"""MAML for DQN: initial parameters from which a few TD steps lead far. Design C of `lookahead_dqn.py`.

    repeat
        sample tasks T_1..T_B, and two sets of transitions of each, D_i and D'_i
        for each task: θ_i ← φ
            K times: θ_i ← inner step(θ_i, ∇ L(θ_i; ⊥θ_i, minibatch of D_i))      inside Lookahead if `lookahead_k` > 0
        θ̄_i ← K + M inner steps from φ̄, with the rates of η̄
        η ← Adam(η, ∇_η mean_i L(θ_i(η); θ̄_i, minibatch of D'_i))
        η̄ ← η̄ + τ (η − η̄)                                             or η̄ ← η every C iterations

with L(θ; ⊥θ̄) = mean ℓ(Q(s, a; θ) − ⊥(r + γ max_a' Q(s', a'; θ̄))), see `research.td.semi_gradient_loss`, and η the
learned parameters: φ, the rate of the inner steps (`learn_inner_lr`), Lookahead's α (`learn_lookahead_alpha`). In the
inner steps the network is its own target network; as in TD learning, no gradient flows through the target. The inner
loop is `inner_loop`: `func`, `higher` or `learn2learn`.

Finn, Abbeel & Levine 2017, arXiv:1703.03400, algorithm 1, with the TD loss instead of a supervised loss.

Differs from the paper: the paper has no TD learning. A TD step propagates values over one transition or so, so a loss
that bootstraps from the values after K steps is short-sighted, and teaches φ to be. Here the loss bootstraps from the
values after M more steps (`target_steps`), as in Flennerhag et al. 2022, arXiv:2109.04504, which matches a target that
is further on the way. Moreover the learned parameters are their own target, which can diverge as in Q-learning without
a target network; hence the slow copy η̄ (`target`, `polyak`, `target_interval`). M = 0 and C = 1 is the plain form.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from research.algorithms.config import MetaLearningConfig
from research.algorithms.outer import clip_norm, initial_params, learned, replaced
from research.algorithms.schedules import anneal
from research.algorithms.value.config import DQNConfig
from research.algorithms.value.design import DQNDesign
from research.denormals import flushed_denormals
from research.evaluation import AdaptationCurve
from research.inner_loops import make_inner_loop
from research.inner_loops.base import adapted_names
from research.optim.differentiable import AdamState, adam, adam_start
from research.optim.flat import distance
from research.per_task import expand
from research.tasks.splits import SplitName
from research.td import TransitionBatch, semi_gradient_loss, td_loss, td_target, values_at
from research.types import Forward, MetaParams, Params, StepResult
from research.validation import at_least, in_unit_interval, positive


@dataclass(frozen=True)
class MAMLDQNConfig(DQNConfig, MetaLearningConfig):
    """Settings of MAML-DQN, besides those of every design and those of a differentiable inner loop.

    Attributes:
        design: Name of the design.
        target: Update of the slow copy η̄: `"hard"`, a copy every `target_interval` iterations; `"polyak"`, a step of
            size `polyak` towards η after each iteration.
        target_steps: M, inner steps by which the target of the loss after adaptation is ahead.
        max_grad_norm: Meta-gradients with a larger norm are scaled down to this one; 0 for no limit.
        meta_lr: Step size of Adam on η.
        anneal_from: Fraction of the training after which it falls linearly to 0; 1 keeps it constant.
    """

    evaluation_settings = DQNConfig.evaluation_settings | MetaLearningConfig.evaluation_settings

    design: Literal["maml"] = "maml"
    inner_optimizer: str = "sgd"
    inner_lr: float | tuple[float, ...] = 0.1
    num_inner_steps: int = 6
    target: Literal["hard", "polyak"] = "polyak"
    polyak: float = 0.05
    target_steps: int = 0
    meta_lr: float = 1e-3
    anneal_from: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "target_steps")
        positive(self, "meta_lr")
        in_unit_interval(self, "anneal_from")
        self.check_transitions()


class MAMLDQNState(NamedTuple):
    """The state of the training between two iterations.

    Attributes:
        iteration: Number of finished iterations.
        meta: The learned parameters η, and the constants of the inner update rule.
        optimizer: Adam's moments of η.
        target: The slow copy η̄, like `meta`.
    """

    iteration: int
    meta: MetaParams
    optimizer: AdamState
    target: MetaParams


class MAMLDQN(DQNDesign[MAMLDQNConfig]):
    """MAML for DQN, see the module."""

    Config: ClassVar[type] = MAMLDQNConfig

    def __init__(self, config: MAMLDQNConfig):
        super().__init__(config)
        self.inner_loop = make_inner_loop(config.inner_loop, config)
        adapted_names(config, dict(self.network.named_parameters()))  # refuses what is not there

    def init(self) -> MAMLDQNState:
        """Returns the state before the first iteration."""
        params = initial_params(self.network)
        update = self.inner_loop.init_update(self.network, params, max(1, self.config.num_inner_steps))
        meta = MetaParams(params, update)
        return MAMLDQNState(0, meta, adam_start(learned(meta, self.config)), meta)

    @flushed_denormals()
    def step(self, state: MAMLDQNState) -> StepResult:
        """Collects transitions of every task, and makes a step of Adam on η."""
        config, start = self.config, time.perf_counter()
        tasks = self.sample(state.iteration)
        support, query = (
            self.collect_transitions(tasks, state.meta.model, stream, state.iteration)
            for stream in ("transitions/support", "transitions/query")
        )
        sampled = time.perf_counter()
        batches = self.minibatches(support, "minibatches/support", state.iteration)
        held_out = next(self.minibatches(query, "minibatches/query", state.iteration))
        inner = list(itertools.islice(batches, config.num_inner_steps))
        target = self.target(state.target, [*inner, *itertools.islice(batches, config.target_steps)], held_out)
        gradient, error = self.gradient(state.meta, inner, held_out, target)
        gradient, length = clip_norm(gradient, config.max_grad_norm)
        rate = anneal(config.meta_lr, config.anneal_from, state.iteration / config.schedule_length)
        before = learned(state.meta, config)
        params, optimizer = adam(before, gradient, state.optimizer, rate)
        metrics = {
            "td_error": float(error.abs().mean()),
            "env_steps": float(len(support) + len(query)),
            "td_steps": float(config.num_inner_steps),
            "gradient_norm": length,
            "step_norm": distance(params, before),
            "time/sample_seconds": sampled - start,
            "time/update_seconds": time.perf_counter() - sampled,
        }
        meta = replaced(state.meta, params)
        slow = self._moved_target(state.target, meta, state.iteration + 1)
        return StepResult(MAMLDQNState(state.iteration + 1, meta, optimizer, slow), metrics)

    @torch.no_grad()
    def target(self, meta: MetaParams, batches: Sequence[TransitionBatch], query: TransitionBatch) -> Tensor:
        """Returns the TD targets of the query, `[tasks, batch]`, after an inner step for each minibatch."""
        adapted = self._adapt(meta, batches, len(query.action))
        return td_target(query, functional_call(self.network, adapted, (query.next_observation,)))

    def gradient(
        self, meta: MetaParams, batches: Sequence[TransitionBatch], query: TransitionBatch, target: Tensor
    ) -> tuple[Params, Tensor]:
        """Returns the meta-gradient, and the TD errors of the query after adaptation, `[tasks, batch]`."""
        leaves = {name: value.detach().requires_grad_() for name, value in learned(meta, self.config).items()}
        adapted = self._adapt(replaced(meta, leaves), batches, len(query.action))
        error = values_at(functional_call(self.network, adapted, (query.observation,)), query.action) - target
        loss = td_loss(error, query.weight, self.config.td_loss).mean()
        gradient = torch.autograd.grad(loss, list(leaves.values()))
        return dict(zip(leaves, gradient, strict=True)), error.detach()

    def evaluate(
        self, state: MAMLDQNState, num_tasks: int, num_adapt_steps: int, split: SplitName = "test"
    ) -> AdaptationCurve:
        """Returns the mean return of the greedy policy on tasks of a split, before and after inner steps on them."""
        meta, seen = self.config.at_evaluation(state.meta), list[TransitionBatch]()

        @torch.no_grad()
        def advance(batches: list[TransitionBatch]) -> Params:
            seen.extend(batches)
            return self._adapt(meta, seen, num_tasks)

        return self.adaptation_curve(meta.model, num_tasks, num_adapt_steps, advance, split=split)

    def _moved_target(self, target: MetaParams, meta: MetaParams, iteration: int) -> MetaParams:
        """The slow copy after an iteration."""
        if self.config.target == "hard":
            return meta if iteration % self.config.target_interval == 0 else target
        slow, fast = learned(target, self.config), learned(meta, self.config)
        return replaced(meta, {name: value.lerp(fast[name], self.config.polyak) for name, value in slow.items()})

    def _adapt(self, meta: MetaParams, batches: Sequence[TransitionBatch], num_tasks: int) -> Params:
        """Returns the per-task parameters after an inner step for each minibatch."""
        if not batches:
            return expand(meta.model, num_tasks)
        return self.inner_loop.adapt(self.network, meta.model, meta.update, self._inner_loss, batches)

    def _inner_loss(self, network: Forward, batch: TransitionBatch) -> Tensor:
        return semi_gradient_loss(network, batch, self.config.td_loss)
