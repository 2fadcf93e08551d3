"""The settings of the DQN family: one class for all designs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from research.algorithms.config import MetaLearningConfig
from research.policies.q_network import QNetworkConfig
from research.tasks import make_tasks
from research.td import LossKind
from research.validation import at_least, in_unit_interval, one_of, positive, share

Design = Literal["lookahead", "reptile", "maml"]
Target = Literal["hard", "polyak", "slow"]
Schedule = Literal["linear", "exponential", "bandit"]


@dataclass(frozen=True)
class ReplayConfig:
    """Settings of the replay buffer.

    Attributes:
        buffer_size: Transitions of all rows together.
        priority_exponent: a, by which priorities become probabilities; 0 draws uniformly.
        importance_exponent: b of the weights at the start; it rises linearly to 1 over the training.
    """

    buffer_size: int = 100_000
    priority_exponent: float = 0.0
    importance_exponent: float = 0.4

    def __post_init__(self) -> None:
        at_least(self, 1, "buffer_size")
        in_unit_interval(self, "priority_exponent", "importance_exponent")


@dataclass(frozen=True)
class ExplorationConfig:
    """How often actions are random while training.

    Attributes:
        schedule: How ε goes from `start` to `end`: `"linear"` or `"exponential"` in the steps; or `"bandit"`, which
            chooses ε for every episode, see `research.algorithms.value.exploration`.
        start: ε at the first step.
        end: ε once `fraction` of the training is over.
        fraction: See there.
        arms: The ε that a bandit chooses from.
        memory: Share of its evidence that a bandit keeps at each episode; 1 forgets nothing.
        bonus: How far above its mean return an arm is judged that was tried little, in standard deviations.
    """

    schedule: Schedule = "linear"
    start: float = 1.0
    end: float = 0.04
    fraction: float = 0.16
    arms: tuple[float, ...] = (0.01, 0.05, 0.1, 0.3)
    memory: float = 0.98
    bonus: float = 1.0

    def __post_init__(self) -> None:
        one_of(self, "schedule", get_args(Schedule))
        in_unit_interval(self, "start", "end")
        share(self, "fraction", "memory")
        at_least(self, 0, "bonus")
        if len(self.arms) < 2 or not all(0 <= arm <= 1 for arm in self.arms):
            raise ValueError(f"arms={self.arms}: need at least 2 values from 0 to 1")
        if self.schedule == "exponential" and not (self.start > 0 and self.end > 0):
            raise ValueError(f"start={self.start}, end={self.end}: need values above 0 with schedule='exponential'")


@dataclass(frozen=True)
class LookaheadDQNConfig(MetaLearningConfig):
    """Settings of DQN and of what Lookahead makes of it, see `research.algorithms.value.lookahead_dqn`.

    The inner steps of every design are TD steps: `inner_optimizer`, `inner_lr`, and `lookahead_*` are theirs. Only the
    design `"maml"` differentiates through them; the settings about derivatives are its alone.

    Attributes:
        design: `"lookahead"`: one agent that learns on; `"reptile"`: Lookahead over tasks; `"maml"`: the derivative
            through TD steps.
        meta_batch_size: Tasks: those that are learned on (lookahead), or those of each iteration.
        rows_per_task: Rows of environments for each task.
        horizon: Steps of an episode.
        network: The Q-network.
        discount: γ.
        n_step: Steps until the bootstrap.
        double: Whether the online network chooses the action that the target network values.
        td_loss: `"huber"` or `"mse"`.
        batch_size: Transitions of a TD step, for each task.
        max_grad_norm: The gradient of a TD step is scaled down to this norm; 0 leaves it as it is.
        target: What becomes of the target network: `"hard"`: a copy every `target_interval` TD steps; `"polyak"`: a
            step of `polyak` towards the network after every TD step; `"slow"`: it is Lookahead's slow weights. With the
            design `"maml"` this is about what is meta-learned, and meta-updates count in place of TD steps.
        target_interval: TD steps between copies.
        polyak: Share of the way that a Polyak step makes.
        replay: The replay buffer (lookahead).
        exploration: Random actions while training (lookahead).
        learning_starts: Transitions before the first TD step (lookahead).
        train_freq: Steps of every row between phases of learning (lookahead).
        gradient_steps: TD steps of such a phase (lookahead).
        phases_per_iteration: Phases in one iteration (lookahead).
        adapt_transitions: Transitions of a task that adaptation learns from.
        adapt_actions: How these are explored: `"random"`, or `"least_tried"`: the action that was tried least at this
            very observation of the task, which sees more of a task with few observations.
        adapt_epsilon: The chance of such an action; the others are greedy.
        target_steps: Inner steps that the target network of the loss after adaptation is ahead (maml).
        meta_lr: Step size of the meta-update: α of Reptile, or of Adam (maml).
        anneal_from: Share of the training after which it falls linearly to 0; 1 keeps it.
        learn_td: What is learned by meta-gradient while training: names of `"lr"`, `"discount"` (lookahead).
        td_meta_lr: Step size of that, in log inner_lr and logit γ.
        reference_discount: γ of the loss that judges, fixed; None for `discount`.
        td_steps_per_adapt_step: TD steps in one step of an evaluation.
        eval_episodes: Episodes per held-out task and step.
        discounted_score: Whether an evaluation reports discounted returns.
    """

    evaluation_settings = MetaLearningConfig.evaluation_settings | {
        "horizon",
        "adapt_transitions",
        "adapt_actions",
        "adapt_epsilon",
        "td_steps_per_adapt_step",
        "eval_episodes",
        "discounted_score",
    }

    design: Design = "lookahead"
    task: str = "gym_env"
    num_iterations: int = 49
    meta_batch_size: int = 1
    rows_per_task: int = 1
    horizon: int = 500
    network: QNetworkConfig = QNetworkConfig()
    discount: float = 0.99
    n_step: int = 1
    double: bool = False
    td_loss: LossKind = "huber"
    batch_size: int = 64
    max_grad_norm: float = 10.0
    inner_optimizer: str = "adam"
    inner_lr: float | tuple[float, ...] = 2.3e-3
    target: Target = "hard"
    target_interval: int = 128
    polyak: float = 0.005
    replay: ReplayConfig = ReplayConfig()
    exploration: ExplorationConfig = ExplorationConfig()
    learning_starts: int = 1000
    train_freq: int = 256
    gradient_steps: int = 128
    phases_per_iteration: int = 4
    adapt_transitions: int = 200
    adapt_actions: Literal["random", "least_tried"] = "random"
    adapt_epsilon: float = 1.0
    target_steps: int = 0
    meta_lr: float = 1.0
    anneal_from: float = 0.0
    learn_td: tuple[Literal["lr", "discount"], ...] = ()
    td_meta_lr: float = 1e-3
    reference_discount: float | None = None
    num_eval_tasks: int = 4
    num_adapt_steps: int = 0
    td_steps_per_adapt_step: int = 1
    eval_episodes: int = 10
    discounted_score: bool = False
    eval_interval: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "design", get_args(Design))
        one_of(self, "target", get_args(Target))
        one_of(self, "adapt_actions", ("random", "least_tried"))
        one_of(self, "td_loss", get_args(LossKind))
        at_least(self, 1, "rows_per_task", "horizon", "n_step", "batch_size", "target_interval", "train_freq")
        at_least(self, 1, "gradient_steps", "phases_per_iteration", "adapt_transitions", "td_steps_per_adapt_step")
        at_least(self, 1, "eval_episodes")
        at_least(self, 0, "max_grad_norm", "learning_starts", "target_steps")
        in_unit_interval(self, "discount", "anneal_from", "adapt_epsilon")
        share(self, "polyak")
        positive(self, "meta_lr", "td_meta_lr")
        tasks = make_tasks(self.task, horizon=self.horizon, **self.task_args)  # checks the settings of its own
        tasks.test_tasks(self.num_eval_tasks)  # there may be fewer
        self._check_design()
        if self.design == "lookahead":
            self._check_replay()
        elif self.adapt_transitions % self.rows_per_task:
            raise ValueError(f"adapt_transitions={self.adapt_transitions}: need a multiple of "
                             f"rows_per_task={self.rows_per_task}, every row makes as many steps")  # fmt: skip

    @property
    def env_steps_per_iteration(self) -> int:
        """Steps of all rows together (lookahead)."""
        return self.phases_per_iteration * self.train_freq * self.num_rows

    @property
    def num_rows(self) -> int:
        """Rows of the environments while training."""
        return self.meta_batch_size * self.rows_per_task

    def _check_design(self) -> None:
        if self.target == "slow" and not self.lookahead_k:
            raise ValueError("target='slow': need lookahead_k of at least 1, without it there are no slow weights")
        if self.design == "maml" and self.target == "slow":
            raise ValueError("target='slow': need 'hard' or 'polyak' with design='maml', whose target is meta-learned")
        if self.design == "maml":
            if self.double or self.n_step > 1:
                raise ValueError(f"double={self.double}, n_step={self.n_step}: the design 'maml' bootstraps from the "
                                 "network that it adapts, one step ahead; need double=False and n_step=1")  # fmt: skip
            return
        for key in (*self.learned_keys, *(key for key in ("first_order", "adapt_only") if getattr(self, key))):
            raise ValueError(f"{key}={getattr(self, key)!r}: need the default with design={self.design!r}, which "
                             "differentiates through no TD step; design='maml' does")  # fmt: skip
        if isinstance(self.inner_lr, tuple) or self.eval_inner_lr is not None:
            raise ValueError(f"inner_lr={self.inner_lr}, eval_inner_lr={self.eval_inner_lr}: need one number and None "
                             f"with design={self.design!r}; design='maml' has a rate for each step")  # fmt: skip
        if self.design == "reptile" and self.num_inner_steps < 1:
            raise ValueError(f"num_inner_steps={self.num_inner_steps}: Reptile needs at least 1 step to move along")

    def _check_replay(self) -> None:
        at_least(dict(buffer_size=self.replay.buffer_size), self.num_rows, "buffer_size")
        if self.learn_td and (self.n_step > 1 or self.inner_optimizer != "adam" or self.lookahead_k):
            raise ValueError(f"learn_td={self.learn_td}: need n_step=1, inner_optimizer='adam' and lookahead_k=0, "
                             "whose step is differentiated")  # fmt: skip
        if self.learn_td and not all(0 < value < 1 for value in (self.discount, self.reference)):
            raise ValueError(f"discount={self.discount}, reference_discount={self.reference_discount}: need values "
                             "between 0 and 1, both excluded, with learn_td")  # fmt: skip
        phase = self.train_freq * self.num_rows
        held = min(phase * math.ceil(max(self.learning_starts, 1) / phase), self.replay.buffer_size)
        if held < self.batch_size:
            raise ValueError(f"batch_size={self.batch_size}: need at most {held}, what the replay buffer holds at the "
                             "first TD step; or raise learning_starts or replay.buffer_size")  # fmt: skip

    @property
    def reference(self) -> float:
        """γ̄, the discount of the loss that judges a learned one."""
        return self.discount if self.reference_discount is None else self.reference_discount
