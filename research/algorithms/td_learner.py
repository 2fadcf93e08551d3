"""A Q-network that learns by TD steps: what all designs of the DQN family have in common.

    y = r + γⁿ max_a Q(s', a; θ̄)            with `double` the online network chooses a
    θ ← optimiser(θ, ∇ mean w ℓ(Q(s, a; θ) − y))     with Lookahead around it where `lookahead_k` says so
    θ̄ ← θ every C steps, or θ̄ + τ (θ − θ̄) after each, or Lookahead's slow weights

For one network, or for one for each task: with parameters `[tasks, ...]` and minibatches `[tasks, batch, ...]` every
task learns as it would alone.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from research import rng
from research.algorithms.dqn_config import LookaheadDQNConfig
from research.optim import Lookahead
from research.optim.differentiable import AdamState
from research.policies.mlp_function import mlp_with_pullback
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


class LearnerState(NamedTuple):
    """What a learner carries from one TD step to the next.

    Attributes:
        steps: TD steps so far.
        target: The parameters of the target network.
        optimizer: The optimiser's `state_dict`, Lookahead's slow weights included.
    """

    steps: int
    target: Params
    optimizer: dict[str, Any]


class TDLearner:
    """A network in the middle of learning; it changes in place.

    Args:
        config: The settings.
        network: The module; its own parameters are not read.
        params: The network's, to start from or to go on with.
        state: What it carried, to go on; None starts.
    """

    def __init__(
        self,
        config: LookaheadDQNConfig,
        network: nn.Module,
        params: Params,
        state: LearnerState | None = None,
    ):
        self.config, self.steps = config, 0
        self.network = _bound(network, params)
        self.target = _bound(network, params if state is None else state.target)
        self._names = list(params)
        self._params: list[Tensor] = [dict(self.network.named_parameters())[name] for name in self._names]
        self._targets: list[Tensor] = [dict(self.target.named_parameters())[name] for name in self._names]
        self._optimizer = _make_optimizer(config, self._params)
        if state is not None:
            self.steps = state.steps
            self._optimizer.load_state_dict(copy.deepcopy(state.optimizer))
        self._has_tasks = self._params[0].ndim == 3
        self._layers = _plain_layers(self.network) if not self._has_tasks else None

    def state(self) -> LearnerState:
        """Copies of what it carries beside its parameters."""
        target = {name: value.detach().clone() for name, value in zip(self._names, self._targets, strict=True)}
        return LearnerState(self.steps, target, copy.deepcopy(self._optimizer.state_dict()))

    def params(self) -> Params:
        """Copies of the network's parameters."""
        return {name: value.detach().clone() for name, value in zip(self._names, self._params, strict=True)}

    def moments(self) -> AdamState:
        """Copies of Adam's moments, as the pure function has them."""
        states = [self._optimizer.state[param] for param in self._params]
        first, second = (
            {name: state[key].clone() for name, state in zip(self._names, states, strict=True)}
            for key in ("exp_avg", "exp_avg_sq")
        )
        return AdamState(self.steps, first, second)

    def set_rate(self, rate: float) -> None:
        """Changes the learning rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def greedy(self, observation: NDArray[Any]) -> NDArray[np.int64]:
        """The best action at each observation `[rows, obs]`, `[rows]`."""
        dtype = self._params[0].dtype
        values = self.network(torch.as_tensor(observation, dtype=dtype, device=self._params[0].device))
        best: NDArray[np.int64] = values.argmax(-1).cpu().numpy()
        return best

    def step(self, batch: TransitionBatch) -> Tensor:
        """One TD step. Returns the TD errors before it, `[batch]` or `[tasks, batch]`."""
        gradient, error = self.gradient(batch)
        self.apply(gradient)
        return error

    def gradient(self, batch: TransitionBatch) -> tuple[list[Tensor], Tensor]:
        """Of the TD loss in every parameter, not scaled; and the TD errors."""
        with torch.no_grad():
            online = self.network(batch.next_observation) if self.config.double else None
            target = td_target(batch, self.target(batch.next_observation), online)
        if self._layers is None:
            values = self.network(batch.observation)
            error = values_at(values, batch.action) - target
            loss = td_loss(error, batch.weight, self.config.td_loss).sum()  # tasks share no parameter
            return list(torch.autograd.grad(loss, self._params)), error.detach()  # errors are reported
        weights, biases, activation = self._layers
        values, pull = mlp_with_pullback(batch.observation, weights, biases, activation)
        error = values_at(values, batch.action) - target
        slope = td_cotangent(error, batch.weight, self.config.td_loss)
        cotangent = torch.zeros_like(values).scatter_(1, batch.action.unsqueeze(1), slope.unsqueeze(1))
        by_kind = pull(cotangent)
        half = len(by_kind) // 2
        return [part for pair in zip(by_kind[:half], by_kind[half:], strict=True) for part in pair], error

    @torch.no_grad()
    def apply(self, gradient: list[Tensor]) -> None:
        """The optimiser's step along a gradient, and the target network's."""
        if self.config.max_grad_norm:
            _clip(gradient, self.config.max_grad_norm, self._has_tasks)
        for param, value in zip(self._params, gradient, strict=True):
            param.grad = value.contiguous()  # fused optimisers read memory in the order of the parameter's
        self._optimizer.step()
        self.steps += 1
        self._move_target()

    def _move_target(self) -> None:
        config = self.config
        if config.target == "polyak":
            torch._foreach_lerp_(self._targets, self._params, config.polyak)
            return
        # After a sync the fast weights are the slow ones.
        interval = config.lookahead_k if config.target == "slow" else config.target_interval
        if self.steps % interval == 0:
            torch._foreach_copy_(self._targets, self._params)


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


def _bound(network: nn.Module, params: Params) -> nn.Module:
    """A copy of the module with copies of these parameters, which may have a task axis, in place of its own."""
    bound = copy.deepcopy(network)
    for name, value in params.items():
        path, _, last = name.rpartition(".")
        setattr(bound.get_submodule(path), last, nn.Parameter(value.detach().clone()))
    return bound


def _make_optimizer(config: LookaheadDQNConfig, params: list[Tensor]) -> torch.optim.Optimizer:
    kind = OPTIMIZERS[config.inner_optimizer]
    optimizer = kind(params, lr=config.inner_lr, fused=True)  # type: ignore[call-arg]
    if config.inner_optimizer != "sgd":
        for (
            param
        ) in params:  # as torch makes it at the first step, so that a checkpoint has a place for it from the start
            zeros = [torch.zeros_like(param) for _ in range(2)]
            step = torch.zeros((), dtype=torch.float32, device=param.device)
            optimizer.state[param] = {"step": step, "exp_avg": zeros[0], "exp_avg_sq": zeros[1]}
    if config.lookahead_k:
        return Lookahead(optimizer, config.lookahead_k, config.lookahead_alpha, config.lookahead_inner_state)
    return optimizer


def _plain_layers(network: nn.Module) -> tuple[list[Tensor], list[Tensor], type[nn.Module]] | None:
    """Weights, biases and activation of a network that is one MLP; None for others."""
    if not isinstance(network, QNetwork) or len(network.value) < 3:
        return None
    layers = cast(list[nn.Linear], list(network.value)[::2])
    return [layer.weight for layer in layers], [layer.bias for layer in layers], type(network.value[1])


def _clip(gradient: list[Tensor], max_norm: float, has_tasks: bool) -> None:
    """Scales the gradient, or that of each task, down to the norm in place."""
    if not has_tasks:
        norm = torch.stack(torch._foreach_norm(gradient)).norm()
        torch._foreach_mul_(gradient, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return
    norms = torch.stack([value.flatten(1).norm(dim=1) for value in gradient]).norm(dim=0)
    scale = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for value in gradient:
        value.mul_(scale.view(-1, *[1] * (value.ndim - 1)))
