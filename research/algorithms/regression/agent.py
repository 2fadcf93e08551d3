"""A network that adapts to a few examples, its tasks and its evaluation: everything but the meta-update.

MAML and Reptile for regression differ only in the meta-update.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from research import rng
from research.algorithms.config import MetaLearningConfig, ScheduledConfig
from research.algorithms.outer import initial_params
from research.algorithms.schedules import anneal
from research.evaluation import AdaptationCurve, check_num_adapt_steps
from research.inner_loops import make_inner_loop
from research.inner_loops.base import adapted_names
from research.inner_loops.batched import task_losses
from research.losses import ExampleBatch, squared_error
from research.per_task import expand
from research.policies.mlp import check_layers, mlp
from research.tasks import make_regression_tasks
from research.tasks.base import Examples
from research.tasks.splits import SplitName, evaluation_stream, evaluation_tasks
from research.types import MetaParams, Params
from research.validation import at_least, in_unit_interval, positive


@dataclass(frozen=True)
class RegressionConfig(MetaLearningConfig, ScheduledConfig):
    """Settings of a network that adapts to a few examples by gradient steps, besides those of every meta-learner.

    For `adapt_only`, the parameters of the last layer are `head.*`, those of all other layers `body.*`.

    Attributes:
        task: Name of the task distribution, see `research.tasks.REGRESSION_TASKS`.
        updates_per_iteration: Meta-updates in one iteration.
        shots: Examples of a task in each inner step.
        query_points: Examples of a task in the loss after adaptation.
        hidden_sizes: Units of each hidden layer.
        activation: `"relu"` or `"tanh"`.
        meta_lr: Step size of a meta-update.
        anneal_from: Fraction of the training after which `meta_lr` decreases linearly to 0; 1 for a constant step size.
        eval_query_points: Examples per task of an evaluation that measure its error, none of them among the shots.
    """

    evaluation_settings = MetaLearningConfig.evaluation_settings | {"eval_query_points"}

    task: str = "sinusoid"
    num_iterations: int = 300
    updates_per_iteration: int = 100
    meta_batch_size: int = 25
    shots: int = 5
    query_points: int = 10
    hidden_sizes: tuple[int, ...] = (40, 40)
    activation: str = "relu"
    inner_lr: float | tuple[float, ...] = 0.01
    num_inner_steps: int = 2
    meta_lr: float = 3e-3
    anneal_from: float = 0.5
    num_eval_tasks: int = 600
    eval_query_points: int = 100
    num_adapt_steps: int = 10
    checkpoint_interval: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        ScheduledConfig.__post_init__(self)
        at_least(self, 1, "updates_per_iteration", "shots", "query_points", "eval_query_points")
        positive(self, "meta_lr")
        in_unit_interval(self, "anneal_from")
        check_layers(self)
        tasks = make_regression_tasks(self.task, **self.task_args)  # checks the settings of its own
        evaluation_tasks(tasks, self.eval_split, self.num_eval_tasks)  # refuses more tasks than there are

    def meta_lr_at(self, iteration: int, update: int) -> float:
        """Returns the step size of a meta-update: `meta_lr`, annealed over all updates of the training."""
        finished = iteration * self.updates_per_iteration + update
        return anneal(self.meta_lr, self.anneal_from, finished / (self.schedule_length * self.updates_per_iteration))


class SampledExamples(NamedTuple):
    """The examples of one meta-update: a batch for each inner step, and the query points."""

    batches: list[ExampleBatch]
    query: ExampleBatch


class Learner:
    """A network with its inner loop and its tasks. Has no training state: parameters are arguments."""

    def __init__(self, config: RegressionConfig):
        self.config = config
        self.device = torch.device(config.device)
        self.dtype: torch.dtype = getattr(torch, config.dtype)
        self.tasks = make_regression_tasks(config.task, **config.task_args)
        self.inner_loop = make_inner_loop(config.inner_loop, config)
        sizes = (self.tasks.num_inputs, *config.hidden_sizes, self.tasks.num_outputs)
        network = make_network(sizes, config.activation, rng.torch_generator(config.seed, "network"))
        self.network = network.to(self.device, self.dtype)
        adapted_names(config, dict(self.network.named_parameters()))  # refuses patterns without a match

    def init(self) -> MetaParams:
        """Returns the initial meta-parameters."""
        params = initial_params(self.network)
        steps = max(1, self.config.num_inner_steps)
        return MetaParams(params, self.inner_loop.init_update(self.network, params, steps))

    def sample(self, iteration: int, fresh_per_step: bool) -> Iterator[SampledExamples]:
        """Yields the examples of each meta-update of an iteration; every meta-update has new tasks.

        Args:
            iteration: Finished iterations before this one.
            fresh_per_step: Whether every inner step has new examples; otherwise all inner steps have the same ones.
        """
        config = self.config
        generator = rng.generator(config.seed, "examples", iteration)
        sets = config.num_inner_steps if fresh_per_step else min(1, config.num_inner_steps)
        tasks = self.tasks.sample(config.updates_per_iteration * config.meta_batch_size, generator)
        points = self._batch(self.tasks.examples(tasks, sets * config.shots + config.query_points, generator))
        sizes = [config.shots] * sets + [config.query_points]
        # The updates are drawn together, because each draw and each copy has a constant cost.
        chunks = zip(*(leaf.split(config.meta_batch_size) for leaf in points), strict=True)
        for inputs, targets in chunks:
            *batches, query = map(ExampleBatch, inputs.split(sizes, 1), targets.split(sizes, 1))
            yield SampledExamples(batches if fresh_per_step else batches * config.num_inner_steps, query)

    def adapt(self, meta: MetaParams, batches: Sequence[ExampleBatch], num_tasks: int) -> Params:
        """Returns the parameters of each task after one inner step per batch, `[tasks, ...]`; differentiable."""
        if not batches:
            return expand(meta.model, num_tasks)
        return self.inner_loop.adapt(self.network, meta.model, meta.update, squared_error, batches)

    def errors(self, params: Params, batch: ExampleBatch) -> Tensor:
        """Returns the mean squared error of each task with its own parameters `[tasks, ...]`, `[tasks]`."""
        return task_losses(self.network, squared_error, params, batch)

    @torch.no_grad()
    def evaluate(
        self, meta: MetaParams, num_tasks: int, num_adapt_steps: int, split: SplitName = "test"
    ) -> AdaptationCurve:
        """Returns the error on tasks of a split after 0, 1, ... gradient steps, all on the same `shots` examples.

        Raises:
            ValueError: `num_adapt_steps` is below 0.
        """
        check_num_adapt_steps(num_adapt_steps)
        config, meta = self.config, self.config.at_evaluation(meta)
        tasks, evaluated = evaluation_tasks(self.tasks, split, num_tasks)
        generator = rng.generator(config.seed, evaluation_stream(split))
        support = self._batch(self.tasks.examples(tasks, config.shots, generator))
        query = self._batch(self.tasks.examples(tasks, config.eval_query_points, generator))
        score = [
            self.errors(self.adapt(meta, [support] * steps, num_tasks), query) for steps in range(num_adapt_steps + 1)
        ]
        values: NDArray[np.float64] = torch.stack(score).double().cpu().numpy()
        return AdaptationCurve("mean squared error", values, tasks, lower_is_better=True, evaluated=evaluated)

    def _batch(self, examples: Examples) -> ExampleBatch:
        return ExampleBatch(*(torch.as_tensor(leaf, dtype=self.dtype, device=self.device) for leaf in examples))


def make_network(sizes: Sequence[int], activation: str, generator: torch.Generator) -> nn.Sequential:
    """Returns an MLP with the last layer `head` and the others `body`; parameters may have a `[tasks]` axis."""
    layers = mlp(sizes, activation, generator)
    return nn.Sequential(OrderedDict(body=layers[:-1], head=layers[-1]))
