"""Reptile for regression: move the initial parameters towards those after training on each task.

    repeat
        sample tasks T_1..T_B
        for each task: θ_i ← θ
            K times: θ_i ← θ_i − α ∇L(θ_i; D)  on new examples D            L: mean squared error
        θ ← θ + ε · 1/B Σ_i (θ_i − θ)

Nichol, Achiam & Schulman 2018, arXiv:1803.02999, algorithm 2 (batched). No gradient flows through the inner steps.
With K > 1 the expectation of θ_i − θ contains the gradient of the inner product between gradients of different
minibatches of a task, which favours parameters that adapt fast (section 5 there). With K = 1 it is joint training.

Differs from the paper: every inner step uses new examples, the paper 50 fixed inputs of each task in minibatches of 10;
a meta-update uses several tasks, that of the paper's sinusoid one; the network is that of the MAML paper, with two
hidden layers of 40 rectified linear units.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch

from research.algorithms.outer import move_towards, refuse_learned_update
from research.algorithms.regression.agent import Learner, RegressionConfig
from research.evaluation import AdaptationCurve
from research.tasks.splits import SplitName
from research.types import MetaParams, StepResult


@dataclass(frozen=True)
class ReptileRegressionConfig(RegressionConfig):
    """Settings of Reptile, with other defaults than MAML's. `meta_lr` is ε.

    Attributes:
        algorithm: Name of the algorithm in `research.algorithms.ALGORITHMS`.
    """

    algorithm: Literal["reptile_regression"] = "reptile_regression"
    num_inner_steps: int = 10
    inner_lr: float | tuple[float, ...] = 0.02
    meta_lr: float = 0.5
    anneal_from: float = 0.0


class ReptileRegressionState(NamedTuple):
    """Training state between two iterations: finished iterations, and the meta-parameters."""

    iteration: int
    meta: MetaParams


class ReptileRegression:
    """Reptile for regression, see the module."""

    Config: ClassVar[type] = ReptileRegressionConfig

    def __init__(self, config: ReptileRegressionConfig):
        if config.num_inner_steps < 1:
            raise ValueError(f"num_inner_steps={config.num_inner_steps}: Reptile needs at least 1 step to move along")
        refuse_learned_update(config, "Reptile")
        self.config = config
        self.learner = Learner(config)

    def init(self) -> ReptileRegressionState:
        """Returns the state before the first iteration."""
        return ReptileRegressionState(0, self.learner.init())

    @torch.no_grad()
    def step(self, state: ReptileRegressionState) -> StepResult:
        """One iteration: `updates_per_iteration` meta-updates, each on new tasks."""
        start = time.perf_counter()
        params, losses, norms = state.meta.model, [], []
        for update, sampled in enumerate(self.learner.sample(state.iteration, fresh_per_step=True)):
            meta = MetaParams(params, state.meta.update)
            adapted = self.learner.adapt(meta, sampled.batches, self.config.meta_batch_size)
            losses.append(self.learner.errors(adapted, sampled.query).mean())
            mean = {name: value.mean(0) for name, value in adapted.items()}
            params, moved = move_towards(params, mean, self.config.meta_lr_at(state.iteration, update))
            norms.append(moved["gradient_norm"])
        metrics = {
            "loss_post": float(torch.stack(losses).mean()),
            "gradient_norm": sum(norms) / len(norms),
            "time/update_seconds": time.perf_counter() - start,
        }
        return StepResult(ReptileRegressionState(state.iteration + 1, MetaParams(params, state.meta.update)), metrics)

    def evaluate(
        self, state: ReptileRegressionState, num_tasks: int, num_adapt_steps: int, split: SplitName = "test"
    ) -> AdaptationCurve:
        """Returns the errors on tasks of a split after 0, 1, ... gradient steps."""
        return self.learner.evaluate(state.meta, num_tasks, num_adapt_steps, split)
