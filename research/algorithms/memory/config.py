"""The settings of RL², and their values at each iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from research.algorithms.memory.agent import MemoryAgentConfig
from research.algorithms.schedules import interpolate
from research.optim.trust_region import TrustRegionConfig
from research.tasks import TASKS, SolvedTasks, TaskDistribution, make_tasks
from research.validation import at_least, in_open_unit_interval, in_unit_interval, positive, refuse_unread


@dataclass(frozen=True)
class RL2Config(MemoryAgentConfig, TrustRegionConfig):
    """Settings of RL², in addition to those of every agent with a memory and of the trust region (`update="trpo"`).

    Attributes:
        meta_batch_size: Tasks of an iteration; of the first one, with `final_meta_batch_size`.
        final_meta_batch_size: Tasks of the last iteration, reached linearly; 0 for a constant number.
        trials_per_task: Trials of each task.
        update: `"ppo"`, or `"trpo"` for the policy and Adam for the value, which then needs a network of its own.
        learn_from: The signal that the update maximises: `"reward"`, or `"regret"` for −`action_regret`. The sum of the
            latter has the same expectation up to a constant of the task, and less variance. It needs tasks whose best
            policy is known, and discount 1. The input of the network is the reward in both cases.
        discount: γ, also across the ends of episodes.
        gae_lambda: λ of generalised advantage estimation, also across the ends of episodes.
        normalize_advantages: Whether the advantages of an iteration are scaled to mean 0 and standard deviation 1.
        chunk_length: Steps that a gradient is propagated back through (truncated BPTT); 0 for whole trials.
        num_epochs: Passes over the trials of an iteration.
        num_minibatches: Minibatches in a pass; each is one step of Adam.
        value_coef: Weight of the value's loss.
        clip_eps: ε of PPO: a probability ratio beyond 1 ± ε does not lower the loss further. TRPO does not read it, nor
            the next two.
        entropy_coef: Weight of PPO's entropy bonus in the first iteration; it falls linearly.
        entropy_until: Fraction of the training after which that weight is 0; with more than 1 it never is.
    """

    mutable_settings = frozenset(
        {
            "meta_batch_size",
            "final_meta_batch_size",
            "trials_per_task",
            "discount",
            "gae_lambda",
            "normalize_advantages",
            "chunk_length",
            "meta_lr",
            "final_lr_fraction",
            "num_epochs",
            "num_minibatches",
            "max_grad_norm",
            "value_coef",
            "clip_eps",
            "entropy_coef",
            "entropy_until",
            "max_kl",
            "policy.hidden_size",
            "policy.head_hidden_sizes",
            "policy.head_activation",
        }
    )
    growing_settings = frozenset({"policy.hidden_size", "policy.head_hidden_sizes"})

    num_iterations: int = 100
    meta_batch_size: int = 1000
    final_meta_batch_size: int = 0
    trials_per_task: int = 1
    update: Literal["ppo", "trpo"] = "ppo"
    learn_from: Literal["reward", "regret"] = "reward"
    discount: float = 1.0
    gae_lambda: float = 0.3
    normalize_advantages: bool = True
    chunk_length: int = 0
    num_epochs: int = 3
    num_minibatches: int = 4
    value_coef: float = 0.5
    clip_eps: float = 0.2
    entropy_coef: float = 0.01
    entropy_until: float = 0.8

    def __post_init__(self) -> None:
        MemoryAgentConfig.__post_init__(self)
        TrustRegionConfig.__post_init__(self)
        at_least(self, 1, "trials_per_task", "num_epochs", "num_minibatches")
        at_least(self, 0, "final_meta_batch_size", "chunk_length", "value_coef", "entropy_coef")
        positive(self, "entropy_until")
        in_unit_interval(self, "discount", "gae_lambda")
        in_open_unit_interval(self, "clip_eps")
        tasks = self.make_tasks()
        if self.learn_from == "regret":
            self._check_regret(tasks)
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

    def _check_lengths(self, longest: int) -> None:
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

    def tasks_at(self, iteration: int) -> int:
        """Returns the number of tasks of an iteration."""
        last = self.final_meta_batch_size or self.meta_batch_size
        return round(interpolate(self.meta_batch_size, last, self.progress(iteration)))

    def entropy_coef_at(self, iteration: int) -> float:
        """Returns the weight of the entropy bonus: entropy_coef · max(0, 1 − progress / entropy_until)."""
        return self.entropy_coef * max(0.0, interpolate(1.0, 0.0, self.progress(iteration) / self.entropy_until))
