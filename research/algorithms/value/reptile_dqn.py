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

from research import rng
from research.algorithms.outer import initial_params, move_towards
from research.algorithms.schedules import anneal
from research.algorithms.value.config import TDConfig
from research.algorithms.value.evaluation import by_td_steps, collect_transitions, evaluate, minibatches
from research.algorithms.value.learner import TDLearner, make_network
from research.denormals import flushed_denormals
from research.evaluation import AdaptationCurve
from research.per_task import expand
from research.tasks import make_tasks
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


class ReptileDQN:
    """Reptile for DQN, see the module."""

    Config: ClassVar[type] = ReptileDQNConfig

    def __init__(self, config: ReptileDQNConfig):
        self.config = config
        self.tasks = make_tasks(config.task, horizon=config.horizon, **config.task_args)
        self.network = make_network(config, self.tasks)

    def init(self) -> ReptileDQNState:
        """Returns the state before the first iteration."""
        return ReptileDQNState(0, MetaParams(initial_params(self.network), {}))

    @flushed_denormals()
    def step(self, state: ReptileDQNState) -> StepResult:
        """Collects transitions of every task, takes K TD steps on each, and a step towards their mean."""
        config, start = self.config, time.perf_counter()
        model, iteration = state.meta.model, state.iteration
        tasks = self.tasks.sample(config.meta_batch_size, rng.generator(config.seed, "tasks", iteration))
        buffer = collect_transitions(config, self.tasks, tasks, self.network, model, "transitions", iteration)
        sampled = time.perf_counter()
        learner = TDLearner(config, self.network, expand(model, config.meta_batch_size))
        batches = minibatches(config, buffer, "minibatches", iteration, n_step=config.n_step)
        errors = [learner.step(batch) for batch in itertools.islice(batches, config.num_inner_steps)]
        mean = {name: value.mean(0) for name, value in learner.online.params().items()}
        rate = anneal(config.meta_lr, config.anneal_from, iteration / config.num_iterations)
        moved, metrics = move_towards(model, mean, rate)
        metrics |= {
            "td_error": float(torch.stack(errors).abs().mean()),
            "env_steps": float(len(buffer)),
            "td_steps": float(len(errors)),
            "time/sample_seconds": sampled - start,
            "time/update_seconds": time.perf_counter() - sampled,
        }
        return StepResult(ReptileDQNState(iteration + 1, state.meta._replace(model=moved)), metrics)

    def evaluate(self, state: ReptileDQNState, num_tasks: int, num_adapt_steps: int) -> AdaptationCurve:
        """The mean return of the greedy policy on held-out tasks, before and after TD steps on their transitions."""
        config, model = self.config, state.meta.model
        advance = by_td_steps(config, self.network, model, num_tasks)
        return evaluate(
            config, self.tasks, self.network, model, num_tasks, num_adapt_steps, advance, n_step=config.n_step
        )
