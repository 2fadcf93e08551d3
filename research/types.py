"""The types that travel between the layers of the library: tensors, arrays and nothing else.

Axis order is always tasks, episodes, time, feature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

Params = dict[str, Tensor]
"""Named tensors: a model's parameters, or those of an update rule. Per-task parameters carry a leading `[tasks]`."""

Forward = Callable[..., Any]
"""A model with its parameters already applied: `forward(inputs) -> outputs`, for one task."""

Loss = Callable[[Forward, Any], Tensor]
"""`loss(forward, batch) -> scalar`, written for one task; `batch` is any tree of tensors without the task axis."""

Metrics = dict[str, float]
"""The metrics of an iteration, by the names that docs/metrics.md explains."""


class MetaParams(NamedTuple):
    """The meta-learned parameters.

    Attributes:
        model: The initial parameters of the model or policy.
        update: The parameters of the inner update rule, e.g. its learning rates. Constants unless they are learned.
    """

    model: Params
    update: Params


class Trajectories(NamedTuple):
    """Episodes of a batch of tasks.

    Attributes:
        observation: `[tasks, episodes, time, obs]`, what the policy saw before it acted.
        action: `[tasks, episodes, time, act]` (continuous) or `[tasks, episodes, time]` (discrete, int64).
        reward: `[tasks, episodes, time]`, zero where `valid` is false.
        log_prob: `[tasks, episodes, time]`, of the action under the policy that took it; summed over action dimensions.
        terminated: `[tasks, episodes, time]` bool: the task ended here, nothing is bootstrapped beyond. Truncation is
            not termination.
        valid: `[tasks, episodes, time]` bool: the step belongs to the episode.
        last_observation: `[tasks, episodes, obs]`, what followed the last valid step.
        diverged: `[tasks, episodes]` bool: the episode was cut short because its simulation blew up. The step that did
            is not valid, and counts as neither a termination nor a step.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    log_prob: Tensor
    terminated: Tensor
    valid: Tensor
    last_observation: Tensor
    diverged: Tensor

    @property
    def num_tasks(self) -> int:
        """The number of tasks."""
        return self.reward.shape[0]

    def returns(self) -> Tensor:
        """Undiscounted return of every episode, `[tasks, episodes]`."""
        return (self.reward * self.valid).sum(-1)


class Trials(NamedTuple):
    """Trials of a batch of tasks: several consecutive episodes, through which a recurrent policy carries its state.

    The tensors are views of memory with time first, in which a recurrent network goes through them.

    Attributes:
        observation: `[tasks, trials, time, obs]`, what the policy saw before it acted.
        action: `[tasks, trials, time, act]` (continuous) or `[tasks, trials, time]` (discrete, int64).
        reward: `[tasks, trials, time]`, zero where `valid` is false.
        log_prob: `[tasks, trials, time]`, of the action under the policy that took it; summed over action dimensions.
        value: `[tasks, trials, time]`, what the policy's value head said, in its own units.
        episode: `[tasks, trials, time]` int64, which episode of the trial the step belongs to, from 0.
        ended: `[tasks, trials, time]` bool: the episode ended with this step, and the next one began.
        valid: `[tasks, trials, time]` bool: the step belongs to the trial; valid steps come first.
        diverged: `[tasks, trials]` bool: the trial was cut short because its simulation blew up. The step that did is
            not valid.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    log_prob: Tensor
    value: Tensor
    episode: Tensor
    ended: Tensor
    valid: Tensor
    diverged: Tensor

    @property
    def num_tasks(self) -> int:
        """The number of tasks."""
        return self.reward.shape[0]

    def episode_sums(self, values: Tensor, num_episodes: int) -> Tensor:
        """The sum of `values [tasks, trials, time]` over each episode, `[episodes, tasks, trials]`."""
        sums = values.new_zeros(num_episodes, *values.shape[:2])
        index = self.episode.clamp_max(num_episodes - 1).movedim(2, 0)
        return sums.scatter_add_(0, index, (values * self.valid).movedim(2, 0))


class StepResult(NamedTuple):
    """The result of `Algorithm.step`: the next state and the metrics of the iteration."""

    state: Any
    metrics: Metrics
