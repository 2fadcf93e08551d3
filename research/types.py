"""The types that the layers of the library exchange: tensors, arrays and nothing else.

Axis order is always tasks, episodes, time, feature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

Params = dict[str, Tensor]
"""Named tensors: the parameters of a model or of an update rule. Per-task parameters have a leading axis `[tasks]`."""

Forward = Callable[..., Any]
"""A model with fixed parameters: `forward(inputs) -> outputs`, for one task."""

Loss = Callable[[Forward, Any], Tensor]
"""`loss(forward, batch) -> scalar`, written for one task; `batch` is any tree of tensors without the task axis."""

Metrics = dict[str, float]
"""The numbers that one iteration reports, by the names in docs/metrics.md."""


class MetaParams(NamedTuple):
    """The parameters that are meta-learned.

    Attributes:
        model: The initial parameters of the model or policy.
        update: The parameters of the inner update rule, e.g. its learning rates; constants unless they are learned.
    """

    model: Params
    update: Params


class Trajectories(NamedTuple):
    """Episodes of a batch of tasks.

    Attributes:
        observation: `[tasks, episodes, time, obs]`, the observation before the action.
        action: `[tasks, episodes, time, act]` (continuous) or `[tasks, episodes, time]` (discrete, int64).
        reward: `[tasks, episodes, time]`, zero where `valid` is false.
        log_prob: `[tasks, episodes, time]`, log-probability of the action under the policy that took it, summed over
            action dimensions.
        terminated: `[tasks, episodes, time]` bool: the step ended the episode, so no value is bootstrapped after it.
            Truncation is not termination.
        valid: `[tasks, episodes, time]` bool: the step belongs to the episode.
        last_observation: `[tasks, episodes, obs]`, the observation after the last valid step.
        diverged: `[tasks, episodes]` bool: the episode ended early because its simulation diverged. The step that
            diverged is neither valid nor a termination.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    log_prob: Tensor
    terminated: Tensor
    valid: Tensor
    last_observation: Tensor
    diverged: Tensor

    def returns(self) -> Tensor:
        """Returns the undiscounted return of every episode, `[tasks, episodes]`."""
        return (self.reward * self.valid).sum(-1)


class Trials(NamedTuple):
    """Trials of a batch of tasks: consecutive episodes through which a recurrent policy keeps its state.

    The tensors are views of memory whose first axis is time, the order in which a recurrent network reads them.

    Attributes:
        observation: `[tasks, trials, time, obs]`, the observation before the action.
        action: `[tasks, trials, time, act]` (continuous) or `[tasks, trials, time]` (discrete, int64).
        reward: `[tasks, trials, time]`, zero where `valid` is false.
        log_prob: `[tasks, trials, time]`, log-probability of the action under the policy that took it, summed over
            action dimensions.
        value: `[tasks, trials, time]`, output of the value head of the policy, in its own units.
        episode: `[tasks, trials, time]` int64, index of the episode within the trial, from 0.
        ended: `[tasks, trials, time]` bool: the episode ended with this step.
        valid: `[tasks, trials, time]` bool: the step belongs to the trial; valid steps come first.
        diverged: `[tasks, trials]` bool: the trial ended early because its simulation diverged. The step that diverged
            is not valid.
        next_observation: `[tasks, trials, time, obs]`, the observation that the step reached, also at the end of an
            episode; zeros after a step that diverged. Without numbers, `[tasks, trials, time, 0]`, unless asked for.
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
    next_observation: Tensor

    def episode_sums(self, values: Tensor, num_episodes: int) -> Tensor:
        """Returns the sum of `values [tasks, trials, time]` over each episode, `[episodes, tasks, trials]`."""
        sums = values.new_zeros(num_episodes, *values.shape[:2])
        index = self.episode.clamp_max(num_episodes - 1).movedim(2, 0)
        return sums.scatter_add_(0, index, (values * self.valid).movedim(2, 0))


class StepResult(NamedTuple):
    """The result of `Algorithm.step`: the next state and the metrics of the iteration that led to it."""

    state: Any
    metrics: Metrics
