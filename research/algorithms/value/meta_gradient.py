"""The learning rate and the discount of a TD step, learned while it learns: by the gradient of what the step led to.

    θ' = Adam(θ, ∇L(θ; γ, τ), e^λ)              the TD step on the minibatch τ, η = (λ, logit γ)
    η ← Adam(η, ∇L(θ'; γ̄, τ')ᵀ ∂θ'/∂η)          judged on the next minibatch τ', with the fixed discount γ̄

Xu, van Hasselt & Silver 2018, arXiv:1805.09801, eqs. 3–6 with μ = 0: only the last step is differentiated. What judges
does not depend on η: with the learned γ in the judge's place, γ → 0 would make every target easy. Gradients that are
scaled down to `max_grad_norm` are so by a constant.

Differs from the paper: TD learning of action values with Adam in place of actor and critic with RMSprop, and the rate
is learned in place of the trace's λ. The last step of an iteration is judged by none.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.func import functional_call

from research.algorithms.value.config import LookaheadDQNConfig
from research.algorithms.value.learner import TDLearner
from research.optim.differentiable import AdamState, adam, adam_start
from research.optim.flat import flatten
from research.td import TransitionBatch, td_loss, td_target, values_at
from research.types import Metrics, Params

MetaState = AdamState
"""Adam's moments of η."""


class TDMetaGradient:
    """Learns what `learn_td` names; does nothing if that is nothing.

    Args:
        config: The settings.
        learned: η so far, `{"log_lr": [], "logit_discount": []}` or one of them.
        state: What its steps carry.
    """

    def __init__(self, config: LookaheadDQNConfig, learned: Params | None = None, state: MetaState | None = None):
        self.config = config
        self._learned = self.init() if learned is None else learned
        self._state = self.start() if state is None else state
        self._path: tuple[Params, Params] | None = None

    def init(self) -> Params:
        """η at the start."""
        dtype = getattr(torch, self.config.dtype)
        assert isinstance(self.config.inner_lr, float)
        start = {"lr": math.log(self.config.inner_lr)}
        if "discount" in self.config.learn_td:
            start["discount"] = math.log(self.config.discount / (1 - self.config.discount))
        return {
            name: torch.tensor(start[name], dtype=dtype, device=self.config.device) for name in self.config.learn_td
        }

    def start(self) -> MetaState:
        """Moments before the first step."""
        return adam_start(self.init())

    @property
    def discount(self) -> float:
        """γ as it is."""
        return float(self._learned["discount"].sigmoid()) if "discount" in self._learned else self.config.discount

    def learned(self) -> Params:
        """η as it is."""
        return {name: value.detach().clone() for name, value in self._learned.items()}

    def state(self) -> MetaState:
        """What its steps carry."""
        return self._state

    def prepare(self, learner: TDLearner, batch: TransitionBatch) -> TransitionBatch:
        """To be called before each TD step, on its minibatch: judges the last one, and sets rate and discount."""
        if not self._learned:
            return batch
        if self._path is not None:
            gradient = self.gradient(learner, batch)
            self._learned, self._state = adam(self.learned(), gradient, self._state, self.config.td_meta_lr)
        if "lr" in self._learned:
            learner.set_rate(float(self._learned["lr"].exp()))
        goes_on = (batch.bootstrap > 0).to(batch.bootstrap.dtype)
        self._path = self._differentiable_step(learner, batch, goes_on)
        return batch._replace(bootstrap=goes_on * self.discount)

    def metrics(self) -> Metrics:
        """Rate and discount."""
        lr = self._learned["lr"].exp() if "lr" in self._learned else self.config.inner_lr
        return {"td_lr": float(lr), "td_discount": self.discount}  # type: ignore[arg-type]

    def gradient(self, learner: TDLearner, batch: TransitionBatch) -> Params:
        """What η should have been for the last step: ∇L(θ'; γ̄, τ')ᵀ ∂θ'/∂η, with `learner` at θ'."""
        assert self._path is not None
        leaves, moved = self._path
        goes_on = (batch.bootstrap > 0).to(batch.bootstrap.dtype)
        judged = batch._replace(bootstrap=goes_on * self.config.reference)
        slope = _gradient(learner, learner.params(), judged, create_graph=False)
        gradient = torch.autograd.grad(list(moved.values()), list(leaves.values()), [slope[name] for name in moved])
        return dict(zip(leaves, gradient, strict=True))

    def _differentiable_step(
        self, learner: TDLearner, batch: TransitionBatch, goes_on: Tensor
    ) -> tuple[Params, Params]:
        """η as leaves, and θ' as a function of them."""
        leaves = {name: value.detach().clone().requires_grad_() for name, value in self._learned.items()}
        rate = leaves["lr"].exp() if "lr" in leaves else self.config.inner_lr
        discount = leaves["discount"].sigmoid() if "discount" in leaves else self.config.discount
        params, moments = learner.params(), learner.moments()
        gradient = _gradient(learner, params, batch._replace(bootstrap=goes_on * discount), create_graph=True)
        largest = self.config.max_grad_norm
        if largest:
            norm = flatten(value.detach() for value in gradient.values()).norm()  # a constant, see above
            gradient = {name: value * (largest / (norm + 1e-6)).clamp(max=1.0) for name, value in gradient.items()}
        moved, _ = adam(params, gradient, moments, rate)  # type: ignore[arg-type]
        return leaves, moved


def _gradient(learner: TDLearner, params: Params, batch: TransitionBatch, create_graph: bool) -> Params:
    """∇L(θ; γ, τ) at `params`; with a graph it is a function of what the bootstrap depends on."""
    leaves = {name: value.requires_grad_() for name, value in params.items()}
    with torch.no_grad():
        target_values = learner.target(batch.next_observation)
        online = learner.network(batch.next_observation) if learner.config.double else None
    target = td_target(batch, target_values, online)
    error = values_at(functional_call(learner.network, leaves, (batch.observation,)), batch.action) - target
    loss = td_loss(error, batch.weight, learner.config.td_loss)
    gradient = torch.autograd.grad(loss, list(leaves.values()), create_graph=create_graph)
    return dict(zip(leaves, gradient, strict=True))
