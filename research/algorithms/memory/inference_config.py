"""The settings of agents whose memory learns by task inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from research.algorithms.memory.config import RL2Config
from research.algorithms.schedules import interpolate
from research.policies.decoders import DecoderConfig, check_decoders
from research.policies.memory import MemoryConfig
from research.spaces import OneHot, is_constant
from research.tasks import TASKS, TaskDistribution, make_tasks
from research.tasks.base import InferredTasks
from research.validation import at_least, choices, positive, refuse_unread


@dataclass(frozen=True)
class InferenceConfig(RL2Config):
    """Settings of VariBAD and task inference, in addition to those of RL².

    Attributes:
        policy: Settings of the network. It needs a belief, `policy.belief_size`, which the policy reads, and a head
            that reads the observation, too.
        inference: Kind of prediction that the belief is trained for: `"varibad"`, the rewards and transitions of the
            whole trial, or `"task"`, the parameters of the task, which the family has to know (`InferredTasks`).
        inference_lr: Step size of the Adam of memory, belief and decoders in the first iteration; it falls as that of
            the policy, to `final_lr_fraction` of it. `max_grad_norm` is no limit of its gradients.
        num_inference_epochs: Passes of that Adam over the trials of an iteration.
        num_inference_minibatches: Minibatches in a pass; each is one of its steps.
        num_elbo_times: Number of times of each trial at which `"varibad"` decodes its belief, drawn again in each pass;
            0 for all. `"task"` decodes all.
        kl_coef: Weight of the KL divergence; 1 is the evidence lower bound.
        reward_coef: Weight of the log-likelihood of rewards; 0 for no decoder of them. `"task"` decodes neither rewards
            nor observations, and reads neither this nor `transition_coef`.
        transition_coef: Weight of the log-likelihood of next observations; 0 for no decoder of them. There is none
            either where all observations are equal.
        decoder: Settings of the decoders.
    """

    mutable_settings = frozenset[str]()  # VariBAD has no `adopt`
    growing_settings = frozenset[str]()

    policy: MemoryConfig = MemoryConfig(head="state", belief_size=5)
    inference: Literal["varibad", "task"] = "varibad"
    inference_lr: float = 1e-3
    num_inference_epochs: int = 1
    num_inference_minibatches: int = 4
    num_elbo_times: int = 8
    kl_coef: float = 0.1
    reward_coef: float = 1.0
    transition_coef: float = 1.0
    decoder: DecoderConfig = DecoderConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        choices(self)
        positive(self, "inference_lr")
        at_least(self, 1, "num_inference_epochs", "num_inference_minibatches")
        at_least(self, 0, "num_elbo_times", "kl_coef", "reward_coef", "transition_coef")
        if self.update != "ppo":
            raise ValueError(f"update={self.update!r}: need 'ppo', the belief has an update of its own")
        if self.chunk_length:
            raise ValueError(f"chunk_length={self.chunk_length}: a belief is trained through whole trials; need 0")
        tasks = self.make_tasks()
        self._check_head(tasks)
        if self.inference == "task":
            inferred_tasks(tasks, self.task)
        else:
            self._check_decoders(tasks)
        self._check_unread(tasks)
        longest = tasks.horizon * self.episodes_per_trial
        if self.inference == "varibad" and self.num_elbo_times > longest:
            raise ValueError(
                f"num_elbo_times={self.num_elbo_times}: need at most {longest}, the steps of a trial "
                f"({self.episodes_per_trial} episodes); 0 for all"
            )
        self._check_minibatches("num_inference_minibatches")

    def _check_belief(self) -> None:
        if self.policy.belief_size < 1:
            raise ValueError(
                f"policy.belief_size={self.policy.belief_size}: inference={self.inference!r} trains a belief, which "
                "the policy reads; need at least 1"
            )

    def _check_head(self, tasks: TaskDistribution) -> None:
        policy = self.policy
        is_blind = policy.head == "linear" and not policy.per_state_heads and not policy.belief_gradient
        if is_blind and not is_constant(tasks.observation_space):
            raise ValueError(
                "policy.head='linear': it reads the belief alone, which is trained to tell tasks apart, so that no "
                "action would depend on the observation; need 'state', 'film' or 'hyper'"
            )

    def _check_decoders(self, tasks: TaskDistribution) -> None:
        if not self.reward_coef and not self.decodes_transitions(tasks):
            raise ValueError(
                f"reward_coef={self.reward_coef:g}: need a value above 0, as there is nothing else to decode "
                f"(transition_coef={self.transition_coef:g})"
            )
        check_decoders(self.decoder, tasks.observation_space)

    def _check_unread(self, tasks: TaskDistribution) -> None:
        """Raises ValueError if a setting of decoders that there are not is not its default."""
        rewards = ("reward", "reward_std", "reward_per_state")
        if self.inference == "task":
            reason = "inference='task' does not read it"
            refuse_unread(self, ("num_elbo_times",), reason)
            refuse_unread(self, ("reward_coef", "transition_coef"), reason, 0.0)
            refuse_unread(self.decoder, (*rewards, "transition_std"), reason, prefix="decoder.")
            return
        observations = tasks.observation_space
        if is_constant(observations):
            refuse_unread(self, ("transition_coef",), "all observations are equal and none is decoded", 0.0)
        if not self.reward_coef:
            refuse_unread(self.decoder, rewards, "reward_coef=0 decodes no rewards", prefix="decoder.")
        if not self.decodes_transitions(tasks) or isinstance(observations, OneHot):
            reason = f"no continuous observation is decoded ({observations}, transition_coef={self.transition_coef:g})"
            refuse_unread(self.decoder, ("transition_std",), reason, prefix="decoder.")

    def decodes_transitions(self, tasks: TaskDistribution) -> bool:
        """Returns whether next observations are decoded."""
        return self.transition_coef > 0 and not is_constant(tasks.observation_space)

    def inference_lr_at(self, iteration: int) -> float:
        """Returns the step size: inference_lr · (1 − (1 − final_lr_fraction) · progress)."""
        return self.inference_lr * interpolate(1.0, self.final_lr_fraction, self.progress(iteration))


def inferred_tasks(tasks: TaskDistribution, name: str) -> InferredTasks:
    """Returns the distribution, whose tasks have parameters to predict. Raises ValueError if it knows none.

    Args:
        tasks: The distribution.
        name: Its name, the setting `task`.
    """
    if isinstance(tasks, InferredTasks):
        return tasks
    known = ", ".join(key for key in TASKS if isinstance(make_tasks(key), InferredTasks))
    raise ValueError(
        f"inference='task': task={name!r} knows no parameters of its tasks to predict, {known} do; need 'varibad', "
        "which predicts rewards and transitions"
    )
