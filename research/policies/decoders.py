"""Decoders of a belief about the task: they predict rewards, next observations, or the parameters of the task.

A trial of T steps is predicted from the beliefs of n of its times. The first layer is W_m m + W_x x + b, with x the
step: each product is computed once for each belief and once for each step, T + n rows, and only the layers after it
have T · n rows. They know no environment and no loss.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import gymnasium
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from research.spaces import OneHot
from research.validation import at_least, choices, positive, refuse_unread


@dataclass(frozen=True)
class DecoderConfig:
    """Settings of the decoders.

    Attributes:
        hidden_sizes: Units of the layers between belief and prediction.
        reward: Distribution of a reward given the step and the task: `"gaussian"` with the standard deviation
            `reward_std`, or `"bernoulli"`: only whether the reward is above 0 is predicted.
        reward_std: Standard deviation of Gaussian rewards, in the unit of the reward.
        reward_per_state: Whether the reward depends on the state that a step reaches and on nothing else of the step,
            and each state has an output of its own. It needs one-hot observations, and no layer has T · n rows.
        transition_std: Standard deviation of each number of the next observation; one-hot observations have none.
    """

    hidden_sizes: tuple[int, ...] = (64, 32)
    reward: Literal["gaussian", "bernoulli"] = "gaussian"
    reward_std: float = 1.0
    reward_per_state: bool = False
    transition_std: float = 1.0

    def __post_init__(self) -> None:
        choices(self)
        positive(self, "reward_std", "transition_std")
        if self.reward == "bernoulli":
            refuse_unread(self, ("reward_std",), "it is for reward='gaussian', got reward='bernoulli'")
        for size in self.hidden_sizes:
            at_least({"hidden_sizes": size}, 1, "hidden_sizes")


class Perceptron(nn.Module):
    """Layers with rectifiers between them: `[..., inputs]` → `[..., outputs]`.

    Args:
        sizes: Numbers of inputs, units of each layer, and outputs.
        generator: Source of the initial weights, Glorot-uniform; biases are 0.
    """

    def __init__(self, sizes: tuple[int, ...], generator: torch.Generator):
        super().__init__()
        pairs = list(itertools.pairwise(sizes))
        self.weight = nn.ParameterList(_glorot(outputs, inputs, generator) for inputs, outputs in pairs)
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(outputs)) for _, outputs in pairs)

    def forward(self, inputs: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        for layer, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            inputs = F.linear(inputs if layer == 0 else inputs.relu(), weight, bias)
        return inputs


class StepDecoder(nn.Module):
    """Predictions of every step of a trial under each of n beliefs, see the module.

    Args:
        belief_size: Numbers of a belief.
        step_size: Numbers of a step.
        hidden_sizes: Units of the layers between.
        num_outputs: Numbers of a prediction.
        generator: Source of the initial weights.
    """

    def __init__(
        self,
        belief_size: int,
        step_size: int,
        hidden_sizes: tuple[int, ...],
        num_outputs: int,
        generator: torch.Generator,
    ):
        super().__init__()
        first, *others = *hidden_sizes, num_outputs
        fan = belief_size + step_size + first
        self.weight_belief = _glorot(first, belief_size, generator, fan)
        self.weight_step = _glorot(first, step_size, generator, fan)
        self.bias = nn.Parameter(torch.zeros(first))
        self.rest = Perceptron((first, *others), generator) if others else None

    def forward(
        self, belief: Float[Tensor, "rows beliefs size"], step: Float[Tensor, "rows time features"]
    ) -> Float[Tensor, "rows beliefs time outputs"]:
        of_belief = F.linear(belief, self.weight_belief, self.bias)
        hidden = of_belief.unsqueeze(2) + F.linear(step, self.weight_step).unsqueeze(1)
        return hidden if self.rest is None else self.rest(hidden.relu_())


class StateDecoder(nn.Module):
    """Predictions that depend on the belief and on the index of a state: one output for each state.

    Args:
        belief_size: Numbers of a belief.
        hidden_sizes: Units of the layers between.
        num_states: Number of states.
        generator: Source of the initial weights.
    """

    def __init__(self, belief_size: int, hidden_sizes: tuple[int, ...], num_states: int, generator: torch.Generator):
        super().__init__()
        self.states = Perceptron((belief_size, *hidden_sizes, num_states), generator)

    def forward(
        self, belief: Float[Tensor, "rows beliefs size"], state: Int[Tensor, "rows time"]
    ) -> Float[Tensor, "rows beliefs time 1"]:
        outputs = self.states(belief)
        index = state.unsqueeze(1).expand(-1, outputs.shape[1], -1)
        return outputs.gather(2, index).unsqueeze(-1)


class Decoders(nn.Module):
    """The decoders of an agent. The names of their parameters begin with `decoder_`.

    Attributes:
        decoder_reward: Predicts the reward of a step from the belief, s, a and s', or from the belief and s'; or None.
        decoder_transition: Predicts the next observation from the belief, s and a; or None.
        decoder_task: Predicts the parameters of the task from the belief; or None.
    """

    def __init__(
        self,
        decoder_reward: StepDecoder | StateDecoder | None = None,
        decoder_transition: StepDecoder | None = None,
        decoder_task: Perceptron | None = None,
    ):
        super().__init__()
        self.decoder_reward, self.decoder_transition = decoder_reward, decoder_transition
        self.decoder_task = decoder_task


def make_step_decoders(
    config: DecoderConfig,
    belief_size: int,
    observations: gymnasium.spaces.Box,
    action_size: int,
    with_reward: bool,
    with_transition: bool,
    generator: torch.Generator,
) -> Decoders:
    """Returns decoders of rewards and transitions, those that are wanted.

    Args:
        config: The settings.
        belief_size: Numbers of a belief.
        observations: Space of one observation.
        action_size: Numbers of an action, one-hot if it is discrete.
        with_reward: Whether to decode rewards.
        with_transition: Whether to decode next observations.
        generator: Source of the initial weights.

    Raises:
        ValueError: `reward_per_state` without one-hot observations.
    """
    check_decoders(config, observations)
    size = math.prod(observations.shape)
    reward: StepDecoder | StateDecoder | None = None
    transition = None
    if with_reward and config.reward_per_state:
        reward = StateDecoder(belief_size, config.hidden_sizes, size, generator)
    elif with_reward:
        reward = StepDecoder(belief_size, 2 * size + action_size, config.hidden_sizes, 1, generator)
    if with_transition:
        transition = StepDecoder(belief_size, size + action_size, config.hidden_sizes, size, generator)
    return Decoders(reward, transition)


def make_task_decoder(
    config: DecoderConfig, belief_size: int, targets: gymnasium.Space[object], generator: torch.Generator
) -> Decoders:
    """Returns a decoder of task parameters: logits for a Discrete space, means and log-variances for a Box."""
    is_discrete = isinstance(targets, gymnasium.spaces.Discrete)
    outputs = int(targets.n) if is_discrete else 2 * math.prod(targets.shape or ())  # type: ignore[attr-defined]
    return Decoders(decoder_task=Perceptron((belief_size, *config.hidden_sizes, outputs), generator))


def check_decoders(config: DecoderConfig, observations: gymnasium.spaces.Box) -> None:
    """Raises ValueError if the decoders of these settings cannot read such observations."""
    if config.reward_per_state and not isinstance(observations, OneHot):
        raise ValueError(
            f"decoder.reward_per_state=True: it is for one-hot observations (research.spaces.OneHot), got "
            f"{observations}; need False"
        )


def _glorot(outputs: int, inputs: int, generator: torch.Generator, fan: int = 0) -> nn.Parameter:
    """Returns uniform weights `[outputs, inputs]` for a layer with `fan` inputs and outputs together."""
    bound = math.sqrt(6.0 / (fan or outputs + inputs))
    return nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator))
