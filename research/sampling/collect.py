"""Policy × environments → trajectories. Knows no gradient and no task."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn
from torch.func import functional_call, vmap

from research.distributions import Distribution
from research.types import Params, Trajectories


@torch.no_grad()
def collect(
    policy: nn.Module,
    params: Params,
    envs: gymnasium.vector.VectorEnv[Any, Any, Any],
    num_tasks: int,
    horizon: int,
    generator: torch.Generator,
) -> Trajectories:
    """One episode in every row of `envs`, each task acting by its own parameters.

    Args:
        policy: Observation → distribution.
        params: Per-task parameters, `[tasks, ...]`. Their device and dtype are those of the result.
        envs: Environments with `tasks × episodes` rows, the episodes of a task next to each other. Rows that have
            ended are stepped on, and what they return is ignored.
        num_tasks: Tasks that the rows belong to.
        horizon: Length of the time axis; shorter if every episode ends earlier.
        generator: Source of the actions, on the device of `params`. Its initial seed is that of the environments, so
            every call needs a generator of its own.

    Raises:
        ValueError: The rows do not divide into `num_tasks` tasks, or the environments hide how an episode ended.
    """
    if envs.num_envs % num_tasks:
        raise ValueError(f"num_tasks={num_tasks}: {envs.num_envs} rows do not divide into so many tasks")
    if envs.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP:
        raise ValueError(
            "envs: autoreset_mode=SAME_STEP puts the next episode's first observation in place of the last one; "
            "need NEXT_STEP, or DISABLED with rows that may be stepped after their end"
        )
    like = next(iter(params.values()))
    record = _Recorder(num_tasks, envs.num_envs // num_tasks, horizon, like)
    observation, _ = envs.reset(seed=generator.initial_seed() % 2**31)
    active = np.ones(envs.num_envs, bool)
    for _ in range(horizon):
        seen = record.tensor(observation)
        distribution = apply_per_task(policy, params, seen)
        action = distribution.sample(generator)
        observation, reward, terminated, truncated, _ = envs.step(_rows(action))
        record.add(seen, action, distribution.log_prob(action), reward, terminated, active, observation)
        active &= ~(terminated | truncated)
        if not active.any():
            break
    return record.trajectories()


def apply_per_task(policy: nn.Module, params: Params, observation: Tensor) -> Distribution:
    """The policy's distribution for `observation [tasks, ..., obs]` under `params [tasks, ...]`.

    A policy that sets `accepts_task_axis` takes both as they are; others are vmapped.
    """
    if getattr(policy, "accepts_task_axis", False):
        return functional_call(policy, params, (observation,))
    return vmap(lambda p, o: functional_call(policy, p, (o,)))(params, observation)


def _rows(action: Tensor) -> np.ndarray[Any, Any]:
    return action.flatten(0, 1).cpu().numpy()


class _Recorder:
    """Gathers steps; everything is stacked once, at the end."""

    def __init__(self, tasks: int, episodes: int, horizon: int, like: Tensor):
        self.rows = (tasks, episodes)
        self.like = like
        self.steps: list[tuple[Tensor, Tensor, Tensor]] = []
        count = tasks * episodes
        self.reward = np.zeros((horizon, count))
        self.terminated = np.zeros((horizon, count), bool)
        self.valid = np.zeros((horizon, count), bool)
        self.last_observation: np.ndarray[Any, Any] | None = None

    def tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        """A copy of `[tasks × episodes, ...]` as `[tasks, episodes, ...]` of the parameters' device and dtype."""
        return torch.tensor(array, dtype=self.like.dtype, device=self.like.device).unflatten(0, self.rows)

    def add(
        self,
        seen: Tensor,
        action: Tensor,
        log_prob: Tensor,
        reward: np.ndarray[Any, Any],
        terminated: np.ndarray[Any, Any],
        active: np.ndarray[Any, Any],
        observation: np.ndarray[Any, Any],
    ) -> None:
        t = len(self.steps)
        self.steps.append((seen, action, log_prob))
        self.reward[t] = np.where(active, reward, 0.0)
        self.terminated[t] = terminated & active
        self.valid[t] = active
        if self.last_observation is None:
            self.last_observation = np.array(observation)
        self.last_observation[active] = observation[active]

    def trajectories(self) -> Trajectories:
        length = len(self.steps)
        observation, action, log_prob = (torch.stack(field, 2) for field in zip(*self.steps, strict=True))
        over_time = (array[:length].T for array in (self.reward, self.terminated, self.valid))
        reward, terminated, valid = (
            torch.from_numpy(np.ascontiguousarray(a)).unflatten(0, self.rows) for a in over_time
        )
        assert self.last_observation is not None
        return Trajectories(
            observation=observation,
            action=action,
            reward=reward.to(self.like.device, self.like.dtype),
            log_prob=log_prob,
            terminated=terminated.to(self.like.device),
            valid=valid.to(self.like.device),
            last_observation=self.tensor(self.last_observation),
        )
