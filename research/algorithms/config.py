"""The settings of every algorithm, and of every algorithm with an inner loop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from research.inner_loops import InnerLoopConfig, make_inner_loop
from research.inner_loops.base import check_rates, init_rates
from research.tasks.splits import SplitName
from research.types import MetaParams
from research.validation import at_least, choices


@dataclass(frozen=True)
class AlgorithmConfig:
    """Settings of every algorithm.

    Attributes:
        task: Name of the task distribution.
        task_args: Its settings.
        seed: Seed of every random draw of the run.
        num_iterations: Iterations of training, the units of logging, evaluation and checkpoints.
        meta_batch_size: Tasks in one meta-update.
        num_eval_tasks: Tasks of an evaluation.
        eval_split: The split of these tasks at the end of training, and of `evaluate` and `render`: `"test"`,
            `"validation"` or `"train"`. Evaluations during training, which choose `best.pt`, are on `"validation"`.
        num_adapt_steps: Steps of adaptation in an evaluation, which may exceed those of training; None for as many as
            in training, where an algorithm allows it.
        eval_interval: Iterations between evaluations during training; 0 for none.
        checkpoint_interval: Iterations between checkpoints; 0 for one at the end only.
        checkpoint_seconds: Seconds after which the next iteration ends with a checkpoint, whatever the interval is; 0
            for no such limit. The results do not depend on it.
        device: `"cpu"` or `"cuda"` (or `"cuda:1"`).
        dtype: Floating-point type of parameters and data.
        evaluation_settings: Settings that may differ when a checkpoint is evaluated or drawn. A class that adds such
            settings adds their names to those of its bases; a name stands for the settings below it, too.
        resume_settings: Settings that may differ when a run is resumed, likewise.
        mutable_settings: Settings that may change while a run trains, likewise: the algorithm has `adopt`, which fits
            its state to any of their values. Population-based training searches among them.
        growing_settings: The ones among them that can only grow, such as the sizes of a network.
        deepening_settings: Lists of widths among those that can get more layers, and not only more units.
    """

    evaluation_settings: ClassVar[frozenset[str]] = frozenset(
        {"task", "task_args", "seed", "num_eval_tasks", "eval_split", "num_adapt_steps", "device"}
    )
    resume_settings: ClassVar[frozenset[str]] = frozenset(
        {"num_iterations", "checkpoint_interval", "checkpoint_seconds", "device"}
    )
    mutable_settings: ClassVar[frozenset[str]] = frozenset()
    growing_settings: ClassVar[frozenset[str]] = frozenset()
    deepening_settings: ClassVar[frozenset[str]] = frozenset()

    task: str = ""
    task_args: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    num_iterations: int = 100
    meta_batch_size: int = 20
    num_eval_tasks: int = 40
    eval_split: SplitName = "test"
    num_adapt_steps: int | None = None
    eval_interval: int = 0
    checkpoint_interval: int = 10
    checkpoint_seconds: float = 300.0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        at_least(self, 0, "seed", "eval_interval", "checkpoint_interval", "checkpoint_seconds")
        if self.num_adapt_steps is not None:
            at_least(self, 0, "num_adapt_steps")
        at_least(self, 1, "num_iterations", "meta_batch_size", "num_eval_tasks")
        choices(self)


@dataclass(frozen=True)
class ScheduledConfig(AlgorithmConfig):
    """Settings of an algorithm with schedules: settings that change over the training.

    Attributes:
        schedule_iterations: Iterations that the schedules take, after which they keep their last values; None for
            `num_iterations`. A run that is resumed with another `num_iterations` keeps the length it was started with.
    """

    resume_settings = AlgorithmConfig.resume_settings | {"schedule_iterations"}

    schedule_iterations: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule_iterations is not None:
            at_least(self, 1, "schedule_iterations")

    def is_trained_at(self, iteration: int) -> bool:
        """Returns whether nothing is left to train after so many iterations."""
        return iteration >= self.num_iterations

    @property
    def schedule_length(self) -> int:
        """Number of iterations that the schedules take."""
        return self.schedule_iterations or self.num_iterations


@dataclass(frozen=True)
class MetaLearningConfig(AlgorithmConfig, InnerLoopConfig):
    """Settings of a meta-learner with a differentiable inner loop, in addition to those of the inner loop.

    Attributes:
        inner_loop: Backend of the inner loop, one of `research.inner_loops.INNER_LOOPS`.
        num_inner_steps: Gradient steps of adaptation during training.
        num_adapt_steps: Gradient steps of an evaluation; may exceed `num_inner_steps`.
        eval_inner_lr: The inner learning rate of an evaluation, or a rate for each step (later steps use the last one);
            None for the rates of training.
    """

    evaluation_settings = AlgorithmConfig.evaluation_settings | {"inner_loop", "eval_inner_lr"}

    inner_loop: str = "func"
    num_inner_steps: int = 1
    num_adapt_steps: int = 3
    eval_inner_lr: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        AlgorithmConfig.__post_init__(self)
        InnerLoopConfig.__post_init__(self)
        at_least(self, 0, "num_inner_steps")
        if self.eval_inner_lr is not None:
            check_rates("eval_inner_lr", self.eval_inner_lr)
            if self.learn_inner_lr != "none":
                raise ValueError(
                    f"eval_inner_lr={self.eval_inner_lr}: need None with learn_inner_lr={self.learn_inner_lr!r}, "
                    "whose rates an evaluation is to show"
                )
        make_inner_loop(self.inner_loop, self)  # checks its settings, before a run starts

    def at_evaluation(self, meta: MetaParams) -> MetaParams:
        """Returns the meta-parameters with the learning rates of an evaluation."""
        if self.eval_inner_lr is None:
            return meta
        rates = init_rates(replace(self, inner_lr=self.eval_inner_lr), meta.model, num_steps=1)
        return meta._replace(update=meta.update | rates)
