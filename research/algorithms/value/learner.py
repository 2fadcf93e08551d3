"""TD learning of a Q-network: what the designs of the DQN family that take plain TD steps have in common.

    y = r + γⁿ max_a Q(s', a; θ̄)                with `double` the online network chooses a
    θ ← optimiser(θ, ∇ mean w ℓ(Q(s, a; θ) − y))         inside Lookahead if `lookahead_k` is not 0
    θ̄ ← θ every C steps, or θ̄ + τ (θ − θ̄) after each step, or Lookahead's slow weights

A learner has one network, or one network for each task: with parameters `[tasks, ...]` and minibatches
`[tasks, batch, ...]` every task learns as it would alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from research.algorithms.value.config import DQNConfig, TDConfig
from research.algorithms.value.td_step import td_step_of
from research.optim import Lookahead
from research.optim.flat import flatten, unflatten
from research.optim.flat_adam import FlatAdam, clip_rows
from research.policies.mlp_function import mlp_output, mlp_output_numpy, mlp_with_pullback
from research.policies.q_network import QNetwork
from research.sampling.replay_buffer import Drawn
from research.td import TransitionBatch, td_cotangent, td_loss, td_target, values_at
from research.types import Params

_TOGETHER = 16
"""Minibatches whose next observations the target network evaluates at once: more take memory and no less time."""


class FlatNetwork:
    """A Q-network whose parameters are views of one flat tensor, `[parameters]` or `[tasks, parameters]`.

    Optimisers act on elements, so a step on the flat tensor costs little more than one on a single parameter.

    Args:
        network: The module; its own parameters are not read.
        params: The parameters by name, with a leading `[tasks]` axis if each task has its own. They are copied.

    Attributes:
        flat: The flat tensor, which may be written in place.
        module: A copy of the module with these parameters.
        compiled: The compiled functions of the network; None if there are none for it.
        layers: Weights, biases and activation of a plain MLP without a `[tasks]` axis; None for other networks.
    """

    def __init__(self, network: nn.Module, params: Params):
        self._like = params
        self._has_tasks = next(iter(params.values())).ndim > next(network.parameters()).ndim
        self.flat = self.flatten([value.detach() for value in params.values()])
        self.module = copy.deepcopy(network)
        for name, value in self.unflatten(self.flat).items():
            path, _, last = name.rpartition(".")
            setattr(self.module.get_submodule(path), last, nn.Parameter(value))
        self.compiled = td_step_of(network, params, self.flat)
        is_plain = not self._has_tasks and type(network) is QNetwork and len(network.value) > 2
        # Looked up once: to find the weights of a module takes as long as to use small ones.
        self.layers = _layers(self.module) if is_plain else None
        if self.layers and self.flat.is_cpu:  # arrays share the memory of the flat tensor
            weights, biases, _ = self.layers
            layers = zip(weights, biases, strict=True)
            self._arrays = [(weight.detach().numpy(), bias.detach().numpy()) for weight, bias in layers]

    def params(self) -> Params:
        """Returns copies of the parameters by name."""
        return self.unflatten(self.flat.clone())

    def values(self, observation: Tensor) -> Tensor:
        """Returns Q(s, ·) at `observation [..., obs]` without a graph, `[..., actions]`."""
        if self.compiled:
            return self.compiled.values(observation)
        if self.layers:
            return mlp_output(observation, *self.layers)
        with torch.no_grad():
            return cast(Tensor, self.module(observation))

    def greedy(self, observation: NDArray[Any]) -> NDArray[np.int64]:
        """Returns the best action at each observation `[rows, obs]`, `[rows]`."""
        if self.compiled and len(observation) == 1:
            return np.array([self.compiled.values_of_one(observation[0]).argmax()])
        if self.layers and self.flat.is_cpu and len(observation) == 1:
            seen = observation.astype(self._arrays[0][0].dtype, copy=False)
            return mlp_output_numpy(seen, self._arrays, self.layers[2]).argmax(-1)
        rows = torch.as_tensor(observation, dtype=self.flat.dtype, device=self.flat.device)
        best: NDArray[np.int64] = self.values(rows).argmax(-1).cpu().numpy()
        return best

    def unflatten(self, flat: Tensor) -> Params:
        """Returns named views of a tensor of the shape of `flat`."""
        return unflatten(flat, self._like, int(self._has_tasks))

    def flatten(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns tensors of the parameters' shapes, in their order, as one flat tensor."""
        return flatten(parts, int(self._has_tasks))


class LearnerState(NamedTuple):
    """The state of a learner between two TD steps, besides its parameters.

    Attributes:
        steps: Number of TD steps so far.
        target: The parameters of the target network.
        optimizer: The `state_dict` of the optimiser for the flat parameters, with Lookahead's slow weights.
    """

    steps: int
    target: Params
    optimizer: dict[str, Any]


class TDLearner:
    """A Q-network that learns by TD steps; it changes in place.

    Args:
        config: The settings.
        network: The module; its own parameters are not read.
        params: The parameters of the online network at the start. They are copied.
        state: The state from which the learner continues; None for the start.

    Attributes:
        steps: Number of TD steps so far.
        online: The network that learns.
        target: The target network.
    """

    def __init__(self, config: TDConfig, network: nn.Module, params: Params, state: LearnerState | None = None):
        self.config, self.steps = config, 0
        self.online = FlatNetwork(network, params)
        self.target = FlatNetwork(network, params if state is None else state.target)
        self._optimizer = _make_optimizer(config, self.online.flat)
        if state is not None:
            self.steps = state.steps
            self._optimizer.load_state_dict(copy.deepcopy(state.optimizer))
        self._gradient = torch.empty_like(self.online.flat)
        if self.online.layers:
            parts = list(self.online.unflatten(self._gradient).values())
            self._gradients = parts[::2], parts[1::2]  # weights, biases

    def state(self) -> LearnerState:
        """Returns a copy of the state besides the parameters."""
        return LearnerState(self.steps, self.target.params(), copy.deepcopy(self._optimizer.state_dict()))

    def minibatches(self, batches: TransitionBatch) -> Iterator[tuple[TransitionBatch, Tensor]]:
        """Yields each of the minibatches `[steps, batch, ...]`, and Q̄(s', ·) of its next observations.

        The caller takes a TD step before the next minibatch: the target network evaluates several minibatches at once
        as long as no TD step moves it.
        """
        start, steps = 0, len(batches.reward)
        while start < steps:
            stop = min(start + self._target_interval - self.steps % self._target_interval, start + _TOGETHER, steps)
            together = batches.next_observation[start:stop]
            values = self.target.values(together.flatten(0, 1)).unflatten(0, together.shape[:2])
            for *fields, next_values in zip(*(field[start:stop].unbind() for field in batches), values, strict=True):
                yield TransitionBatch(*fields), next_values
            start = stop

    def step(self, batch: TransitionBatch, target_values: Tensor | None = None) -> Tensor:
        """Takes a TD step, and returns the TD errors before it, `[batch]` or `[tasks, batch]`.

        Args:
            batch: The minibatch.
            target_values: Q̄(s', ·) of the target network, `[..., batch, actions]`; None computes them.
        """
        gradient, error = self.gradient(batch, target_values)
        self.apply(gradient)
        return error

    def gradient(self, batch: TransitionBatch, target_values: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns the gradient of the TD loss, unclipped, and the TD errors. Arguments as for `step`.

        The gradient is like the flat parameters, and valid until the next call.
        """
        online, config = self.online, self.config
        online_values = online.values(batch.next_observation) if config.double else None
        if target_values is None:
            target_values = self.target.values(batch.next_observation)
        target = td_target(batch, target_values, online_values)
        if online.compiled:
            return self._gradient, online.compiled.gradient(batch, target, config.td_loss, self._gradient)
        if not online.layers:
            error = values_at(online.module(batch.observation), batch.action) - target
            loss = td_loss(error, batch.weight, config.td_loss).sum()  # tasks share no parameter
            parts = torch.autograd.grad(loss, list(online.module.parameters()))
            return online.flatten(parts), error.detach()
        values, pull = mlp_with_pullback(batch.observation, *online.layers)
        error = values_at(values, batch.action).sub_(target)
        derivative = td_cotangent(error, batch.weight, config.td_loss)
        cotangent = torch.zeros_like(values).scatter_(1, batch.action.unsqueeze(1), derivative.unsqueeze(1))
        pull(cotangent, *self._gradients)
        return self._gradient, error

    @torch.no_grad()
    def apply(self, gradient: Tensor) -> None:
        """Takes the optimiser's step with a gradient scaled down to `max_grad_norm`, and updates the target.

        The gradient may be scaled in place.
        """
        if self.config.inner_optimizer == "sgd":
            clip_rows(gradient, self.config.max_grad_norm)
        self.online.flat.grad = gradient
        self._optimizer.step()
        self.steps += 1
        if self.config.target == "polyak":
            self.target.flat.lerp_(self.online.flat, self.config.polyak)
        elif self.steps % self._target_interval == 0:
            self.target.flat.copy_(self.online.flat)

    @property
    def _target_interval(self) -> int:
        """TD steps between moves of the target network. After a sync the fast weights are the slow ones."""
        config = self.config
        if config.target == "polyak":
            return 1
        return config.lookahead_k if config.target == "slow" else config.target_interval


def as_batch(drawn: Drawn, config: DQNConfig) -> TransitionBatch:
    """Transitions from a replay buffer as tensors of the run's dtype and device."""
    dtype, device = getattr(torch, config.dtype), config.device

    def real(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(device, dtype)

    return TransitionBatch(
        real(drawn.observation),
        torch.from_numpy(drawn.action).to(device, torch.int64),
        real(drawn.reward),
        real(drawn.bootstrap),
        real(drawn.next_observation),
        real(drawn.weight),
    )


def _make_optimizer(config: TDConfig, flat: Tensor) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer
    if config.inner_optimizer == "sgd":
        optimizer = torch.optim.SGD([flat], lr=config.inner_lr, fused=True)
    else:  # it clips
        optimizer = FlatAdam(flat, config.inner_lr, config.max_grad_norm, config.inner_optimizer == "adamw")
    if config.lookahead_k:
        return Lookahead(optimizer, config.lookahead_k, config.lookahead_alpha, config.lookahead_inner_state)
    return optimizer


def _layers(network: nn.Module) -> tuple[list[Tensor], list[Tensor], type[nn.Module]]:
    """Weights, biases and activation of a network that is one MLP."""
    weights, biases, activation = cast(QNetwork, network).value.layers()
    assert activation is not None
    return weights, biases, activation
