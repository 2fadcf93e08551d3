"""MAML for regression: meta-learn initial parameters from which a few gradient steps fit a new function.

    repeat
        sample tasks T_1..T_B, with shots D_i and query points Q_i
        for each task: θ_i ← θ
            K times: θ_i ← θ_i − α ∘ ∇L(θ_i; D_i)                          L: mean squared error
        θ ← Adam(θ, ∇ 1/B Σ_i L(θ_i(θ); Q_i)),  differentiating through θ_i(θ)

Finn, Abbeel & Levine 2017, arXiv:1703.03400, algorithm 2. Settings turn it into its variants:

- FOMAML: `first_order=True`, the inner gradients are constants (section 5.2 there).
- Meta-SGD: `learn_inner_lr="per_parameter"`, α is meta-learned along with θ (Li et al. 2017, arXiv:1707.09835, eq. 3).
- ANIL: `adapt_only=("head.*",)`, the body is not adapted (Raghu et al. 2020, arXiv:1909.09157).
- `num_inner_steps=0` fits one network to all tasks: the paper's pretrained baseline.

Differs from the paper: the initial weights are Glorot-uniform instead of normal with standard deviation 0.01, the query
points may outnumber the shots, and the outer step size may decrease to 0. Meta-SGD starts from one α for all elements;
its paper draws each at random.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from research.algorithms.outer import learned, replaced
from research.algorithms.regression.agent import Learner, RegressionConfig
from research.evaluation import AdaptationCurve
from research.losses import squared_error
from research.optim.differentiable import AdamState, adam_start
from research.optim.flat import flatten, unflatten
from research.optim.flat_adam import FlatAdam
from research.tasks.splits import SplitName
from research.types import MetaParams, StepResult


@dataclass(frozen=True)
class MAMLRegressionConfig(RegressionConfig):
    """Settings of MAML.

    Attributes:
        algorithm: Name of the algorithm in `research.algorithms.ALGORITHMS`.
    """

    algorithm: Literal["maml_regression"] = "maml_regression"


class MAMLRegressionState(NamedTuple):
    """Training state between two iterations.

    Attributes:
        iteration: Finished iterations.
        meta: The initial parameters, and the parameters of the inner update rule, learned or constant.
        optimizer: Adam's moments of the flat vector of the learned tensors.
    """

    iteration: int
    meta: MetaParams
    optimizer: AdamState


class MAMLRegression:
    """MAML for regression, see the module."""

    Config: ClassVar[type] = MAMLRegressionConfig

    def __init__(self, config: MAMLRegressionConfig):
        self.config = config
        self.learner = Learner(config)

    def init(self) -> MAMLRegressionState:
        """Returns the state before the first iteration."""
        meta = self.learner.init()
        return MAMLRegressionState(0, meta, adam_start({"meta": self._flatten(meta)}))

    def step(self, state: MAMLRegressionState) -> StepResult:
        """One iteration: `updates_per_iteration` meta-updates by Adam, each on new tasks."""
        start = time.perf_counter()
        vector, learner, losses, norms = self._flatten(state.meta), self.learner, [], []
        meta = self._unflatten(vector, state.meta)  # views, which follow the vector
        optimizer = self._optimizer(vector, state.optimizer)
        for update, sampled in enumerate(learner.sample(state.iteration, fresh_per_step=False)):
            loss, gradient = learner.inner_loop.meta_gradient(
                learner.network, meta, squared_error, sampled.batches, sampled.query
            )
            vector.grad = self._flatten(gradient)
            optimizer.param_groups[0]["lr"] = self.config.meta_lr_at(state.iteration, update)
            optimizer.step()
            losses.append(loss)
            norms.append(vector.grad.norm())
        metrics = {
            "loss_post": float(torch.stack(losses).mean()),
            "gradient_norm": float(torch.stack(norms).mean()),
            "time/update_seconds": time.perf_counter() - start,
        }
        moments = optimizer.state[vector]
        averages = ({"meta": moments[name]} for name in ("exp_avg", "exp_avg_sq"))
        after = MAMLRegressionState(state.iteration + 1, meta, AdamState(int(moments["step"]), *averages))
        return StepResult(after, metrics)

    def evaluate(
        self, state: MAMLRegressionState, num_tasks: int, num_adapt_steps: int, split: SplitName = "test"
    ) -> AdaptationCurve:
        """Returns the errors on tasks of a split after 0, 1, ... gradient steps."""
        return self.learner.evaluate(state.meta, num_tasks, num_adapt_steps, split)

    def _optimizer(self, vector: Tensor, state: AdamState) -> FlatAdam:
        """Returns Adam of a flat vector, with copies of the moments of a state."""
        optimizer = FlatAdam(vector, self.config.meta_lr)
        moments = optimizer.state[vector]
        moments["step"].fill_(state.step)
        moments["exp_avg"].copy_(state.exp_avg["meta"])
        moments["exp_avg_sq"].copy_(state.exp_avg_sq["meta"])
        return optimizer

    def _flatten(self, meta: MetaParams) -> Tensor:
        """Returns the learned tensors as one vector: Adam acts on elements, and one call for all is faster."""
        return flatten(learned(meta, self.config).values())

    def _unflatten(self, vector: Tensor, like: MetaParams) -> MetaParams:
        return replaced(like, unflatten(vector, learned(like, self.config)))
