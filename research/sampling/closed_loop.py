"""Collection where the environments compute the policy themselves, several steps at a time.

A time step of a small batch costs about as much in Python as in the simulation: the policy, its noise, records,
observations, rewards and the hand-over between threads. Here a thread takes one row through several steps, with the
policy of its task computed in C (step.c), and Python sees all rows and steps together afterwards. So rows do not wait
for each other at every step.

It serves Gaussian MLP policies on the CPU whose environments observe numbers of their state (`ActingEnvs`). The random
numbers are those of steps from Python, and the actions differ from theirs by rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from research.distributed import Share
from research.distributions import DiagGaussian
from research.policies.mlp import GaussianMLP
from research.policies.mlp_kernel import serves
from research.policies.mlp_network import network_of
from research.sampling.acting import Acted, Acting, Network
from research.types import Params, Trajectories

_MOST_PARAMETERS = 100_000
"""A network is read from the caches again for every row: larger ones are faster in products over all rows."""


@runtime_checkable
class ActingEnvs(Protocol):
    """Vector environments that can compute the actions of a network. See `MujocoEnvs`.

    Attributes:
        steps_at_once: Number of steps of a call.
    """

    steps_at_once: int

    def acting(self, network: Network, rows: slice, horizon: int) -> Acting | None:
        """Returns what `act` needs for a slice of rows, or None if it does not work."""

    def act(self, acting: Acting, first: int, noise: NDArray[Any], rows: slice) -> Callable[[], Acted]:
        """Begins as many steps as the noise is for; calling the result waits for them."""


def closed_loop(
    policy: nn.Module,
    params: Params,
    envs: Any,
    rows: slice,
    observation: NDArray[Any],
    horizon: int,
    generator: torch.Generator,
    share: Share,
) -> ClosedLoop | None:
    """Returns a `ClosedLoop` for a slice of rows of the environments, or None if the policy has to act step by step.

    Args:
        policy: The policy.
        params: Parameters of the tasks of these rows, `[tasks, ...]`.
        envs: The environments, which have been reset.
        rows: The slice.
        observation: The present observations of the slice, `[rows, obs]`.
        horizon: Largest number of steps.
        generator: Source of the actions.
        share: Position of the tasks in those that the random numbers are drawn for.
    """
    shape = network_of(policy) if type(policy) is GaussianMLP else None
    if not isinstance(envs, ActingEnvs) or shape is None or not serves(shape, params):
        return None
    weights, biases = ([params[layer[side]].detach().numpy() for layer in shape.layers] for side in (0, 1))
    if sum(weight[0].size for weight in weights) > _MOST_PARAMETERS:
        return None
    log_std = params["log_std"].detach().clamp_min(shape.min_log_std)  # for numbers alone, like all that precedes
    network = Network(weights, biases, shape.activation is nn.ReLU, log_std.exp().contiguous().numpy())
    acting = envs.acting(network, rows, horizon)
    return None if acting is None else ClosedLoop(envs, acting, rows, observation, log_std, generator, share)


class ClosedLoop:
    """Collects the episodes of some tasks, several steps at a time.

    Attributes:
        length: Number of steps so far in which a row moved.
        active: Which rows are not done, `[rows]`.
    """

    def __init__(
        self,
        envs: ActingEnvs,
        acting: Acting,
        rows: slice,
        observation: NDArray[Any],
        log_std: Tensor,
        generator: torch.Generator,
        share: Share,
    ):
        self._envs, self._acting, self._slice, self._log_std = envs, acting, rows, log_std
        count, horizon, self._num_actions = acting.action.shape
        self._draw = functools.partial(_noise, share, count // share.size, generator)
        self._rows = (share.size, count // share.size)
        self._first = self.length = 0
        self._reward = np.zeros((horizon, count))
        self._terminated, self._valid, self._stepped = np.zeros((3, horizon, count), bool)
        self._observation, self.active = np.array(observation), np.ones(count, bool)
        self._wait: Callable[[], Acted] | None = None

    @property
    def is_moving(self) -> bool:
        """Whether steps have begun and are not finished."""
        return self._wait is not None

    def begin_step(self) -> None:
        """Draws the noise of the next steps and begins them; none after the horizon."""
        steps = min(self._envs.steps_at_once, len(self._reward) - self._first)
        if steps:
            noise = self._draw(steps, self._num_actions, self._log_std.dtype)
            self._wait = self._envs.act(self._acting, self._first, noise, self._slice)

    def finish_step(self) -> None:
        """Waits for the steps, if some have begun, and records them."""
        if self._wait is None:
            return
        acted = self._wait()
        self._wait = None
        time = slice(self._first, self._first + len(acted.reward))
        self._reward[time], self._terminated[time] = acted.reward, acted.terminated
        self._valid[time], self._stepped[time] = acted.valid, acted.stepped
        self._observation, self.active = acted.observation, acted.active
        self._first = time.stop
        self.length += int(acted.stepped.any(1).sum())

    def trajectories(self, length: int) -> Trajectories:
        """Returns the first `length` steps; after the last step of a row they are zeros."""
        by_time = (self._reward, self._terminated, self._valid, self._stepped)
        reward, terminated, valid, stepped = (self._tensor(np.ascontiguousarray(array[:length].T)) for array in by_time)
        by_row = (self._acting.observation, self._acting.mean, self._acting.action)
        observation, mean, action = (self._tensor(array[:, :length]).contiguous() for array in by_row)
        if not stepped.all():
            for recorded in (observation, mean, action):
                recorded[~stepped] = 0.0  # a row may have been simulated beyond its end
        dtype, distribution = mean.dtype, DiagGaussian(mean, self._log_std[:, None, None].expand_as(mean))
        return Trajectories(
            observation=observation,
            action=action,
            reward=reward.to(dtype),
            log_prob=distribution.log_prob(action).masked_fill_(~stepped, 0.0),
            terminated=terminated,
            valid=valid,
            last_observation=self._tensor(self._observation).to(dtype),
            diverged=(stepped & ~valid).any(-1),
        )

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).unflatten(0, self._rows)


def _noise(
    share: Share, episodes: int, generator: torch.Generator, steps: int, num_actions: int, dtype: torch.dtype
) -> NDArray[Any]:
    """The noise that as many calls of `DiagGaussian.sample` draw for all tasks, of this share: `[steps, rows, ...]`."""
    shape = (share.total, episodes, num_actions)
    every = torch.empty(steps, *shape, dtype=dtype)
    for t in range(steps):
        torch.randn(shape, generator=generator, dtype=dtype, out=every[t])
    return np.ascontiguousarray(every[:, share.tasks].numpy()).reshape(steps, -1, num_actions)
