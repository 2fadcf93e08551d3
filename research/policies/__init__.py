"""Policies: modules that map observations to action distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from torch import nn

from research.policies.mlp import CategoricalMLP, GaussianMLP, check_layers
from research.validation import at_least


@dataclass(frozen=True)
class PolicyConfig:
    """Settings of an MLP policy.

    Attributes:
        hidden_sizes: Units of each hidden layer.
        activation: `"tanh"` or `"relu"`.
        output_scale: Factor on the initial weights of the last layer (Glorot's). With less than 1, the first actions
            hardly depend on the observation, so that no initial policy drives the agent far away.
        init_log_std: Initial log standard deviation (continuous actions).
        min_log_std: Lower limit of the log standard deviation (continuous actions).
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    output_scale: float = 1.0
    init_log_std: float = 0.0
    min_log_std: float = math.log(1e-6)

    def __post_init__(self) -> None:
        check_layers(self)
        at_least(self, 0, "output_scale")
        if self.init_log_std < self.min_log_std:
            raise ValueError(f"init_log_std={self.init_log_std}: need at least min_log_std={self.min_log_std}")


def make_policy(
    config: PolicyConfig,
    observation_space: gymnasium.spaces.Box,
    action_space: gymnasium.Space[Any],
    generator: torch.Generator,
) -> nn.Module:
    """Returns an MLP policy for these spaces: Gaussian for Box actions, categorical for Discrete ones.

    Raises:
        TypeError: The action space is neither.
    """
    num_observations = math.prod(observation_space.shape)
    network = (config.hidden_sizes, config.activation, config.output_scale)
    if isinstance(action_space, gymnasium.spaces.Discrete):
        return CategoricalMLP(num_observations, int(action_space.n), *network, generator=generator)
    if isinstance(action_space, gymnasium.spaces.Box):
        limits = (config.init_log_std, config.min_log_std)
        return GaussianMLP(num_observations, math.prod(action_space.shape), *network, *limits, generator=generator)
    raise TypeError(f"action space {action_space}: there are policies for Box and Discrete actions only")


__all__ = ["CategoricalMLP", "GaussianMLP", "PolicyConfig", "make_policy"]
