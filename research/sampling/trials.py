"""Collection of trials: several consecutive episodes per row, with a recurrent policy that keeps its state."""

from __future__ import annotations

import copy
import functools
from typing import Any, NamedTuple, TypeVar

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from research.distributions import Distribution
from research.policies.memory import Inputs, MemoryPolicy
from research.sampling.collect import check_envs, diverged_rows
from research.types import Params, Trials

M = TypeVar("M", bound=nn.Module)


def bind(policy: M, params: Params, requires_grad: bool = False) -> M:
    """Returns a copy of the policy, or of another module, with these parameters, for one thread or for a gradient.

    Args:
        policy: The policy to copy.
        params: Its parameters, by name; others are not read.
        requires_grad: Whether the copy's parameters require a gradient.
    """
    bound = copy.deepcopy(policy).requires_grad_(requires_grad)
    fill(bound, params)
    return bound


@torch.no_grad()
def fill(module: nn.Module, params: Params) -> None:
    """Copies these parameters into a module that `bind` returned; its tensors stay where they are."""
    for name, parameter in module.named_parameters():
        parameter.copy_(params[name])


@torch.no_grad()
def collect_trials(
    policy: MemoryPolicy,
    params: Params,
    envs: gymnasium.vector.VectorEnv[Any, Any, Any],
    num_tasks: int,
    episodes_per_trial: int,
    horizon: int,
    generator: torch.Generator,
    keep_next: bool = False,
    num_threads: int = 1,
    take_mode: bool = False,
) -> Trials:
    """Collects one trial of consecutive episodes in every row of `envs`; the policy keeps its state between episodes.

    A row that ends an episode starts the next one at once. A step that the environment reports as diverged
    (`info["diverged"]`), or whose reward or observation is not finite, is dropped and ends the trial.

    Args:
        policy: The recurrent policy.
        params: Its parameters, the same for every task. The result has their device and dtype.
        envs: Environments with `tasks × trials` rows that can reset the rows of `options["reset_mask"]`; the trials of
            a task are adjacent rows. Rows whose trial has ended are still stepped, and their results are ignored, so
            that a trial of fewer episodes is the beginning of one of more episodes.
        num_tasks: Number of tasks of the rows.
        episodes_per_trial: Number of episodes of a trial.
        horizon: Largest number of steps of an episode.
        generator: Source of the actions, on the device of `params`. Its initial seed also seeds the environments, so
            every call needs another generator.
        keep_next: Whether the trials also have the observation that each step reached.
        num_threads: Threads for the policy; the trials do not depend on it.
        take_mode: Whether actions are the most probable ones instead of samples.

    Returns:
        Trials `[tasks, trials, time, ...]`.

    Raises:
        ValueError: The number of rows is not a multiple of `num_tasks`, the environments have `SAME_STEP` autoreset, or
            the policy cannot read a trial of so many steps.
    """
    check_envs(envs, num_tasks)
    policy.check_length(episodes_per_trial * horizon)
    bound = bind(policy, params)
    bound.use_threads(num_threads)
    record = _Record(envs.num_envs, episodes_per_trial, horizon, next(iter(params.values())))
    observation, _ = envs.reset(seed=generator.initial_seed() % 2**31)
    state, last = bound.initial_state(envs.num_envs), record.before(bound, observation)
    while record.is_open:
        seen = record.tensor(observation)
        output = bound.act(bound.encode(seen, *last), state)
        choice = output.distribution
        state, action = output.state, choice.mode() if take_mode else choice.sample(generator)
        observation, reward, terminated, truncated, info = envs.step(action.cpu().numpy())
        diverged = diverged_rows(observation, reward, info)
        ended = terminated | truncated | diverged
        step = (seen, action, output.distribution, output.value)
        received = record.add(step, np.asarray(reward), ended, diverged)
        if keep_next:
            record.reached.append(record.tensor(np.where(diverged[:, None], 0.0, observation)))
        last = _Last(seen, action, received, torch.from_numpy(ended).to(received.device))
        if ended.any():
            observation, _ = envs.reset(options={"reset_mask": ended})
    return record.trials(num_tasks)


def trial_inputs(policy: MemoryPolicy, trials: Trials) -> Inputs:
    """Returns the inputs of the policy at each step of the trials, `[tasks, trials, time, ...]`."""
    first = policy.first_action(1)[0]

    def before(values: Tensor, start: Any) -> Tensor:
        """The value of the step before each step, in memory with time first, as the trials are."""
        by_time = values.movedim(2, 0)
        shifted = torch.empty_like(by_time)
        shifted[0] = start
        shifted[1:] = by_time[:-1]
        return shifted.movedim(0, 2)

    last = (
        before(trials.observation, 0.0),
        before(trials.action, first),
        before(trials.reward, 0.0),
        before(trials.ended, False),
    )
    return policy.encode(trials.observation, *last)


class _Last(NamedTuple):
    """The previous step as `MemoryPolicy.encode` reads it, `[rows, ...]`."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    ended: Tensor


_Step = tuple[Tensor, Tensor, Distribution, Tensor]
"""Observation, action, the distribution that it is from, and value."""


class _Record:
    """The steps so far, in memory with time first, and which trials have not ended."""

    def __init__(self, rows: int, episodes: int, horizon: int, like: Tensor):
        self.rows, self.episodes, self.like = rows, episodes, like
        time = episodes * horizon
        self.reward = np.zeros((time, rows))
        self.episode = np.zeros((time, rows), np.int64)
        self.ended, self.valid = (np.zeros((time, rows), bool) for _ in range(2))
        self.diverged = np.zeros(rows, bool)
        self.active, self.index = np.ones(rows, bool), np.zeros(rows, np.int64)
        self.steps: list[_Step] = []
        self.reached: list[Tensor] = []

    @property
    def is_open(self) -> bool:
        """Whether a trial has not ended, and the record has room for a step."""
        return bool(self.active.any()) and len(self.steps) < len(self.reward)

    def before(self, policy: MemoryPolicy, observation: NDArray[Any]) -> _Last:
        """The placeholder of the step before the first."""
        zeros = self.like.new_zeros(self.rows)
        return _Last(torch.zeros_like(self.tensor(observation)), policy.first_action(self.rows), zeros, zeros.bool())

    def add(
        self,
        step: _Step,
        reward: NDArray[Any],
        ended: NDArray[np.bool_],
        diverged: NDArray[np.bool_],
    ) -> Tensor:
        """Records a step and returns its rewards as the policy reads them at the next step."""
        t = len(self.steps)
        valid = self.active & ~diverged
        reward = np.where(diverged, 0.0, reward)
        self.reward[t] = np.where(valid, reward, 0.0)
        self.episode[t], self.ended[t], self.valid[t] = self.index, ended & valid, valid
        self.diverged |= self.active & diverged
        self.index += ended
        self.active = valid & (self.index < self.episodes)
        self.steps.append(step)
        return self.tensor(reward)

    def trials(self, num_tasks: int) -> Trials:
        """The recorded trials, `[tasks, trials, time, ...]`."""
        time = len(self.steps)
        stack = functools.partial(pytree.tree_map, lambda *leaves: torch.stack(leaves))
        observation, action, distribution, value = stack(*self.steps)
        log_prob = distribution.log_prob(action)
        arrays = (self.reward, self.episode, self.ended, self.valid)
        reward, episode, ended, valid = (torch.from_numpy(array[:time]).to(self.like.device) for array in arrays)
        by_time = (observation, action, reward.to(self.like.dtype), log_prob, value, episode, ended, valid)
        fields = [field.unflatten(1, (num_tasks, -1)).movedim(0, 2) for field in by_time]
        fields.append(torch.from_numpy(self.diverged).to(self.like.device).unflatten(0, (num_tasks, -1)))
        reached = torch.stack(self.reached) if self.reached else self.like.new_zeros(time, self.rows, 0)
        fields.append(reached.unflatten(1, (num_tasks, -1)).movedim(0, 2))
        return Trials(*fields)

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """A copy of an array with the device and dtype of the parameters."""
        return torch.tensor(array, dtype=self.like.dtype, device=self.like.device)
