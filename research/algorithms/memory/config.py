"""The settings of RL², and their values at each iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from research.algorithms.config import AlgorithmConfig, ScheduledConfig
from research.algorithms.schedules import interpolate
from research.optim.trust_region import TrustRegionConfig
from research.policies.memory import MemoryConfig, check_context, check_spaces
from research.tasks import TASKS, SolvedTasks, TaskDistribution, make_tasks
from research.tasks.splits import evaluation_tasks
from research.validation import at_least, in_open_unit_interval, in_unit_interval, positive, refuse_unread


@dataclass(frozen=True)
class RL2Config(ScheduledConfig, TrustRegionConfig):
    """Settings of RL², in addition to those of every algorithm and of the trust region (read with `update="trpo"`).

    Attributes:
        task: Name of the task distribution, see `research.tasks.TASKS`.
        meta_batch_size: Tasks of an iteration; of the first one, with `final_meta_batch_size`.
        final_meta_batch_size: Tasks of the last iteration, reached linearly; 0 for a constant number.
        trials_per_task: Trials of each task.
        episodes_per_trial: Episodes of a trial; the state of the network is carried through all of them.
        horizon: Steps of an episode; None for the default of the task.
        policy: Settings of the network.
        update: `"ppo"`, or `"trpo"` for the policy and Adam for the value, which then needs a network of its own.
        learn_from: The signal that the update maximises: `"reward"`, or `"regret"` for −`action_regret`. The sum of the
            latter has the same expectation up to a constant of the task, and less variance. It needs tasks whose best
            policy is known, and discount 1. The input of the network is the reward in both cases.
        discount: γ, also across the ends of episodes.
        gae_lambda: λ of generalised advantage estimation, also across the ends of episodes.
        normalize_advantages: Whether the advantages of an iteration are scaled to mean 0 and standard deviation 1.
        chunk_length: Steps that a gradient is propagated back through (truncated BPTT); 0 for whole trials.
        meta_lr: Step size of Adam in the first iteration; it changes linearly.
        final_lr_fraction: Step size of the last iteration as a fraction of `meta_lr`.
        num_epochs: Passes over the trials of an iteration.
        num_minibatches: Minibatches in a pass; each is one step of Adam.
        max_grad_norm: Longer gradients are scaled down to this norm; 0 for no limit.
        value_coef: Weight of the value's loss.
        clip_eps: ε of PPO: a probability ratio beyond 1 ± ε does not lower the loss further. TRPO does not read it, nor
            the next two.
        entropy_coef: Weight of PPO's entropy bonus in the first iteration; it falls linearly.
        entropy_until: Fraction of the training after which that weight is 0; with more than 1 it never is.
        num_adapt_steps: Episodes of a trial after the first one in an evaluation; None for those of training.
        eval_trials: Trials for each task of an evaluation.
        eval_actions: Actions of an evaluation: `"sampled"` as in training, or `"mode"`, the most probable ones.
        num_threads: Threads over trials on the CPU; 0 for one per core. The results do not depend on it.
    """

    evaluation_settings = AlgorithmConfig.evaluation_settings | {"eval_trials", "eval_actions", "num_threads"}
    resume_settings = ScheduledConfig.resume_settings | {"num_threads"}

    task: str = "bandit"
    num_iterations: int = 100
    meta_batch_size: int = 1000
    final_meta_batch_size: int = 0
    trials_per_task: int = 1
    episodes_per_trial: int = 10
    horizon: int | None = None
    policy: MemoryConfig = MemoryConfig()
    update: Literal["ppo", "trpo"] = "ppo"
    learn_from: Literal["reward", "regret"] = "reward"
    discount: float = 1.0
    gae_lambda: float = 0.3
    normalize_advantages: bool = True
    chunk_length: int = 0
    meta_lr: float = 3e-3
    final_lr_fraction: float = 0.05
    num_epochs: int = 3
    num_minibatches: int = 4
    max_grad_norm: float = 0.5
    value_coef: float = 0.5
    clip_eps: float = 0.2
    entropy_coef: float = 0.01
    entropy_until: float = 0.8
    num_eval_tasks: int = 1000
    eval_trials: int = 1
    eval_actions: Literal["sampled", "mode"] = "sampled"
    num_threads: int = 0

    def __post_init__(self) -> None:
        ScheduledConfig.__post_init__(self)
        TrustRegionConfig.__post_init__(self)
        at_least(self, 1, "trials_per_task", "episodes_per_trial", "num_epochs", "num_minibatches", "eval_trials")
        at_least(self, 0, "final_meta_batch_size", "chunk_length", "max_grad_norm", "value_coef", "entropy_coef")
        at_least(self, 0, "num_threads")
        positive(self, "meta_lr", "entropy_until")
        in_unit_interval(self, "discount", "gae_lambda", "final_lr_fraction")
        in_open_unit_interval(self, "clip_eps")
        tasks = self.make_tasks()  # checks its settings
        if self.learn_from == "regret":
            self._check_regret(tasks)
        evaluation_tasks(tasks, self.eval_split, self.num_eval_tasks)  # refuses more tasks than there are
        check_spaces(self.policy, tasks.observation_space, tasks.action_space)
        self._check_belief()
        self._check_lengths(tasks.horizon * self.episodes_per_trial)
        self._check_update()

    def _check_update(self) -> None:
        reason = f"update={self.update!r} does not read it"
        if self.update == "ppo":
            refuse_unread(self, TrustRegionConfig.__dataclass_fields__, reason)
            return
        refuse_unread(self, ("clip_eps", "entropy_until"), reason)
        refuse_unread(self, ("entropy_coef",), reason, 0.0)
        if not self.policy.separate_value:
            raise ValueError(
                "policy.separate_value=False: update='trpo' changes the policy alone, which needs a value with a "
                "memory of its own; need True"
            )

    def _check_regret(self, tasks: TaskDistribution) -> None:
        if not isinstance(tasks, SolvedTasks):
            solved = " and ".join(repr(name) for name in TASKS if isinstance(make_tasks(name), SolvedTasks))
            raise ValueError(
                f"learn_from='regret': the best policies for task={self.task!r} are not known, those for {solved} are; "
                "need 'reward'"
            )
        if self.discount != 1:
            raise ValueError(f"learn_from='regret': it is undiscounted, got discount={self.discount:g}; need 1")

    def _check_belief(self) -> None:
        if self.policy.belief_size and not self.policy.belief_gradient:
            raise ValueError(
                f"policy.belief_size={self.policy.belief_size}: no loss of RL² trains the belief; need 0, or "
                "policy.belief_gradient=True for the gradient of the policy"
            )

    def _check_lengths(self, longest: int) -> None:
        self._check_context(longest)
        if self.chunk_length and self.policy.memory != "gru":
            raise ValueError(
                f"chunk_length={self.chunk_length}: gradients are truncated at the state of a GRU, got "
                f"policy.memory={self.policy.memory!r}; need 0"
            )
        if self.chunk_length > longest:
            raise ValueError(
                f"chunk_length={self.chunk_length}: need at most {longest}, the steps of a trial "
                f"({self.episodes_per_trial} episodes); 0 for whole trials"
            )
        self._check_minibatches("num_minibatches")

    def _check_minibatches(self, name: str) -> None:
        """Raises ValueError if the setting `name` asks for more minibatches than an iteration has trials."""
        count: int = getattr(self, name)
        trials = min(size for size in (self.meta_batch_size, self.final_meta_batch_size) if size) * self.trials_per_task
        if count > trials:
            raise ValueError(
                f"{name}={count}: need at most {trials}, the trials of an iteration (meta_batch_size × trials_per_task)"
            )

    def _check_context(self, longest: int) -> None:
        """Raises ValueError if a transformer cannot read the trials of training or of an evaluation."""
        check_context(self.policy, longest, longest)
        evaluated = longest // self.episodes_per_trial * ((self.num_adapt_steps or 0) + 1)
        check_context(self.policy, longest, evaluated, f" of an evaluation (num_adapt_steps={self.num_adapt_steps})")

    def make_tasks(self) -> TaskDistribution:
        """Returns the task distribution."""
        horizon = {} if self.horizon is None else {"horizon": self.horizon}
        return make_tasks(self.task, **horizon, **self.task_args)

    def progress(self, iteration: int) -> float:
        """Returns the progress of the schedules: 0 at the first iteration, 1 at the last of their length."""
        return min(1.0, iteration / max(1, self.schedule_length - 1))

    def tasks_at(self, iteration: int) -> int:
        """Returns the number of tasks of an iteration."""
        last = self.final_meta_batch_size or self.meta_batch_size
        return round(interpolate(self.meta_batch_size, last, self.progress(iteration)))

    def lr_at(self, iteration: int) -> float:
        """Returns Adam's step size: meta_lr · (1 − (1 − final_lr_fraction) · progress)."""
        return self.meta_lr * interpolate(1.0, self.final_lr_fraction, self.progress(iteration))

    def entropy_coef_at(self, iteration: int) -> float:
        """Returns the weight of the entropy bonus: entropy_coef · max(0, 1 − progress / entropy_until)."""
        return self.entropy_coef * max(0.0, interpolate(1.0, 0.0, self.progress(iteration) / self.entropy_until))
