"""Collection of trajectories: one episode per row of vector environments, with one set of parameters per task."""

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
from research.distributions import Categorical, DiagGaussian, Distribution
from research.policies.mlp_kernel import forward, serves
from research.policies.mlp_network import Network, network_of
from research.sampling.closed_loop import ClosedLoop, closed_loop
from research.types import Params, Trajectories


@runtime_checkable
class PartwiseEnvs(Protocol):
    """Vector environments that step slices of their rows: a policy chooses actions for some rows while others move.

    Attributes:
        num_threads: Number of threads that step the rows; 0 for one per core.
    """

    num_threads: int

    def begin(self, actions: NDArray[Any], rows: slice) -> Callable[[], tuple[Any, ...]]:
        """Begins a step of the slice `rows`; calling the result waits for it, and returns what `step` returns."""


@runtime_checkable
class TaskAxisPolicy(Protocol):
    """Policies that may accept parameters `[tasks, ...]` and observations `[tasks, ..., obs]` without vmap.

    Attributes:
        accepts_task_axis: Whether the policy does.
    """

    accepts_task_axis: bool


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
    """Collects one episode in every row of `envs`; each task acts with its own parameters.

    A step that the environment reports as diverged (`info["diverged"]`), or whose reward or observation is not finite,
    is dropped and ends its episode.

    Args:
        policy: Maps an observation to a distribution over actions.
        params: Parameters of each task, `[tasks, ...]`. The result has their device and dtype.
        envs: Environments with `tasks × episodes` rows; the episodes of a task are adjacent rows. Rows whose episode
            has ended are still stepped, and their results are ignored. With `PartwiseEnvs` one half of the tasks moves
            while the policy chooses the actions of the other half.
        num_tasks: Number of tasks of the rows.
        horizon: Largest length of the time axis; the longest episode sets it.
        generator: Source of the actions, on the device of `params`. Its initial seed also seeds the environments, so
            every call needs another generator.
        num_threads: Number of threads of `PartwiseEnvs`. Results do not depend on it.
        share: Position of the tasks in a larger batch, whose random numbers they draw; None if they are the batch.

    Returns:
        Trajectories `[tasks, episodes, time, ...]`.

    Raises:
        ValueError: The number of rows is not a multiple of `num_tasks`, or the environments have `SAME_STEP` autoreset.
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
    length = max(part.length for part in parts)
    fields = zip(*(part.trajectories(length) for part in parts), strict=True)
    return Trajectories(*(field[0] if len(field) == 1 else torch.cat(field) for field in fields))


def reset_seed(generator: torch.Generator) -> int:
    """Returns the seed with which `collect` resets the environments when it draws the actions from `generator`."""
    return generator.initial_seed() % 2**31


def check_envs(envs: gymnasium.vector.VectorEnv[Any, Any, Any], num_tasks: int) -> None:
    """Raises ValueError if the number of rows is not a multiple of `num_tasks`, or an autoreset hides observations."""
    if envs.num_envs % num_tasks:
        raise ValueError(f"num_tasks={num_tasks}: {envs.num_envs} rows do not divide into so many tasks")
    if envs.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP:
        raise ValueError(
            "envs: autoreset_mode=SAME_STEP replaces the last observation of an episode by the first one of the next; "
            "need NEXT_STEP, or DISABLED with rows that may be stepped after their end"
        )


def bind_per_task(policy: nn.Module, params: Params) -> Callable[[Tensor], Distribution]:
    """Returns the policy with parameters `[tasks, ...]` as a function of observations `[tasks, ..., obs]`.

    Compiled code computes it if it can. If not, a policy that accepts a task axis (`TaskAxisPolicy`) is called once,
    and others are vmapped over tasks.
    """
    if not (isinstance(policy, TaskAxisPolicy) and policy.accepts_task_axis):
        return lambda observation: vmap(lambda p, o: functional_call(policy, p, (o,)))(params, observation)
    network = network_of(policy)
    if network is not None and serves(network, params):
        return _compiled(network, params)
    bound = copy.deepcopy(policy)  # functional_call would add half of the policy's own time to every step
    for name, value in params.items():
        path, _, last = name.rpartition(".")
        setattr(bound.get_submodule(path), last, nn.Parameter(value, requires_grad=False))
    return bound


def _compiled(network: Network, params: Params) -> Callable[[Tensor], Distribution]:
    """The policy of a network that `forward` of mlp_kernel.py serves."""
    vectors = network.flat(params, batch_axes=1)

    def outputs(observation: Tensor) -> Tensor:
        return forward(network, vectors, observation.flatten(1, -2))[0].unflatten(1, observation.shape[1:-1])

    if network.log_std is None:
        return lambda observation: Categorical(outputs(observation))
    log_std = params[network.log_std].detach().clamp_min(network.min_log_std)  # for numbers alone

    def decide(observation: Tensor) -> DiagGaussian:
        mean = outputs(observation)
        return DiagGaussian(mean, log_std.reshape(-1, *[1] * (mean.ndim - 2), mean.shape[-1]).expand_as(mean))

    return decide


def _parts(
    policy: nn.Module,
    params: Params,
    envs: gymnasium.vector.VectorEnv[Any, Any, Any],
    observation: NDArray[Any],
    share: Share,
    horizon: int,
    generator: torch.Generator,
) -> Iterator[_Part | ClosedLoop]:
    """Two halves of the tasks with one generator each; one part if the environments are not `PartwiseEnvs`.

    The halves are those of the larger batch, of which a share has some tasks each.
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
        loop = closed_loop(policy, theirs, envs, rows, observation[rows], horizon, own, part)
        begin = functools.partial(envs.begin, rows=rows)
        yield loop or _Part(policy, theirs, begin, observation[rows], horizon, own, part)


class _Part:
    """Some tasks and their rows: chooses actions, waits for the environments, and records the steps."""

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
        self.observation = np.array(observation)  # a copy: the latest observation of each row within its episode
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
    def length(self) -> int:
        """Number of steps so far."""
        return len(self.steps)

    @property
    def is_moving(self) -> bool:
        """Whether a step has begun and is not finished."""
        return self._wait is not None

    def begin_step(self) -> None:
        """Chooses actions and begins the step."""
        seen = self._tensor(self.observation)
        distribution = self.decide(seen)
        action = self.sample(distribution)
        self._wait = self.begin(action.flatten(0, 1).cpu().numpy())
        self.steps.append((seen, action, distribution))

    def finish_step(self) -> None:
        """Waits for the step, if one has begun, and records it."""
        if self._wait is None:
            return
        observation, reward, terminated, truncated, info = self._wait()
        self._wait = None
        diverged = self.active & diverged_rows(observation, reward, info)
        valid = self.active & ~diverged
        t = len(self.steps) - 1
        self.reward[t] = np.where(valid, reward, 0.0)
        self.terminated[t] = terminated & valid
        self.valid[t] = valid
        self.diverged |= diverged
        if valid.all():
            self.observation[:] = observation
        else:
            self.observation[valid] = observation[valid]
        self.active = valid & ~(terminated | truncated)

    def trajectories(self, length: int) -> Trajectories:
        """The recorded steps, padded with zeros up to `length`."""
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
        """A copy of `[rows, ...]` as `[tasks, episodes, ...]` with the device and dtype of the parameters."""
        return torch.tensor(array, dtype=self.like.dtype, device=self.like.device).unflatten(0, self.rows)

    def _unflatten(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).unflatten(0, self.rows).to(self.like.device)


def diverged_rows(observation: NDArray[Any], reward: NDArray[Any], info: dict[str, Any]) -> NDArray[np.bool_]:
    """Returns which rows diverged in a step, `[rows]`: `info` says so, or reward or observation is not finite."""
    rows = info.get("diverged", False) | ~np.isfinite(reward)
    if not np.isfinite(observation).all():
        rows = rows | ~np.isfinite(observation).reshape(len(observation), -1).all(1)
    return rows


def _pad(tensor: Tensor, length: int) -> Tensor:
    """`[tasks, episodes, time, ...]`, padded with zeros along time up to `length`."""
    missing = length - tensor.shape[2]
    if missing == 0:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(*tensor.shape[:2], missing, *tensor.shape[3:])], 2)
