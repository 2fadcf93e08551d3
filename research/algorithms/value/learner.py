"""A Q-network that learns by TD steps: what all designs of the DQN family have in common.

    y = r + γⁿ max_a Q(s', a; θ̄)            with `double` the online network chooses a
    θ ← optimiser(θ, ∇ mean w ℓ(Q(s, a; θ) − y))     with Lookahead around it where `lookahead_k` says so
    θ̄ ← θ every C steps, or θ̄ + τ (θ − θ̄) after each, or Lookahead's slow weights

For one network, or for one for each task: with parameters `[tasks, ...]` and minibatches `[tasks, batch, ...]` every
task learns as it would alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from research import rng
from research.algorithms.value.config import LookaheadDQNConfig
from research.optim import Lookahead
from research.optim.differentiable import AdamState
from research.optim.flat import flatten, unflatten
from research.policies.mlp_function import mlp_output, mlp_with_pullback
from research.policies.q_network import DuelingQNetwork, QNetwork, make_q_network
from research.sampling.replay_buffer import Drawn
from research.tasks import TaskDistribution
from research.td import TransitionBatch, td_cotangent, td_loss, td_target, values_at
from research.types import Params

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}

_TOGETHER = 16
"""Minibatches whose next states the target network judges at once: more are no faster, and take memory."""


class LearnerState(NamedTuple):
    """What a learner carries from one TD step to the next, beside its parameters.

    Attributes:
        steps: TD steps so far.
        target: The parameters of the target network.
        optimizer: The optimiser's `state_dict`, Lookahead's slow weights included, for the flat parameters.
    """

    steps: int
    target: Params
    optimizer: dict[str, Any]


class TDLearner:
    """A network in the middle of learning; it changes in place.

    All parameters are parts of one tensor, `[parameters]` or `[tasks, parameters]`: optimisers act on elements, and one
    call costs little more for all of them than for each.

    Args:
        config: The settings.
        network: The module; its own parameters are not read.
        params: The network's, to start from or to go on with.
        state: What it carried, to go on; None starts.
    """

    def __init__(
        self, config: LookaheadDQNConfig, network: nn.Module, params: Params, state: LearnerState | None = None
    ):
        self.config, self.steps = config, 0
        self._has_tasks = next(iter(params.values())).ndim > next(network.parameters()).ndim
        self._like = params
        self._flat, self.network = self._bound(network, params)
        self._flat_target, self.target = self._bound(network, params if state is None else state.target)
        self._optimizer = _make_optimizer(config, self._flat)
        if state is not None:
            self.steps = state.steps
            self._optimizer.load_state_dict(copy.deepcopy(state.optimizer))
        self._is_plain = not self._has_tasks and isinstance(network, QNetwork) and len(network.value) > 2
        if self._is_plain:  # looked up once: a module takes as long to find its weights as to use the small ones
            self._layers = {module: _layers(module) for module in (self.network, self.target)}
            self._gradient = torch.empty_like(self._flat)
            parts = list(self.unflatten(self._gradient).values())
            self._gradients = parts[::2], parts[1::2]  # weights, biases
            if self._flat.is_cpu:  # arrays share the memory of the flat parameters
                weights, biases, activation = self._layers[self.network]
                layers = zip(weights, biases, strict=True)
                self._arrays = [(weight.detach().numpy(), bias.detach().numpy()) for weight, bias in layers]
                self._activation: Callable[[NDArray[Any]], NDArray[Any]] = _relu if activation is nn.ReLU else np.tanh

    def state(self) -> LearnerState:
        """Copies of what it carries beside its parameters."""
        target = self.unflatten(self._flat_target.clone())
        return LearnerState(self.steps, target, copy.deepcopy(self._optimizer.state_dict()))

    def params(self) -> Params:
        """Copies of the network's parameters."""
        return self.unflatten(self._flat.clone())

    def moments(self) -> AdamState:
        """Copies of Adam's moments, as the pure function has them."""
        state = self._optimizer.state[self._flat]
        return AdamState(self.steps, *(self.unflatten(state[key].clone()) for key in ("exp_avg", "exp_avg_sq")))

    def set_rate(self, rate: float) -> None:
        """Changes the learning rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def values(self, module: nn.Module, observation: Tensor) -> Tensor:
        """Q of the network or of the target network, `[..., actions]`, without a graph."""
        if self._is_plain:
            return mlp_output(observation, *self._layers[module])
        with torch.no_grad():
            return cast(Tensor, module(observation))

    def greedy(self, observation: NDArray[Any]) -> NDArray[np.int64]:
        """The best action at each observation `[rows, obs]`, `[rows]`."""
        if self._is_plain and self._flat.is_cpu and len(observation) == 1:
            return self._greedy_alone(observation)
        seen = torch.as_tensor(observation, dtype=self._flat.dtype, device=self._flat.device)
        best: NDArray[np.int64] = self.values(self.network, seen).argmax(-1).cpu().numpy()
        return best

    def _greedy_alone(self, observation: NDArray[Any]) -> NDArray[np.int64]:
        """The same for one row: calls of NumPy take a third of the time of those of torch."""
        *hidden, (last_weight, last_bias) = self._arrays
        output = observation.astype(last_bias.dtype, copy=False)
        for weight, bias in hidden:
            output = self._activation(output @ weight.T + bias)
        best: NDArray[np.int64] = (output @ last_weight.T + last_bias).argmax(-1)
        return best

    def minibatches(self, batches: TransitionBatch) -> Iterator[tuple[TransitionBatch, Tensor]]:
        """Those of `batches [steps, batch, ...]` and Q̄(s', ·) of each, to be asked for one before each TD step.

        While the target network stays as it is it judges many of them at once.
        """
        start, steps = 0, len(batches.reward)
        while start < steps:
            stop = min(start + self._target_interval - self.steps % self._target_interval, start + _TOGETHER, steps)
            together = batches.next_observation[start:stop]
            values = self.values(self.target, together.flatten(0, 1)).unflatten(0, together.shape[:2])
            for *fields, judged in zip(*(field[start:stop].unbind() for field in batches), values, strict=True):
                yield TransitionBatch(*fields), judged
            start = stop

    def step(self, batch: TransitionBatch, target_values: Tensor | None = None) -> Tensor:
        """One TD step. Returns the TD errors before it, `[batch]` or `[tasks, batch]`.

        Args:
            batch: The minibatch.
            target_values: Q̄(s', ·) of the target network, `[..., batch, actions]`, if they are known.
        """
        gradient, error = self.gradient(batch, target_values)
        self.apply(gradient)
        return error

    def gradient(self, batch: TransitionBatch, target_values: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Of the TD loss in the flat parameters, not scaled down, until the next call; and the TD errors."""
        online = self.values(self.network, batch.next_observation) if self.config.double else None
        if target_values is None:
            target_values = self.values(self.target, batch.next_observation)
        target = td_target(batch, target_values, online)
        if not self._is_plain:
            values = self.network(batch.observation)
            error = values_at(values, batch.action) - target
            loss = td_loss(error, batch.weight, self.config.td_loss).sum()  # tasks share no parameter
            parts = torch.autograd.grad(loss, list(self.network.parameters()))
            return self._flatten(parts), error.detach()  # errors are reported
        values, pull = mlp_with_pullback(batch.observation, *self._layers[self.network])
        error = values_at(values, batch.action).sub_(target)
        slope = td_cotangent(error, batch.weight, self.config.td_loss)
        cotangent = torch.zeros_like(values).scatter_(1, batch.action.unsqueeze(1), slope.unsqueeze(1))
        pull(cotangent, *self._gradients)
        return self._gradient, error

    @torch.no_grad()
    def apply(self, gradient: Tensor) -> None:
        """The optimiser's step along a gradient, which is scaled down to `max_grad_norm`, and the target network's."""
        largest = self.config.max_grad_norm
        if largest:
            scale = largest / (torch.linalg.vector_norm(gradient, dim=-1, keepdim=True) + 1e-6)
            if not scale.is_cpu or (scale < 1).any():  # to ask a GPU takes longer
                gradient.mul_(scale.clamp_(max=1.0))
        self._flat.grad = gradient
        self._optimizer.step()
        self.steps += 1
        self._move_target()

    def unflatten(self, flat: Tensor) -> Params:
        """Named views of a tensor like the flat parameters."""
        return unflatten(flat, self._like, int(self._has_tasks))

    def _flatten(self, parts: Sequence[Tensor]) -> Tensor:
        return flatten(parts, int(self._has_tasks))

    def _bound(self, network: nn.Module, params: Params) -> tuple[Tensor, nn.Module]:
        """Flat copies of the parameters, and a copy of the module whose parameters are views of them."""
        flat, bound = self._flatten([value.detach() for value in params.values()]), copy.deepcopy(network)
        for name, value in self.unflatten(flat).items():
            path, _, last = name.rpartition(".")
            setattr(bound.get_submodule(path), last, nn.Parameter(value))
        return flat, bound

    def _move_target(self) -> None:
        if self.config.target == "polyak":
            self._flat_target.lerp_(self._flat, self.config.polyak)
        elif self.steps % self._target_interval == 0:
            self._flat_target.copy_(self._flat)

    @property
    def _target_interval(self) -> int:
        """TD steps between moves of the target network. After a sync the fast weights are the slow ones."""
        config = self.config
        if config.target == "polyak":
            return 1
        return config.lookahead_k if config.target == "slow" else config.target_interval


def make_network(config: LookaheadDQNConfig, tasks: TaskDistribution) -> QNetwork | DuelingQNetwork:
    """The network of a run, with its initial parameters."""
    generator = rng.torch_generator(config.seed, "network")
    network = make_q_network(config.network, tasks.observation_space, tasks.action_space, generator)
    return network.to(config.device, getattr(torch, config.dtype))


def init_params(network: nn.Module) -> Params:
    """Copies of its parameters."""
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def as_batch(drawn: Drawn, config: LookaheadDQNConfig) -> TransitionBatch:
    """A minibatch as tensors."""
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


def _make_optimizer(config: LookaheadDQNConfig, flat: Tensor) -> torch.optim.Optimizer:
    kind = OPTIMIZERS[config.inner_optimizer]
    optimizer = kind([flat], lr=config.inner_lr, fused=True)  # type: ignore[call-arg]
    if config.inner_optimizer != "sgd":  # as torch does at the first step; a checkpoint needs a place for it before
        step = torch.zeros((), dtype=torch.float32, device=flat.device)
        zeros = [torch.zeros_like(flat) for _ in range(2)]
        optimizer.state[flat] = {"step": step, "exp_avg": zeros[0], "exp_avg_sq": zeros[1]}
    if config.lookahead_k:
        return Lookahead(optimizer, config.lookahead_k, config.lookahead_alpha, config.lookahead_inner_state)
    return optimizer


def _relu(values: NDArray[Any]) -> NDArray[Any]:
    return np.maximum(values, 0)


def _layers(network: nn.Module) -> tuple[list[Tensor], list[Tensor], type[nn.Module]]:
    """Weights, biases and activation of a network that is one MLP."""
    layers = cast(list[nn.Linear], list(cast(QNetwork, network).value)[::2])
    activation = type(cast(QNetwork, network).value[1])
    return [layer.weight for layer in layers], [layer.bias for layer in layers], activation
