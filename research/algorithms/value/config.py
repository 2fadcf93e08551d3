"""The settings that the designs of the DQN family share. Each design adds its own in its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from research.algorithms.config import AlgorithmConfig, ScheduledConfig
from research.optim.lookahead_settings import LookaheadConfig
from research.policies.q_network import QNetworkConfig
from research.tasks import make_tasks
from research.tasks.splits import evaluation_tasks
from research.td import LossKind
from research.validation import at_least, in_unit_interval, positive, positive_fraction

InnerOptimizer = Literal["sgd", "adam", "adamw"]
TargetUpdate = Literal["hard", "polyak", "slow"]
Exploration = Literal["random", "least_tried"]


@dataclass(frozen=True)
class DQNConfig(ScheduledConfig):
    """Settings of every design, besides those of every algorithm.

    Attributes:
        meta_batch_size: Tasks of an iteration.
        rows_per_task: Environments of each task that are stepped together.
        horizon: Steps of an episode.
        network: The Q-network.
        discount: γ.
        td_loss: `"huber"` or `"mse"`.
        batch_size: Transitions of a minibatch, for each task.
        max_grad_norm: Gradients with a larger norm are scaled down to this one; 0 for no limit.
        target_interval: Updates between two copies to the target, with `target="hard"`.
        polyak: Step size τ of the target after each update, with `target="polyak"`.
        adapt_transitions: Transitions of a task from which its adaptation learns.
        adapt_actions: Exploratory actions among these transitions: `"random"`, or `"least_tried"`, the action that was
            tried least at the same observation of the task; it covers tasks with few observations better.
        adapt_epsilon: Probability of an exploratory action; other actions are greedy.
        num_adapt_steps: Entries of an evaluation after the first.
        td_steps_per_adapt_step: TD steps between two entries of an evaluation.
        eval_episodes: Episodes of each task of an evaluation at each entry.
        discounted_score: Whether an evaluation reports discounted returns.
    """

    evaluation_settings = AlgorithmConfig.evaluation_settings | {
        "horizon",
        "adapt_transitions",
        "adapt_actions",
        "adapt_epsilon",
        "td_steps_per_adapt_step",
        "eval_episodes",
        "discounted_score",
    }

    task: str = "gym_env"
    meta_batch_size: int = 10
    num_iterations: int = 300
    rows_per_task: int = 4
    horizon: int = 500
    network: QNetworkConfig = QNetworkConfig()
    discount: float = 0.99
    td_loss: LossKind = "huber"
    batch_size: int = 64
    max_grad_norm: float = 10.0
    target_interval: int = 128
    polyak: float = 0.005
    adapt_transitions: int = 200
    adapt_actions: Exploration = "random"
    adapt_epsilon: float = 1.0
    num_eval_tasks: int = 4
    num_adapt_steps: int = 0
    td_steps_per_adapt_step: int = 1
    eval_episodes: int = 10
    discounted_score: bool = False
    eval_interval: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "rows_per_task", "horizon", "batch_size", "target_interval", "adapt_transitions")
        at_least(self, 1, "td_steps_per_adapt_step", "eval_episodes")
        at_least(self, 0, "max_grad_norm")
        in_unit_interval(self, "discount", "adapt_epsilon")
        positive_fraction(self, "polyak")
        tasks = make_tasks(self.task, horizon=self.horizon, **self.task_args)  # checks the settings of the tasks
        evaluation_tasks(tasks, self.eval_split, self.num_eval_tasks)  # refuses more tasks than there are

    @property
    def num_rows(self) -> int:
        """Environments of all tasks of an iteration."""
        return self.meta_batch_size * self.rows_per_task

    def check_transitions(self) -> None:
        """Raises ValueError unless the environments of a task can share its `adapt_transitions` evenly."""
        if self.adapt_transitions % self.rows_per_task:
            raise ValueError(f"adapt_transitions={self.adapt_transitions}: need a multiple of "
                             f"rows_per_task={self.rows_per_task}, every row makes as many steps")  # fmt: skip


@dataclass(frozen=True)
class TDConfig(DQNConfig, LookaheadConfig):
    """Settings of a design whose TD steps are those of an optimiser of torch, see `learner.py`.

    Attributes:
        n_step: Steps of the environment before the target bootstraps.
        double: Whether the online network chooses the action that the target network evaluates.
        inner_optimizer: `"sgd"`, `"adam"` or `"adamw"`.
        inner_lr: Learning rate of the TD steps.
        target: Update of the target network: `"hard"`, a copy every `target_interval` TD steps; `"polyak"`, a step of
            size `polyak` towards the network after each TD step; `"slow"`, the slow weights of Lookahead.
    """

    n_step: int = 1
    double: bool = False
    inner_optimizer: InnerOptimizer = "adam"
    inner_lr: float = 2.3e-3
    target: TargetUpdate = "hard"

    def __post_init__(self) -> None:
        super().__post_init__()
        LookaheadConfig.__post_init__(self)
        at_least(self, 1, "n_step")
        positive(self, "inner_lr")
        if self.target == "slow" and not self.lookahead_k:
            raise ValueError("target='slow': need lookahead_k of at least 1, without it there are no slow weights")
