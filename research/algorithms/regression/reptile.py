"""Reptile for regression: move the initial parameters towards those that training on each task leads to.

    repeat
        sample tasks T_1..T_B
        for each task: θ_i ← θ
            K times: θ_i ← θ_i − α ∇L(θ_i; D)  on fresh examples D          L: mean squared error
        θ ← θ + ε · 1/B Σ_i (θ_i − θ)

Nichol, Achiam & Schulman 2018, arXiv:1803.02999, algorithm 2 (batched). Nothing is differentiated through: with K > 1
the steps of one task agree where its examples agree, and that part of θ_i − θ is what makes θ quick to adapt (section 5
there). With K = 1 it is joint training.

Differs from the paper: every inner step sees new examples, where the paper goes through 50 fixed inputs of each task in
minibatches of 10; a meta-update takes several tasks, where the paper's sinusoid takes one; the network, 40 rectified
units twice, is that of MAML's paper.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch

from research.algorithms.regression.agent import Learner, RegressionConfig
from research.evaluation import AdaptationCurve
from research.inner_loops import InnerLoopConfig
from research.types import MetaParams, Params, StepResult


@dataclass(frozen=True)
class ReptileRegressionConfig(RegressionConfig):
    """Settings of Reptile: those of every regression algorithm. `meta_lr` is ε."""

    algorithm: Literal["maml_regression", "reptile_regression"] = "reptile_regression"
    num_inner_steps: int = 10
    inner_lr: float | tuple[float, ...] = 0.02
    meta_lr: float = 0.5
    anneal_from: float = 0.0


class State(NamedTuple):
    """Everything that training carries from one iteration to the next."""

    iteration: int
    meta: MetaParams


class ReptileRegression:
    """The algorithm. See the module."""

    Config: ClassVar[type] = ReptileRegressionConfig

    def __init__(self, config: RegressionConfig):
        if config.num_inner_steps < 1:
            raise ValueError(f"num_inner_steps={config.num_inner_steps}: Reptile needs at least 1 step to move along")
        for key in config.learned_keys:
            raise ValueError(
                f"{key}={getattr(config, key)!r}: Reptile has no gradient to learn it by; need "
                f"{getattr(InnerLoopConfig(), key)!r}"
            )
        self.config = config
        self.learner = Learner(config)

    def init(self) -> State:
        """The state before the first iteration."""
        return State(0, self.learner.init())

    @torch.no_grad()
    def step(self, state: State) -> StepResult:
        """One iteration: some meta-updates, each on tasks of its own."""
        start = time.perf_counter()
        params, losses, norms = state.meta.model, [], []
        for update, sampled in enumerate(self.learner.sample(state.iteration, fresh_per_step=True)):
            meta = MetaParams(params, state.meta.update)
            adapted = self.learner.adapt(meta, sampled.batches, self.config.meta_batch_size)
            losses.append(self.learner.errors(adapted, sampled.query).mean())
            direction = {name: adapted[name].mean(0) - value for name, value in params.items()}
            params = _moved(params, direction, self.config.meta_lr_at(state.iteration, update))
            norms.append(torch.stack([change.norm() for change in direction.values()]).norm())
        metrics = {
            "loss_post": float(torch.stack(losses).mean()),
            "gradient_norm": float(torch.stack(norms).mean()),
            "time/update_seconds": time.perf_counter() - start,
        }
        return StepResult(State(state.iteration + 1, MetaParams(params, state.meta.update)), metrics)

    def evaluate(self, state: State, num_tasks: int, num_adapt_steps: int) -> AdaptationCurve:
        """Errors on held-out tasks after 0, 1, ... gradient steps."""
        return self.learner.evaluate(state.meta, num_tasks, num_adapt_steps)


def _moved(params: Params, direction: Params, rate: float) -> Params:
    return {name: value + rate * direction[name] for name, value in params.items()}
