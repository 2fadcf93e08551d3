"""A recurrent policy × environments → whole trials. Knows no gradient and no task."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from research.policies.gru import GRUPolicy, Inputs
from research.sampling.collect import check_envs
from research.types import Params, Trials


def bind(policy: GRUPolicy, params: Params, requires_grad: bool = False) -> GRUPolicy:
    """A policy of its own with these parameters, for one thread or for a gradient."""
    bound = copy.deepcopy(policy).requires_grad_(requires_grad)
    with torch.no_grad():
        for name, parameter in bound.named_parameters():
            parameter.copy_(params[name])
    return bound


@torch.no_grad()
def collect_trials(
    policy: GRUPolicy,
    params: Params,
    envs: gymnasium.vector.VectorEnv[Any, Any, Any],
    num_tasks: int,
    episodes_per_trial: int,
    horizon: int,
    generator: torch.Generator,
) -> Trials:
    """One trial of consecutive episodes in every row of `envs`, the state of the policy carried from end to end.

    A row that ends an episode starts the next one at once. A step that the environment reports as diverged
    (`info["diverged"]`), or whose reward or observation is not finite, is dropped and ends the trial.

    Args:
        policy: See `GRUPolicy`.
        params: Its parameters, the same for every task. Their device and dtype are those of the result.
        envs: Environments with `tasks × trials` rows, those of a task next to each other, that reset the rows of
            `options["reset_mask"]`. Rows whose trial is over go on, and what they return is ignored: so fewer episodes
            are the beginning of more.
        num_tasks: Tasks that the rows belong to.
        episodes_per_trial: Episodes in a trial.
        horizon: Steps of an episode at most.
        generator: Source of the actions, on the device of `params`. Its initial seed is that of the environments, so
            every call needs a generator of its own.

    Raises:
        ValueError: The rows do not divide into `num_tasks` tasks, or the environments hide how an episode ended.
    """
    check_envs(envs, num_tasks)
    bound = bind(policy, params)
    record = _Record(envs.num_envs, episodes_per_trial, horizon, next(iter(params.values())))
    observation, _ = envs.reset(seed=generator.initial_seed() % 2**31)
    state, last = bound.initial_state(envs.num_envs), record.before(bound, observation)
    while record.is_open:
        seen = record.tensor(observation)
        output = bound.act(bound.encode(seen, *last), state)
        state, action = output.state, output.distribution.sample(generator)
        observation, reward, terminated, truncated, info = envs.step(action.cpu().numpy())
        is_lost = lost(observation, reward, info)
        ended = terminated | truncated | is_lost
        said = (seen, action, output.distribution.log_prob(action), output.value)
        received = record.add(said, np.asarray(reward), ended, is_lost)
        last = _Last(seen, action, received, torch.from_numpy(ended).to(received.device))
        if ended.any():
            observation, _ = envs.reset(options={"reset_mask": ended})
    return record.trials(num_tasks)


def lost(observation: NDArray[Any], reward: NDArray[Any], info: dict[str, Any]) -> NDArray[np.bool_]:
    """Which rows blew up in this step."""
    rows = np.broadcast_to(np.asarray(info.get("diverged", False)), np.shape(reward)) | ~np.isfinite(reward)
    if not np.isfinite(observation).all():
        rows = rows | ~np.isfinite(observation).reshape(len(observation), -1).all(1)
    return rows


def trial_inputs(policy: GRUPolicy, trials: Trials) -> Inputs:
    """Returns the inputs of the policy at each step of the trials, `[tasks, trials, time, ...]`."""
    first = policy.first_action(1)[0]

    def before(values: Tensor, start: Any) -> Tensor:
        """Each step's predecessor, in memory with time first, as the trials are."""
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
    """What `GRUPolicy.encode` reads of the step before, `[rows, ...]`."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    ended: Tensor


class _Record:
    """What happened so far, in memory with time first; and which trials are still going on."""

    def __init__(self, rows: int, episodes: int, horizon: int, like: Tensor):
        self.rows, self.episodes, self.like = rows, episodes, like
        time = episodes * horizon
        self.reward = np.zeros((time, rows))
        self.episode = np.zeros((time, rows), np.int64)
        self.ended, self.valid = (np.zeros((time, rows), bool) for _ in range(2))
        self.diverged = np.zeros(rows, bool)
        self.active, self.index = np.ones(rows, bool), np.zeros(rows, np.int64)
        self.steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # observation, action, log_prob, value

    @property
    def is_open(self) -> bool:
        """Whether there is a trial to go on with, and room for it."""
        return bool(self.active.any()) and len(self.steps) < len(self.reward)

    def before(self, policy: GRUPolicy, observation: NDArray[Any]) -> _Last:
        """What stands for the step before the first."""
        zeros = self.like.new_zeros(self.rows)
        return _Last(torch.zeros_like(self.tensor(observation)), policy.first_action(self.rows), zeros, zeros.bool())

    def add(
        self,
        said: tuple[Tensor, Tensor, Tensor, Tensor],
        reward: NDArray[Any],
        ended: NDArray[np.bool_],
        is_lost: NDArray[np.bool_],
    ) -> Tensor:
        """Records a step and returns its rewards as the policy is to see them."""
        t = len(self.steps)
        valid = self.active & ~is_lost
        reward = np.where(is_lost, 0.0, reward)
        self.reward[t] = np.where(valid, reward, 0.0)
        self.episode[t], self.ended[t], self.valid[t] = self.index, ended & valid, valid
        self.diverged |= self.active & is_lost
        self.index += ended
        self.active = valid & (self.index < self.episodes)
        self.steps.append(said)
        return self.tensor(reward)

    def trials(self, num_tasks: int) -> Trials:
        """Everything, `[tasks, trials, time, ...]`."""
        time = len(self.steps)
        observation, action, log_prob, value = (torch.stack(leaves) for leaves in zip(*self.steps, strict=True))
        arrays = (self.reward, self.episode, self.ended, self.valid)
        reward, episode, ended, valid = (torch.from_numpy(array[:time]).to(self.like.device) for array in arrays)
        by_time = (observation, action, reward.to(self.like.dtype), log_prob, value, episode, ended, valid)
        fields = [field.unflatten(1, (num_tasks, -1)).movedim(0, 2) for field in by_time]
        fields.append(torch.from_numpy(self.diverged).to(self.like.device).unflatten(0, (num_tasks, -1)))
        return Trials(*fields)

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """A copy of an array, of the parameters' device and dtype."""
        return torch.tensor(array, dtype=self.like.dtype, device=self.like.device)
