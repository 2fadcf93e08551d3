"""Reptile for DQN: Lookahead over tasks. Design B of `lookahead_dqn.py`.

    repeat
        sample tasks T_1..T_B, and `adapt_transitions` transitions D_i of each
        for each task: θ_i ← φ, with a new optimiser
            K times: θ_i ← optimiser(θ_i, ∇ L(θ_i; θ̄_i, minibatch of D_i)); update θ̄_i          see `learner.py`
        φ ← φ + α · 1/B Σ_i (θ_i − φ),   α annealed to 0

Nichol, Achiam & Schulman 2018, arXiv:1803.02999, algorithm 2 (batched), with TD learning inside; K is
`num_inner_steps`, α is `meta_lr`. This is Lookahead with the fast weights of one network for each task, and with the
inner state `"reset"`. Nothing is differentiated through. The tasks learn at the same time, as one network with a task
axis.

Differs from the paper: the paper has no TD learning. An agent here cannot tell tasks apart by its observations, so φ
need not act well: a few TD steps from φ have to.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch

from research.algorithms.outer import initial_params, move_towards
from research.algorithms.schedules import anneal
from research.algorithms.value.config import TDConfig
from research.algorithms.value.design import TDDesign
from research.algorithms.value.learner import TDLearner
from research.denormals import flushed_denormals
from research.per_task import expand
from research.types import MetaParams, StepResult
from research.validation import at_least, in_unit_interval, positive


@dataclass(frozen=True)
class ReptileDQNConfig(TDConfig):
    """Settings of Reptile-DQN, besides those of every design with TD steps.

    Attributes:
        design: Name of the design.
        num_inner_steps: K, TD steps of each task in an iteration.
        meta_lr: α, the step size towards the mean of the tasks' parameters.
        anneal_from: Fraction of the training after which α falls linearly to 0; 1 keeps it constant.
    """

    design: Literal["reptile"] = "reptile"
    num_inner_steps: int = 50
    meta_lr: float = 1.0
    anneal_from: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "num_inner_steps")
        positive(self, "meta_lr")
        in_unit_interval(self, "anneal_from")
        self.check_transitions()


class ReptileDQNState(NamedTuple):
    """The state of the training between two iterations.

    Attributes:
        iteration: Number of finished iterations.
        meta: The initial parameters φ in `model`; `update` is empty.
    """

    iteration: int
    meta: MetaParams


class ReptileDQN(TDDesign[ReptileDQNConfig]):
    """Reptile for DQN, see the module."""

    Config: ClassVar[type] = ReptileDQNConfig

    def init(self) -> ReptileDQNState:
        """Returns the state before the first iteration."""
        return ReptileDQNState(0, MetaParams(initial_params(self.network), {}))

    @flushed_denormals()
    def step(self, state: ReptileDQNState) -> StepResult:
        """Collects transitions of every task, takes K TD steps on each, and a step towards their mean."""
        config, start = self.config, time.perf_counter()
        model, iteration = state.meta.model, state.iteration
        buffer = self.collect_transitions(self.sample(iteration), model, "transitions", iteration)
        sampled = time.perf_counter()
        learner = TDLearner(config, self.network, expand(model, config.meta_batch_size))
        batches = self.minibatches(buffer, "minibatches", iteration, n_step=config.n_step)
        errors = [learner.step(batch) for batch in itertools.islice(batches, config.num_inner_steps)]
        mean = {name: value.mean(0) for name, value in learner.online.params().items()}
        rate = anneal(config.meta_lr, config.anneal_from, iteration / config.schedule_length)
        moved, metrics = move_towards(model, mean, rate)
        metrics |= {
            "td_error": float(torch.stack(errors).abs().mean()),
            "env_steps": float(len(buffer)),
            "td_steps": float(len(errors)),
            "time/sample_seconds": sampled - start,
            "time/update_seconds": time.perf_counter() - sampled,
        }
        return StepResult(ReptileDQNState(iteration + 1, state.meta._replace(model=moved)), metrics)
