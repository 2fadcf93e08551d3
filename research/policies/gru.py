"""A recurrent policy and value: a GRU whose state can learn the task, as its input has past actions and rewards.

The input at each step is that of RL² (Duan et al. 2016, arXiv:1611.02779, section 2.2): the observation, the last
action (one-hot if it is discrete), the last reward, and whether the last step ended an episode; zeros before the first
step of a trial. It knows no environment and no loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from research.distributions import Categorical, DiagGaussian, Distribution
from research.policies.gru_function import gru_recorded
from research.policies.gru_kernel import GRUWeights, gru, kernel, project
from research.validation import at_least


@dataclass(frozen=True)
class GRUConfig:
    """Settings of a GRU policy.

    Attributes:
        hidden_size: Units of the state.
        separate_value: Whether the value has a GRU of its own, or a second head on the policy's GRU.
        layer_norm: Whether both products of the cell, with the input and with the state, are layer-normalised
            (Ba et al. 2016, arXiv:1607.06450). Several times slower, as it has no fused backward pass.
        learn_start: Whether the state at the start of a trial is learned, or 0.
        outer_input: Whether the input also has onehot(s, a) and reward · onehot(s, a) of the last step. It needs
            one-hot (or constant) observations and discrete actions.
        per_state_heads: Whether each state has output weights of its own. It needs one-hot (or constant) observations.
        output_scale: Factor on the initial output weights of the policy (Glorot's): with less than 1, the first actions
            hardly depend on the input.
        init_log_std: Initial log standard deviation (continuous actions).
        min_log_std: Lower limit of the log standard deviation (continuous actions).
    """

    hidden_size: int = 64
    separate_value: bool = False
    layer_norm: bool = False
    learn_start: bool = False
    outer_input: bool = False
    per_state_heads: bool = False
    output_scale: float = 0.01
    init_log_std: float = 0.0
    min_log_std: float = math.log(1e-6)

    def __post_init__(self) -> None:
        at_least(self, 1, "hidden_size")
        at_least(self, 0, "output_scale")
        if self.init_log_std < self.min_log_std:
            raise ValueError(f"init_log_std={self.init_log_std}: need at least min_log_std={self.min_log_std}")


class Inputs(NamedTuple):
    """The encoded inputs of the network; all have the same leading axes.

    Attributes:
        features: `[..., features]`: observation, last action, last reward, whether the last step ended an episode.
        pair: `[...]` int64: index of the last observation and action together; None without `outer_input`.
        reward: `[...]`: the last reward; None without `outer_input`.
        place: `[...]` int64: index of the observed state; None without `per_state_heads`.
    """

    features: Tensor
    pair: Tensor | None = None
    reward: Tensor | None = None
    place: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """Returns the inputs with `function` applied to every tensor; None stays."""
        return Inputs(function(self.features), *(None if field is None else function(field) for field in self[1:]))


class Output(NamedTuple):
    """The output of the network.

    Attributes:
        distribution: Action distributions, `[rows, time, ...]`.
        value: Values, `[rows, time]`.
        state: The state after the last step, `[rows, state]`.
    """

    distribution: Any
    value: Tensor
    state: Tensor


class Recurrent(nn.Module):
    """A GRU with its input projection.

    Args:
        config: The settings.
        num_features: Size of the dense input.
        num_pairs: Number of pairs of state and action for the outer input; 0 for none.
        generator: Source of the initial weights.
    """

    def __init__(self, config: GRUConfig, num_features: int, num_pairs: int, generator: torch.Generator):
        super().__init__()
        size = config.hidden_size
        self.weight_input = _glorot(3 * size, num_features, generator, fan=size + num_features)
        self.bias_input = nn.Parameter(torch.zeros(3 * size))
        self.weight_hidden = nn.Parameter(torch.cat([_orthogonal(size, generator) for _ in range(3)]))
        self.bias_hidden = nn.Parameter(torch.zeros(size))
        self.pair: nn.Parameter | None = None
        if num_pairs:  # one more for the start of a trial; the second half is multiplied by the reward
            self.pair = _glorot(2 * (num_pairs + 1), 3 * size, generator, fan=size + num_features)
        self.norm_input = nn.LayerNorm(3 * size) if config.layer_norm else None
        self.norm_hidden = nn.LayerNorm(3 * size) if config.layer_norm else None
        self.start = nn.Parameter(torch.zeros(size)) if config.learn_start else None

    def forward(self, inputs: Inputs, state: Tensor) -> Tensor:
        """Returns the states after each step, `[time, rows, hidden]`, for inputs `[time, rows, ...]`."""
        weights = GRUWeights(self.weight_input, self.bias_input, self.weight_hidden, self.bias_hidden, self.pair)
        constants = (inputs.features, inputs.pair, inputs.reward)
        if self.norm_input is None or self.norm_hidden is None:
            return gru(*constants, state, weights)
        gates = self.norm_input(project(*constants, weights))
        return gru_recorded(gates, state, self.weight_hidden, self.bias_hidden, self.norm_hidden)

    def initial_state(self, rows: int) -> Tensor:
        """Returns the state at the start of a trial, `[rows, hidden]`."""
        start = self.bias_hidden.new_zeros(len(self.bias_hidden)) if self.start is None else self.start
        return start.expand(rows, -1)


class GRUPolicy(nn.Module):
    """Inputs and state → action distribution, value and state. See the module, and `make_gru_policy`.

    Args:
        config: The settings.
        num_observations: Size of an observation.
        num_actions: Number of actions if they are discrete, else the size of an action.
        is_discrete: Whether actions are discrete.
        generator: Source of the initial weights.
    """

    def __init__(
        self, config: GRUConfig, num_observations: int, num_actions: int, is_discrete: bool, generator: torch.Generator
    ):
        super().__init__()
        self.config, self.num_actions, self.is_discrete = config, num_actions, is_discrete
        num_pairs = num_observations * num_actions * config.outer_input
        sizes = (num_observations + num_actions + 2, num_pairs)
        self.body = Recurrent(config, *sizes, generator)
        self.value_body = Recurrent(config, *sizes, generator) if config.separate_value else None
        self.num_pairs, self.places = num_pairs, num_observations if config.per_state_heads else 1
        fan = config.hidden_size + num_actions
        self.action_weight = _glorot(self.places * num_actions, config.hidden_size, generator, fan, config.output_scale)
        self.action_bias = nn.Parameter(torch.zeros(self.places * num_actions))
        self.value_weight = _glorot(self.places, config.hidden_size, generator, fan=config.hidden_size + 1)
        self.value_bias = nn.Parameter(torch.zeros(self.places))
        self.log_std = None if is_discrete else nn.Parameter(torch.full((num_actions,), float(config.init_log_std)))

    def forward(self, inputs: Inputs, state: Tensor) -> Output:
        """Returns the output for `inputs [rows, time, ...]` and the state before them, `[rows, state]`."""
        inputs = inputs.map(lambda field: field.transpose(0, 1))
        parts = state.split(self.config.hidden_size, -1)
        hidden = [body(inputs, part) for body, part in zip(self._bodies(), parts, strict=True)]
        action, value = (outputs.transpose(0, 1) for outputs in self._heads(hidden, inputs.place))
        return Output(self._distribution(action), value.squeeze(-1), torch.cat([states[-1] for states in hidden], -1))

    def act(self, inputs: Inputs, state: Tensor) -> Output:
        """Returns the output for one step: `inputs [rows, ...]`, distribution and value `[rows, ...]`."""
        distribution, value, state = self(inputs.map(lambda field: field.unsqueeze(1)), state)
        return Output(type(distribution)(*(leaf.squeeze(1) for leaf in distribution)), value.squeeze(1), state)

    @property
    def is_compiled(self) -> bool:
        """Whether compiled code computes the states and their first derivatives, and torch only the rest."""
        return not self.config.layer_norm and kernel(self.action_bias.dtype, self.action_bias.device) is not None

    def initial_state(self, rows: int) -> Tensor:
        """Returns the state at the start of a trial, `[rows, state]`."""
        return torch.cat([body.initial_state(rows) for body in self._bodies()], -1)

    def first_action(self, rows: int) -> Tensor:
        """Returns the last action at the start of a trial: −1, or zeros if actions are continuous."""
        if self.is_discrete:
            return torch.full((rows,), -1, device=self.action_bias.device)
        return self.action_bias.new_zeros(rows, self.num_actions)

    def encode(
        self, observation: Tensor, last_observation: Tensor, last_action: Tensor, last_reward: Tensor, ended: Tensor
    ) -> Inputs:
        """Returns the inputs of the network.

        Args:
            observation: `[..., obs]`.
            last_observation: `[..., obs]`, read with `outer_input` only.
            last_action: `[...]` int64 or `[..., act]`; `first_action` at the start of a trial.
            last_reward: `[...]`; 0 at the start of a trial.
            ended: `[...]` bool: whether the last step ended an episode.
        """
        dtype = observation.dtype
        action = last_action
        if self.is_discrete:
            action = last_action.unsqueeze(-1) == torch.arange(self.num_actions, device=last_action.device)
        scalars = torch.stack([last_reward, ended.to(dtype)], -1)
        features = torch.cat([observation, action.to(dtype), scalars], -1)
        pair = place = None
        if self.num_pairs:
            pair = last_observation.argmax(-1) * self.num_actions + last_action
            pair = pair.where(last_action >= 0, self.num_pairs)
        if self.places > 1:
            place = observation.argmax(-1)
        return Inputs(features, pair, last_reward if self.num_pairs else None, place)

    def _bodies(self) -> list[Recurrent]:
        return [self.body] if self.value_body is None else [self.body, self.value_body]

    def _heads(self, hidden: list[Tensor], place: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the outputs for actions and value, `[time, rows, ...]`; one product gives both where it can."""
        if len(hidden) == 1 and place is None:
            weight, bias = (
                torch.cat([self.action_weight, self.value_weight]),
                torch.cat([self.action_bias, self.value_bias]),
            )
            action, value = F.linear(hidden[0], weight, bias).split((self.num_actions, 1), -1)
            return action, value
        action = self._head(hidden[0], self.action_weight, self.action_bias, place)
        return action, self._head(hidden[-1], self.value_weight, self.value_bias, place)

    def _head(self, hidden: Tensor, weight: Tensor, bias: Tensor, place: Tensor | None) -> Tensor:
        """Returns the outputs of the head for each row's observed state, or of the only head."""
        outputs = F.linear(hidden, weight, bias)
        if place is None:
            return outputs
        outputs = outputs.unflatten(-1, (self.places, -1))
        index = place[..., None, None].expand(*place.shape, 1, outputs.shape[-1])
        return outputs.gather(-2, index).squeeze(-2)

    def _distribution(self, outputs: Tensor) -> Distribution:
        if self.log_std is None:
            return Categorical(outputs)
        return DiagGaussian(outputs, self.log_std.clamp_min(self.config.min_log_std).expand_as(outputs))


def make_gru_policy(
    config: GRUConfig,
    observation_space: gymnasium.spaces.Box,
    action_space: gymnasium.Space[Any],
    generator: torch.Generator,
) -> GRUPolicy:
    """Returns a GRU policy for these spaces: Gaussian for Box actions, categorical for Discrete ones.

    Raises:
        ValueError: The action space is neither, or a setting needs one-hot observations or discrete actions.
    """
    check_spaces(config, observation_space, action_space)
    is_discrete = isinstance(action_space, gymnasium.spaces.Discrete)
    num_actions = int(action_space.n) if is_discrete else math.prod(action_space.shape or ())  # type: ignore[attr-defined]
    return GRUPolicy(config, math.prod(observation_space.shape), num_actions, is_discrete, generator)


def check_spaces(config: GRUConfig, observations: gymnasium.spaces.Box, actions: gymnasium.Space[Any]) -> None:
    """Raises ValueError if `make_gru_policy` cannot make a policy for these spaces."""
    if not isinstance(actions, (gymnasium.spaces.Discrete, gymnasium.spaces.Box)):
        raise ValueError(f"task: its actions are {actions}; there are policies for Box and Discrete actions only")
    if config.outer_input and not isinstance(actions, gymnasium.spaces.Discrete):
        raise ValueError(f"policy.outer_input=True: it is for discrete actions, got {actions}; need False")
    is_one_hot = len(observations.shape) == 1 and (observations.low == 0).all() and (observations.high == 1).all()
    never_changes = observations.shape == (1,) and (observations.low == observations.high).all()
    for name in ("outer_input", "per_state_heads"):
        if getattr(config, name) and not (is_one_hot or never_changes):
            raise ValueError(f"policy.{name}=True: it is for one-hot observations, got {observations}; need False")


def _glorot(rows: int, columns: int, generator: torch.Generator, fan: int, scale: float = 1.0) -> nn.Parameter:
    """Returns uniform weights `[rows, columns]` for a layer with `fan` inputs and outputs together, times `scale`."""
    bound = scale * math.sqrt(6.0 / fan)
    return nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound, generator=generator))


def _orthogonal(size: int, generator: torch.Generator) -> Tensor:
    return nn.init.orthogonal_(torch.empty(size, size), generator=generator)
