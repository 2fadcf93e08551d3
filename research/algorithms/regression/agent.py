"""What the regression algorithms share: a network that adapts to a few examples, its tasks, and its evaluation.

The algorithms differ in how they update the meta-parameters; this file is everything before that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from research import rng
from research.algorithms.config import MetaLearningConfig
from research.algorithms.schedules import anneal
from research.evaluation import AdaptationCurve, check_num_adapt_steps
from research.inner_loops import make_inner_loop
from research.inner_loops.base import adapted_names
from research.per_task import expand
from research.policies.mlp import check_layers, mlp
from research.tasks import make_regression_tasks
from research.tasks.regression import Examples
from research.types import Forward, MetaParams, Params
from research.validation import at_least, in_unit_interval, one_of, positive


@dataclass(frozen=True)
class RegressionConfig(MetaLearningConfig):
    """Settings of a network that adapts to a few examples by gradient steps, beside those of every meta-learner.

    The network's parts are `body.*` and `head.*`, the last layer, for `adapt_only`.

    Attributes:
        algorithm: Name of the algorithm in `research.algorithms.ALGORITHMS`.
        task: Name of the task distribution, see `research.tasks.REGRESSION_TASKS`.
        updates_per_iteration: Meta-updates in one iteration.
        shots: Examples of a task that each inner step sees.
        query_points: Examples of a task for the loss after adaptation.
        hidden_sizes: Units of each hidden layer.
        activation: `"relu"` or `"tanh"`.
        meta_lr: Step size of a meta-update.
        anneal_from: Share of the training after which it falls linearly to 0; 1 keeps it.
        eval_query_points: Fresh examples per held-out task that the error is measured on.
    """

    evaluation_settings = MetaLearningConfig.evaluation_settings | {"eval_query_points"}

    algorithm: Literal["maml_regression", "reptile_regression"] = "maml_regression"
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
        at_least(self, 1, "updates_per_iteration", "shots", "query_points", "eval_query_points")
        positive(self, "meta_lr")
        in_unit_interval(self, "anneal_from")
        one_of(self, "algorithm", ("maml_regression", "reptile_regression"))
        check_layers(self)
        make_regression_tasks(self.task, **self.task_args)  # checks the settings of its own

    def meta_lr_at(self, iteration: int, update: int) -> float:
        """The step size of a meta-update: `meta_lr`, annealed over all updates of the training."""
        finished = iteration * self.updates_per_iteration + update
        return anneal(self.meta_lr, self.anneal_from, finished / (self.num_iterations * self.updates_per_iteration))


class Batch(NamedTuple):
    """Examples of some tasks: `inputs [tasks, points, in]`, `targets [tasks, points, out]`."""

    inputs: Tensor
    targets: Tensor


class Sampled(NamedTuple):
    """What one meta-update sees: the batch of each inner step, and the examples after the last one."""

    batches: list[Batch]
    query: Batch


class Learner:
    """A network with its inner loop and its tasks. Holds no state of the training: parameters are passed in."""

    def __init__(self, config: RegressionConfig):
        self.config = config
        self.device = torch.device(config.device)
        self.dtype: torch.dtype = getattr(torch, config.dtype)
        self.tasks = make_regression_tasks(config.task, **config.task_args)
        self.inner_loop = make_inner_loop(config.inner_loop, config)
        sizes = (self.tasks.num_inputs, *config.hidden_sizes, self.tasks.num_outputs)
        network = make_network(sizes, config.activation, rng.torch_generator(config.seed, "network"))
        self.network = network.to(self.device, self.dtype)
        adapted_names(config, dict(self.network.named_parameters()))  # refuses what is not there

    def init(self) -> MetaParams:
        """The meta-parameters at the start of training."""
        params = {name: value.detach().clone() for name, value in self.network.named_parameters()}
        steps = max(1, self.config.num_inner_steps)
        return MetaParams(params, self.inner_loop.init_update(self.network, params, steps))

    def sample(self, iteration: int, fresh_per_step: bool) -> Iterator[Sampled]:
        """The examples of each meta-update of an iteration, with tasks of its own.

        Args:
            iteration: Finished iterations before this one.
            fresh_per_step: Whether every inner step sees examples of its own, or all see the same.
        """
        config = self.config
        generator = rng.generator(config.seed, "examples", iteration)
        sets = config.num_inner_steps if fresh_per_step else min(1, config.num_inner_steps)
        tasks = self.tasks.sample(config.updates_per_iteration * config.meta_batch_size, generator)
        points = self._batch(self.tasks.examples(tasks, sets * config.shots + config.query_points, generator))
        sizes = [config.shots] * sets + [config.query_points]
        # All updates at once: a draw and a copy cost more than the numbers in them.
        chunks = zip(*(leaf.split(config.meta_batch_size) for leaf in points), strict=True)
        for inputs, targets in chunks:
            *batches, query = map(Batch, inputs.split(sizes, 1), targets.split(sizes, 1))
            yield Sampled(batches if fresh_per_step else batches * config.num_inner_steps, query)

    def adapt(self, meta: MetaParams, batches: Sequence[Batch], num_tasks: int) -> Params:
        """Parameters of each task after one inner step for each batch, `[tasks, ...]`, differentiable in `meta`."""
        if not batches:
            return expand(meta.model, num_tasks)
        return self.inner_loop.adapt(self.network, meta.model, meta.update, squared_error, batches)

    def errors(self, params: Params, batch: Batch) -> Tensor:
        """Mean squared error of each task under its own parameters `[tasks, ...]`: `[tasks]`."""
        predictions = functional_call(self.network, params, (batch.inputs,))
        return (predictions - batch.targets).square().mean((1, 2))

    @torch.no_grad()
    def evaluate(self, meta: MetaParams, num_tasks: int, num_adapt_steps: int) -> AdaptationCurve:
        """Error on fresh examples of held-out tasks after 0, 1, ... steps, each on the same `shots` examples."""
        check_num_adapt_steps(num_adapt_steps)
        config, meta = self.config, self.config.at_evaluation(meta)
        tasks = self.tasks.test_tasks(num_tasks)
        generator = rng.generator(config.seed, "evaluation")
        support = self._batch(self.tasks.examples(tasks, config.shots, generator))
        query = self._batch(self.tasks.examples(tasks, config.eval_query_points, generator))
        score = [
            self.errors(self.adapt(meta, [support] * steps, num_tasks), query) for steps in range(num_adapt_steps + 1)
        ]
        values: NDArray[np.float64] = torch.stack(score).double().cpu().numpy()
        return AdaptationCurve("mean squared error", values, tasks, lower_is_better=True)

    def _batch(self, examples: Examples) -> Batch:
        return Batch(*(torch.as_tensor(leaf, dtype=self.dtype, device=self.device) for leaf in examples))


def make_network(sizes: Sequence[int], activation: str, generator: torch.Generator) -> nn.Sequential:
    """An MLP whose last layer is called `head` and all before it `body`. Takes parameters with a `[tasks]` axis too."""
    layers = mlp(sizes, activation, generator)
    return nn.Sequential(OrderedDict(body=layers[:-1], head=layers[-1]))


def squared_error(network: Forward, batch: Batch) -> Tensor:
    """Mean over the examples and outputs of one task of (network(x) − y)²."""
    return (network(batch.inputs) - batch.targets).square().mean()
