"""Reptile for policies: move the initial parameters towards the mean of the adapted ones.

    repeat
        sample tasks T_1..T_B
        for each task: θ_i ← θ
            for k = 1..K + 1: D_ik ← episodes of π_θi;  θ_i ← θ_i − α ∇L(θ_i; D_ik)      L = −mean(log π · A)
        θ ← θ + ε · 1/B Σ_i (θ_i − θ),   ε falling linearly to 0

Nichol, Achiam & Schulman 2018, arXiv:1803.02999, algorithm 2 (batched). No derivative of the inner steps is needed. The
expected move contains the gradient of joint training and, with several steps, the gradient of the inner product between
gradients on different episodes of one task (section 5 of the paper): it prefers parameters from which a step on some
episodes lowers the loss on others. The paper treats supervised learning; section 6 reports no results with policy
gradients.

K is `num_inner_steps`, the steps before the last episodes, as in the other algorithms. These episodes give
`return_post`, and one more step is made on them. Reptile thus uses the same episodes as first-order MAML, which follows
only the last of the K + 1 gradients.

Differs from the paper: every inner step uses new episodes of the current policy, as the policy gradient requires. The
paper's inner optimiser for classification is Adam with β₁ = 0; here it is `inner_optimizer`, plain descent by default.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from research.algorithms.config import ScheduledConfig
from research.algorithms.gradient.agent import AgentConfig
from research.algorithms.gradient.evaluation import AgentAlgorithm
from research.algorithms.outer import move_towards, refuse_learned_update
from research.algorithms.schedules import anneal
from research.types import MetaParams, StepResult
from research.validation import in_unit_interval, positive


@dataclass(frozen=True)
class ReptileConfig(AgentConfig, ScheduledConfig):
    """Settings of Reptile, in addition to those of the agent.

    Attributes:
        num_inner_steps: K; one more step follows, on the episodes after adaptation.
        meta_lr: ε at the start.
        anneal_from: Fraction of the training after which ε falls linearly to 0; with 1 it is constant.
    """

    resume_settings = AgentConfig.resume_settings | ScheduledConfig.resume_settings

    first_order: bool = True
    num_inner_steps: int = 2
    meta_lr: float = 1.0
    anneal_from: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ScheduledConfig.__post_init__(self)
        positive(self, "meta_lr")
        in_unit_interval(self, "anneal_from")
        refuse_learned_update(self, "Reptile")
        if not self.first_order:
            raise ValueError("first_order=False: Reptile uses no derivative of the inner steps, need True")


class ReptileState(NamedTuple):
    """The state of a training run: finished iterations and the meta-parameters."""

    iteration: int
    meta: MetaParams


class Reptile(AgentAlgorithm[ReptileConfig]):
    """Reptile for policies, see the module."""

    Config: ClassVar[type] = ReptileConfig

    def init(self) -> ReptileState:
        """Returns the state before the first iteration."""
        return ReptileState(0, self.agent.init())

    @torch.no_grad()
    def step(self, state: ReptileState) -> StepResult:
        """Returns the state after one move towards the mean of the adapted parameters, and metrics."""
        config, sampled = self.config, self.agent.sample(state.meta, state.iteration)
        start = time.perf_counter()
        share = self.agent.share
        adapted = self.agent.adapt(state.meta, [*sampled.batches, sampled.query], share.size)
        mean = self.agent.ranks.mean(adapted, share.total)
        rate = anneal(config.meta_lr, config.anneal_from, state.iteration / config.schedule_length)
        model, metrics = move_towards(state.meta.model, mean, rate)
        metrics |= sampled.metrics | {"time/update_seconds": time.perf_counter() - start}
        return StepResult(ReptileState(state.iteration + 1, state.meta._replace(model=model)), metrics)
