"""A policy and a value on a memory that can learn the task, as its input has past actions and rewards.

    m_t = memory(inputs up to t);  [b_t = (μ(m_t), log σ²(m_t))];  π_t, v_t = heads(m_t or b_t, observation_t)

The value has a head of its own: linear next to a linear head of the policy, as in RL²; else a perceptron on memory and
observation, kind `"state"`. A value is a sum over all that may follow, and needs both; it needs no weights that a
hypernetwork writes, whose cost it would double.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import gymnasium
import torch
from torch import Tensor, nn

from research.distributions import Categorical, DiagGaussian, Distribution, bounded_log_var
from research.policies.gru_kernel import kernel
from research.policies.memory.config import MemoryConfig, check_context, check_spaces
from research.policies.memory.heads import HEADS, StateHead, linear_outputs
from research.policies.memory.initial import glorot, linear
from research.policies.memory.inputs import Encoder, Inputs
from research.policies.memory.linear_kernel import linear_pair
from research.policies.memory.recurrent import Recurrent
from research.policies.memory.transformer import Transformer
from research.policies.memory.transitions import Transitions


class Belief(NamedTuple):
    """A Gaussian belief about the task with independent dimensions, its fields `[rows, time, belief]`."""

    mean: Tensor
    log_var: Tensor


class Output(NamedTuple):
    """The output of the network.

    Attributes:
        distribution: Action distributions, `[rows, time, ...]`.
        value: Values, `[rows, time]`.
        state: The state after the last step, a tree of tensors.
        belief: The belief after each step, with a graph; None without `belief_size`.
    """

    distribution: Any
    value: Tensor
    state: Any
    belief: Belief | None = None


class Memory(Protocol):
    """A module that remembers what a trial has shown."""

    def __call__(self, inputs: Inputs, state: Any) -> tuple[Tensor, Any]:
        """Returns the memory after each step, `[time, rows, hidden]`, and the last state, for `[time, rows, ...]`."""

    def initial_state(self, rows: int) -> Any:
        """Returns the state at the start of a trial, a tree of tensors."""


class MemoryPolicy(nn.Module):
    """Inputs and state → action distribution, value and state. See the module, and `make_memory_policy`.

    Parameters whose names begin with `value_` belong to the value alone.

    Args:
        config: The settings.
        encoder: The form of the inputs.
        generator: Source of the initial weights.
        longest: Most steps of a trial of training, read with a transformer.
    """

    def __init__(self, config: MemoryConfig, encoder: Encoder, generator: torch.Generator, longest: int = 0):
        super().__init__()
        self.config, self.encoder, self.longest = config, encoder, longest
        self.body: Memory = self._make_memory(generator)
        self.value_body: Memory | None = self._make_memory(generator) if config.separate_value else None
        self.places = encoder.num_observations if config.per_state_heads else 1
        size = 2 * config.belief_size or config.hidden_size
        value_size = config.hidden_size if config.separate_value else size
        self.head: nn.Module | None = None
        if config.head == "linear":
            self._make_linear_heads(size, value_size, generator)
        else:
            outputs, observations = encoder.num_actions, encoder.num_observations
            kind = HEADS[config.head]
            self.head = kind(config, (size, observations, outputs), generator, config.output_scale)
            self.value_head = StateHead(config, (value_size, observations, 1), generator, 1.0)
        self.belief = linear(config.hidden_size, size, generator) if config.belief_size else None
        self.log_std: nn.Parameter | None = None
        if not encoder.is_discrete:
            self.log_std = nn.Parameter(torch.full((encoder.num_actions,), float(config.init_log_std)))

    def _make_memory(self, generator: torch.Generator) -> Recurrent | Transformer | Transitions:
        if self.config.memory == "transformer":
            return Transformer(self.config, self.encoder, generator, self.longest)
        kind = Transitions if self.config.memory == "set" else Recurrent
        return kind(self.config, self.encoder, generator)

    def _make_linear_heads(self, size: int, value_size: int, generator: torch.Generator) -> None:
        num_actions, scale = self.encoder.num_actions, self.config.output_scale
        self.action_weight = glorot(self.places * num_actions, size, generator, size + num_actions, scale)
        self.action_bias = nn.Parameter(torch.zeros(self.places * num_actions))
        self.value_weight = glorot(self.places, value_size, generator, fan=value_size + 1)
        self.value_bias = nn.Parameter(torch.zeros(self.places))

    def forward(self, inputs: Inputs, state: Any) -> Output:
        """Returns the output for `inputs [rows, time, ...]` and the state before them."""
        inputs = inputs.map(lambda field: field.transpose(0, 1))
        if inputs.belief is not None:
            return self._respond(inputs.belief, inputs.belief, inputs, state, None)
        if self.value_body is None:
            memory, state = self.body(inputs, state)
            own = None
        else:
            (memory, first), (own, second) = self.body(inputs, state[0]), self.value_body(inputs, state[1])
            state = first, second
        belief, read = self._believe(memory)
        return self._respond(read, read if own is None else own, inputs, state, belief)

    def believe(self, inputs: Inputs) -> Belief:
        """Returns the belief at each step of whole trials, `inputs [rows, time, ...]`, with a graph, without the heads.

        Raises:
            ValueError: The policy has no belief.
        """
        by_time = inputs.map(lambda field: field.transpose(0, 1))
        memory, _ = self.body(by_time, self.body.initial_state(len(inputs.features)))
        belief, _ = self._believe(memory)
        if belief is None:
            raise ValueError("belief_size=0: the policy has no belief; need at least 1")
        return belief

    def act(self, inputs: Inputs, state: Any) -> Output:
        """Returns the output for one step: `inputs [rows, ...]`; distribution, value and belief `[rows, ...]`.

        A transformer writes into its cache, unless the step is recorded: `state` can be continued only once.
        """
        output = self(inputs.map(lambda field: field.unsqueeze(1)), state)
        distribution = type(output.distribution)(*(leaf.squeeze(1) for leaf in output.distribution))
        belief = output.belief and Belief(*(leaf.squeeze(1) for leaf in output.belief))
        return Output(distribution, output.value.squeeze(1), output.state, belief)

    def use_threads(self, num_threads: int) -> None:
        """Lets compiled passes share their rows out to threads, for callers that use one thread; results stay."""
        for body in (self.body, self.value_body):
            if isinstance(body, Recurrent):
                body.num_threads = num_threads

    @property
    def is_compiled(self) -> bool:
        """Whether compiled code computes the states and their first derivatives, and torch only the rest."""
        first = next(self.parameters())
        config = self.config
        return config.memory == "gru" and not config.layer_norm and kernel(first.dtype, first.device) is not None

    @property
    def reads_steps_at_once(self) -> bool:
        """Whether the memory has no loop over the steps of a trial, in derivatives of any order."""
        return self.config.memory != "gru"

    @property
    def has_cheap_parts(self) -> bool:
        """Whether a part of a few trials takes no longer for each of them than a part of many: no loop of torch."""
        return self.reads_steps_at_once or self.is_compiled

    def check_length(self, steps: int) -> None:
        """Raises ValueError if the memory cannot read a trial of so many steps."""
        check_context(self.config, self.longest, steps)

    def initial_state(self, rows: int) -> Any:
        """Returns the state at the start of a trial, a tree of tensors."""
        state = self.body.initial_state(rows)
        return state if self.value_body is None else (state, self.value_body.initial_state(rows))

    def first_action(self, rows: int) -> Tensor:
        """Returns the last action at the start of a trial: −1, or zeros if actions are continuous."""
        like = next(self.parameters())
        if self.encoder.is_discrete:
            return torch.full((rows,), -1, device=like.device)
        return like.new_zeros(rows, self.encoder.num_actions)

    def encode(
        self, observation: Tensor, last_observation: Tensor, last_action: Tensor, last_reward: Tensor, ended: Tensor
    ) -> Inputs:
        """Returns the inputs of the network, see `Encoder.encode`; `first_action` is the action before the first."""
        return self.encoder.encode(observation, last_observation, last_action, last_reward, ended)

    def _believe(self, memory: Tensor) -> tuple[Belief | None, Tensor]:
        """Returns the belief, `[rows, time, belief]`, and what the heads read, `[time, rows, ...]`."""
        if self.belief is None:
            return None, memory
        mean, log_var = self.belief(memory).chunk(2, -1)
        outputs = torch.cat([mean, bounded_log_var(log_var)], -1)
        belief = Belief(*outputs.transpose(0, 1).chunk(2, -1))
        # Unless the settings say otherwise, the loss of the belief alone trains memory and belief, as in VariBAD.
        return belief, outputs if self.config.belief_gradient else outputs.detach()

    def _respond(
        self, memory: Tensor, value_memory: Tensor, inputs: Inputs, state: Any, belief: Belief | None
    ) -> Output:
        """Returns the output of the heads on what they read, `[time, rows, ...]`."""
        action, value = (outputs.transpose(0, 1) for outputs in self._heads(memory, value_memory, inputs))
        return Output(self._distribution(action), value.squeeze(-1), state, belief)

    def _heads(self, memory: Tensor, value_memory: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Returns the outputs for actions and value, `[time, rows, ...]`; one product gives both where it can."""
        if self.head is not None:
            observation = inputs.features[..., : self.encoder.num_observations]
            return self.head(memory, observation), self.value_head(value_memory, observation)
        action, value = (self.action_weight, self.action_bias), (self.value_weight, self.value_bias)
        if value_memory is memory and inputs.place is None:
            return linear_pair(memory, action, value)
        place = (inputs.place, self.places)
        return linear_outputs(memory, *action, *place), linear_outputs(value_memory, *value, *place)

    def _distribution(self, outputs: Tensor) -> Distribution:
        if self.log_std is None:
            return Categorical(outputs)
        return DiagGaussian(outputs, self.log_std.clamp_min(self.config.min_log_std).expand_as(outputs))


def make_memory_policy(
    config: MemoryConfig,
    observation_space: gymnasium.spaces.Box,
    action_space: gymnasium.Space[Any],
    generator: torch.Generator,
    longest: int = 0,
) -> MemoryPolicy:
    """Returns a policy for these spaces: Gaussian for Box actions, categorical for Discrete ones.

    Args:
        config: The settings.
        observation_space: The space of observations.
        action_space: The space of actions.
        generator: Source of the initial weights.
        longest: Most steps of a trial of training, for a transformer.

    Raises:
        ValueError: The action space is neither, a setting needs one-hot observations or discrete actions, or a
            transformer's context is shorter than a trial or has no length.
    """
    check_spaces(config, observation_space, action_space)
    is_discrete = isinstance(action_space, gymnasium.spaces.Discrete)
    num_actions = int(action_space.n) if is_discrete else math.prod(action_space.shape or ())  # type: ignore[attr-defined]
    num_observations = math.prod(observation_space.shape)
    has_places = config.per_state_heads and num_observations > 1
    flags = (config.outer_input, has_places, config.memory == "set")
    encoder = Encoder(num_observations, num_actions, is_discrete, *flags)
    check_context(config, longest, max(1, longest))
    return MemoryPolicy(config, encoder, generator, longest)
