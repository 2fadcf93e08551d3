"""Policy × environments → trajectories. Knows no gradient and no task."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from research import rng
from research.distributed import Share
from research.distributions import Distribution
from research.types import Params, Trajectories


@runtime_checkable
class PartwiseEnvs(Protocol):
    """Vector environments that can be stepped part by part: some rows move while a policy decides for others.

    Attributes:
        num_threads: Threads that step the rows; 0 for one per core.
    """

    num_threads: int

    def begin(self, actions: NDArray[Any], rows: slice) -> Callable[[], tuple[Any, ...]]:
        """Sets `rows` in motion; calling the result waits for them and gives what `step` returns, for them alone."""


@torch.no_grad()
def collect(
    policy: nn.Module,
    params: Params,
    envs: gymnasium.vector.VectorEnv[Any, Any, Any],
    num_tasks: int,
    horizon: int,
    generator: torch.Generator,
    num_threads: int = 0,
    share: Share | None = None,
) -> Trajectories:
    """One episode in every row of `envs`, each task acting by its own parameters.

    A step that the environment reports as diverged (`info["diverged"]`), or whose reward or observation is not finite,
    is dropped and ends its episode.

    Args:
        policy: Observation → distribution.
        params: Per-task parameters, `[tasks, ...]`. Their device and dtype are those of the result.
        envs: Environments with `tasks × episodes` rows, the episodes of a task next to each other. Rows that have
            ended are stepped on, and what they return is ignored. Of `PartwiseEnvs` one half of the tasks moves while
            the policy decides for the other.
        num_tasks: Tasks that the rows belong to.
        horizon: Length of the time axis; shorter if every episode ends earlier.
        generator: Source of the actions, on the device of `params`. Its initial seed is that of the environments, so
            every call needs a generator of its own.
        num_threads: For `PartwiseEnvs`, see there. The numbers do not depend on it.
        share: Which tasks of a larger batch these are: they draw what they would draw there. None: they are all.

    Raises:
        ValueError: The rows do not divide into `num_tasks` tasks, or the environments hide how an episode ended.
    """
    check_envs(envs, num_tasks)
    if isinstance(envs, PartwiseEnvs):
        envs.num_threads = num_threads
    share = share or Share(0, 1, num_tasks)
    options = {"rows": share.rows(envs.num_envs // num_tasks)} if share.total > num_tasks else None
    observation, _ = envs.reset(seed=reset_seed(generator), options=options)
    parts = list(_parts(policy, params, envs, observation, share, horizon, generator))
    for _ in range(horizon):
        for part in parts:
            part.finish_step()
            if part.active.any():
                part.begin_step()
        if not any(part.is_moving for part in parts):
            break
    for part in parts:
        part.finish_step()
    length = max(len(part.steps) for part in parts)
    fields = zip(*(part.trajectories(length) for part in parts), strict=True)
    return Trajectories(*(field[0] if len(field) == 1 else torch.cat(field) for field in fields))


def reset_seed(generator: torch.Generator) -> int:
    """Returns the seed with which `collect` resets the environments when it draws the actions from `generator`."""
    return generator.initial_seed() % 2**31


def check_envs(envs: gymnasium.vector.VectorEnv[Any, Any, Any], num_tasks: int) -> None:
    """Raises ValueError if the rows do not divide into `num_tasks`, or hide how an episode ended."""
    if envs.num_envs % num_tasks:
        raise ValueError(f"num_tasks={num_tasks}: {envs.num_envs} rows do not divide into so many tasks")
    if envs.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP:
        raise ValueError(
            "envs: autoreset_mode=SAME_STEP puts the next episode's first observation where the last one belongs; "
            "need NEXT_STEP, or DISABLED with rows that may be stepped after their end"
        )


def bind_per_task(policy: nn.Module, params: Params) -> Callable[[Tensor], Distribution]:
    """The policy under `params [tasks, ...]`, as a function of `observation [tasks, ..., obs]`.

    A policy that sets `accepts_task_axis` takes both as they are; others are vmapped.
    """
    if not getattr(policy, "accepts_task_axis", False):
        return lambda observation: vmap(lambda p, o: functional_call(policy, p, (o,)))(params, observation)
    bound = copy.deepcopy(policy)  # functional_call would take half as long as the policy itself, at every step
    for name, value in params.items():
        path, _, last = name.rpartition(".")
        setattr(bound.get_submodule(path), last, nn.Parameter(value, requires_grad=False))
    return bound


def _parts(
    policy: nn.Module,
    params: Params,
    envs: gymnasium.vector.VectorEnv[Any, Any, Any],
    observation: NDArray[Any],
    share: Share,
    horizon: int,
    generator: torch.Generator,
) -> Iterator[_Part]:
    """The tasks in two halves that take turns, each with a generator of its own; in one if the environments cannot.

    A share has its part of each half.
    """
    if not isinstance(envs, PartwiseEnvs) or share.total < 2:
        step = functools.partial(functools.partial, envs.step)
        yield _Part(policy, params, step, observation, horizon, generator, share)
        return
    episodes, middle = envs.num_envs // share.size, share.total // 2
    for k, bounds in enumerate(((0, middle), (middle, share.total))):
        tasks, part = share.within(*bounds)
        if part.size == 0:
            continue
        rows = slice(tasks.start * episodes, tasks.stop * episodes)
        own = rng.torch_generator(generator.initial_seed(), "part", k, device=generator.device)
        theirs = {name: value[tasks] for name, value in params.items()}
        yield _Part(policy, theirs, functools.partial(envs.begin, rows=rows), observation[rows], horizon, own, part)


class _Part:
    """Some tasks and their rows: decides for them, waits for them and records them."""

    def __init__(
        self,
        policy: nn.Module,
        params: Params,
        begin: Callable[[NDArray[Any]], Callable[[], tuple[Any, ...]]],
        observation: NDArray[Any],
        horizon: int,
        generator: torch.Generator,
        share: Share,
    ):
        self.decide, self.begin = bind_per_task(policy, params), begin
        self.sample = functools.partial(share.sample, generator=generator)
        self.like = next(iter(params.values()))
        self.observation = np.array(observation)  # a copy: the last one of each row that belongs to its episode
        count = len(observation)
        self.rows = (len(self.like), count // len(self.like))
        self.steps: list[tuple[Tensor, Tensor, Distribution]] = []
        self.reward = np.zeros((horizon, count))
        self.terminated = np.zeros((horizon, count), bool)
        self.valid = np.zeros((horizon, count), bool)
        self.diverged = np.zeros(count, bool)
        self.active = np.ones(count, bool)
        self._wait: Callable[[], tuple[Any, ...]] | None = None

    @property
    def is_moving(self) -> bool:
        """Whether a step has begun and not been waited for."""
        return self._wait is not None

    def begin_step(self) -> None:
        """Decides, and sets the rows in motion."""
        seen = self._tensor(self.observation)
        distribution = self.decide(seen)
        action = self.sample(distribution)
        self._wait = self.begin(action.flatten(0, 1).cpu().numpy())
        self.steps.append((seen, action, distribution))

    def finish_step(self) -> None:
        """Waits for the rows, if they are moving, and records what came of it."""
        if self._wait is None:
            return
        observation, reward, terminated, truncated, info = self._wait()
        self._wait = None
        lost = info.get("diverged", False) | ~np.isfinite(reward)
        if not np.isfinite(observation).all():
            lost = lost | ~np.isfinite(observation).reshape(len(observation), -1).all(1)
        lost = lost & self.active
        valid = self.active & ~lost
        t = len(self.steps) - 1
        self.reward[t] = np.where(valid, reward, 0.0)
        self.terminated[t] = terminated & valid
        self.valid[t] = valid
        self.diverged |= lost
        if valid.all():
            self.observation[:] = observation
        else:
            self.observation[valid] = observation[valid]
        self.active = valid & ~(terminated | truncated)

    def trajectories(self, length: int) -> Trajectories:
        """What was recorded, with zeros up to `length` where all rows ended earlier."""
        stack = functools.partial(pytree.tree_map, lambda *leaves: torch.stack(leaves, 2))
        observation, action, distribution = stack(*self.steps)
        log_prob = distribution.log_prob(action)
        over_time = (array[:length].T for array in (self.reward, self.terminated, self.valid))
        reward, terminated, valid = (self._unflatten(np.ascontiguousarray(array)) for array in over_time)
        return Trajectories(
            observation=_pad(observation, length),
            action=_pad(action, length),
            reward=reward.to(self.like.dtype),
            log_prob=_pad(log_prob, length),
            terminated=terminated,
            valid=valid,
            last_observation=self._tensor(self.observation),
            diverged=self._unflatten(self.diverged),
        )

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        """A copy of `[rows, ...]` as `[tasks, episodes, ...]` of the parameters' device and dtype."""
        return torch.tensor(array, dtype=self.like.dtype, device=self.like.device).unflatten(0, self.rows)

    def _unflatten(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).unflatten(0, self.rows).to(self.like.device)


def _pad(tensor: Tensor, length: int) -> Tensor:
    """`[tasks, episodes, time, ...]` with zeros up to `length`."""
    missing = length - tensor.shape[2]
    if missing == 0:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(*tensor.shape[:2], missing, *tensor.shape[3:])], 2)
