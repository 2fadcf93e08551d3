"""Policies: modules that map observations to action distributions."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import torch
from torch import nn

from research.policies.mlp import GAUSSIAN_SETTINGS, CategoricalMLP, GaussianMLP, PolicyConfig
from research.validation import refuse_unread


def make_policy(
    config: PolicyConfig,
    observation_space: gymnasium.spaces.Box,
    action_space: gymnasium.Space[Any],
    generator: torch.Generator,
) -> nn.Module:
    """Returns an MLP policy for these spaces: Gaussian for Box actions, categorical for Discrete ones.

    Raises:
        TypeError: The action space is neither.
        ValueError: A setting of continuous actions has no effect on discrete ones.
    """
    num_observations = math.prod(observation_space.shape)
    if isinstance(action_space, gymnasium.spaces.Discrete):
        refuse_unread(config, GAUSSIAN_SETTINGS, f"it is for continuous actions, got {action_space}", prefix="policy.")
        return CategoricalMLP(num_observations, int(action_space.n), config, generator)
    if isinstance(action_space, gymnasium.spaces.Box):
        return GaussianMLP(num_observations, math.prod(action_space.shape), config, generator)
    raise TypeError(f"action space {action_space}: there are policies for Box and Discrete actions only")


__all__ = ["CategoricalMLP", "GaussianMLP", "PolicyConfig", "make_policy"]
