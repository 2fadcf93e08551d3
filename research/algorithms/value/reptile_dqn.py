"""Reptile for DQN: Lookahead over tasks. Design B of `lookahead_dqn.py`.

    repeat
        sample tasks T_1..T_B, and `adapt_transitions` transitions D_i of each, `adapt_actions`
        for each task: θ_i ← φ, an optimiser that has just been made
            K times: θ_i ← optimiser(θ_i, ∇ L(θ_i; θ̄_i, minibatch of D_i)); move θ̄_i         see `learner.py`
        φ ← φ + α · 1/B Σ_i (θ_i − φ),   α falling linearly to 0

Nichol, Achiam & Schulman 2018, arXiv:1803.02999, algorithm 2 (batched), with TD learning inside; K is
`num_inner_steps`, α is `meta_lr`. That is Lookahead whose fast weights are as many as tasks, and whose inner state is
reset. Nothing is differentiated through. All tasks take their steps at once, as one network with a task axis.

Differs from the paper: TD learning is none of its subjects. An agent here cannot tell tasks apart by what it sees, so
φ need not act well: it has to be near to what does.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from research import rng
from research.algorithms.schedules import anneal
from research.algorithms.value.config import Design, LookaheadDQNConfig
from research.algorithms.value.evaluation import evaluate, gather, minibatches
from research.algorithms.value.learner import TDLearner, init_params, make_network
from research.denormals import flushed_denormals
from research.evaluation import AdaptationCurve
from research.optim.flat import norm
from research.per_task import expand
from research.tasks import make_tasks
from research.types import MetaParams, StepResult


@dataclass(frozen=True)
class ReptileDQNConfig(LookaheadDQNConfig):
    """Settings of Reptile-DQN: those of the family, with values that suit it."""

    design: Design = "reptile"
    num_inner_steps: int = 50
    meta_batch_size: int = 10
    rows_per_task: int = 4
    num_iterations: int = 300


class State(NamedTuple):
    """Everything that training carries from one iteration to the next."""

    iteration: int
    meta: MetaParams


class ReptileDQN:
    """The algorithm. See the module."""

    Config: ClassVar[type] = ReptileDQNConfig

    def __init__(self, config: LookaheadDQNConfig):
        self.config = config
        self.tasks = make_tasks(config.task, horizon=config.horizon, **config.task_args)
        self.network = make_network(config, self.tasks)

    def init(self) -> State:
        """The state before the first iteration."""
        return State(0, MetaParams(init_params(self.network), {}))

    @flushed_denormals()
    def step(self, state: State) -> StepResult:
        """One iteration: transitions of every task, K TD steps by each, and a step towards their mean."""
        config, start = self.config, time.perf_counter()
        tasks = self.tasks.sample(config.meta_batch_size, rng.generator(config.seed, "tasks", state.iteration))
        policy = None if config.adapt_epsilon == 1 else TDLearner(config, self.network, state.meta.model)
        buffer = gather(config, self.tasks, tasks, policy, "transitions", state.iteration)
        sampled = time.perf_counter()
        learner = TDLearner(config, self.network, expand(state.meta.model, config.meta_batch_size))
        batches = minibatches(config, buffer, "minibatches", state.iteration)
        errors = [learner.step(batch) for batch in itertools.islice(batches, config.num_inner_steps)]
        direction = {name: value.mean(0) - state.meta.model[name] for name, value in learner.params().items()}
        rate = anneal(config.meta_lr, config.anneal_from, state.iteration / config.num_iterations)
        model = {name: value + rate * direction[name] for name, value in state.meta.model.items()}
        metrics = {
            "td_error": float(torch.stack(errors).abs().mean()),
            "env_steps": float(len(buffer)),
            "td_steps": float(len(errors)),
            "gradient_norm": norm(direction),
            "step_norm": rate * norm(direction),
            "time/sample_seconds": sampled - start,
            "time/update_seconds": time.perf_counter() - sampled,
        }
        return StepResult(State(state.iteration + 1, state.meta._replace(model=model)), metrics)

    def evaluate(self, state: State, num_tasks: int, num_adapt_steps: int) -> AdaptationCurve:
        """Returns on held-out tasks of the greedy policy, and after TD steps on transitions of theirs."""
        return evaluate(self.config, self.tasks, self.network, state.meta.model, num_tasks, num_adapt_steps)
