"""The agent of memory adaptation: tasks, and a policy with a memory that learns each of them within a trial.

What trains the policy is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch

from research import rng
from research.algorithms.config import AlgorithmConfig, ScheduledConfig
from research.algorithms.schedules import interpolate
from research.parallel import available_cores
from research.policies.memory import MemoryConfig, MemoryPolicy, check_context, check_spaces, make_memory_policy
from research.tasks import TaskDistribution, make_tasks
from research.tasks.splits import evaluation_tasks
from research.validation import at_least, in_unit_interval, positive


@dataclass(frozen=True)
class MemoryAgentConfig(ScheduledConfig):
    """Settings of every agent with a memory.

    Attributes:
        task: Name of the task distribution, see `research.tasks.TASKS`.
        episodes_per_trial: Episodes of a trial; the state of the network is carried through all of them.
        horizon: Steps of an episode; None for the default of the task.
        policy: Settings of the network.
        meta_lr: Step size of Adam in the first iteration; it changes linearly.
        final_lr_fraction: Step size of the last iteration as a fraction of `meta_lr`.
        max_grad_norm: Longer gradients are scaled down to this norm; 0 for no limit.
        num_adapt_steps: Episodes of a trial after the first one in an evaluation; None for those of training.
        eval_trials: Trials for each task of an evaluation.
        eval_actions: Actions of an evaluation: `"sampled"` as in training, or `"mode"`, the most probable ones.
        num_threads: Threads over trials on the CPU; 0 for one per core. The results do not depend on it.
    """

    evaluation_settings = AlgorithmConfig.evaluation_settings | {"eval_trials", "eval_actions", "num_threads"}
    resume_settings = ScheduledConfig.resume_settings | {"num_threads"}

    task: str = "bandit"
    episodes_per_trial: int = 10
    horizon: int | None = None
    policy: MemoryConfig = MemoryConfig()
    meta_lr: float = 3e-3
    final_lr_fraction: float = 0.05
    max_grad_norm: float = 0.5
    num_eval_tasks: int = 1000
    eval_trials: int = 1
    eval_actions: Literal["sampled", "mode"] = "sampled"
    num_threads: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "episodes_per_trial", "eval_trials")
        at_least(self, 0, "max_grad_norm", "num_threads")
        positive(self, "meta_lr")
        in_unit_interval(self, "final_lr_fraction")
        tasks = self.make_tasks()  # checks its settings
        evaluation_tasks(tasks, self.eval_split, self.num_eval_tasks)  # refuses more tasks than there are
        check_spaces(self.policy, tasks.observation_space, tasks.action_space)
        self._check_belief()
        self._check_context(tasks.horizon * self.episodes_per_trial)

    def _check_belief(self) -> None:
        if self.policy.belief_size and not self.policy.belief_gradient:
            raise ValueError(
                f"policy.belief_size={self.policy.belief_size}: no loss trains the belief; need 0, or "
                "policy.belief_gradient=True for the gradient of the policy"
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

    def lr_at(self, iteration: int) -> float:
        """Returns Adam's step size: meta_lr · (1 − (1 − final_lr_fraction) · progress)."""
        return self.meta_lr * interpolate(1.0, self.final_lr_fraction, self.progress(iteration))


C = TypeVar("C", bound=MemoryAgentConfig)


class MemoryAgent(Generic[C]):
    """A policy with a memory and its tasks. It holds no state of the training: parameters are arguments.

    Args:
        config: The settings.
    """

    def __init__(self, config: C):
        self.config = config
        self.device = torch.device(config.device)
        self.num_threads = 1 if self.device.type != "cpu" else config.num_threads or available_cores()
        self.tasks = config.make_tasks()
        self.longest = self.tasks.horizon * config.episodes_per_trial
        self.policy = self.make_policy(config.policy)

    def make_policy(self, settings: MemoryConfig) -> MemoryPolicy:
        """Returns a policy with these settings, and the initial parameters of the run for them."""
        initial = rng.torch_generator(self.config.seed, "policy")
        spaces = self.tasks.observation_space, self.tasks.action_space
        policy = make_memory_policy(settings, *spaces, initial, self.longest)
        return policy.to(self.device, getattr(torch, self.config.dtype))
