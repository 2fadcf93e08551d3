"""The inputs of a policy with memory: what the last step showed, as RL² reads it.

The input at each step is that of RL² (Duan et al. 2016, arXiv:1611.02779, section 2.2): the observation, the last
action (one-hot if it is discrete), the last reward, and whether the last step ended an episode; zeros before the first
step of a trial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Inputs(NamedTuple):
    """The encoded inputs of the network; all have the same leading axes.

    Attributes:
        features: `[..., features]`: observation, last action, last reward, whether the last step ended an episode;
            then the last observation, with `has_last`.
        pair: `[...]` int64: index of the last observation and action together; None without `outer_input`.
        reward: `[...]`: the last reward; None without `outer_input`.
        place: `[...]` int64: index of the observed state; None without `per_state_heads`.
        belief: `[..., 2 · belief]`: mean and log-variance of a belief that was computed before, which the heads then
            read without a pass of the memory; None for a belief of the memory, or none.
    """

    features: Tensor
    pair: Tensor | None = None
    reward: Tensor | None = None
    place: Tensor | None = None
    belief: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """Returns the inputs with `function` applied to every tensor; None stays."""
        return Inputs(function(self.features), *(None if field is None else function(field) for field in self[1:]))


class Encoder(NamedTuple):
    """The form of the inputs.

    Attributes:
        num_observations: Size of an observation.
        num_actions: Number of actions if they are discrete, else the size of an action.
        is_discrete: Whether actions are discrete.
        has_pairs: Whether the inputs have `pair` and `reward`.
        has_places: Whether the inputs have `place`.
        has_last: Whether the features end with the last observation.
    """

    num_observations: int
    num_actions: int
    is_discrete: bool
    has_pairs: bool = False
    has_places: bool = False
    has_last: bool = False

    @property
    def num_features(self) -> int:
        """Size of the dense input."""
        return self.num_observations * (1 + self.has_last) + self.num_actions + 2

    @property
    def num_pairs(self) -> int:
        """Number of pairs of observation and action; 0 without `has_pairs`."""
        return self.num_observations * self.num_actions * self.has_pairs

    def encode(
        self, observation: Tensor, last_observation: Tensor, last_action: Tensor, last_reward: Tensor, ended: Tensor
    ) -> Inputs:
        """Returns the inputs of the network.

        Args:
            observation: `[..., obs]`.
            last_observation: `[..., obs]`, read with `has_pairs` or `has_last` only.
            last_action: `[...]` int64 or `[..., act]`; at the start of a trial −1 or zeros.
            last_reward: `[...]`; 0 at the start of a trial.
            ended: `[...]` bool: whether the last step ended an episode.
        """
        dtype = observation.dtype
        action = last_action
        if self.is_discrete:
            action = last_action.unsqueeze(-1) == torch.arange(self.num_actions, device=last_action.device)
        scalars = torch.stack([last_reward, ended.to(dtype)], -1)
        parts = [observation, action.to(dtype), scalars]
        features = torch.cat([*parts, last_observation] if self.has_last else parts, -1)
        pair = place = None
        if self.has_pairs:
            pair = last_observation.argmax(-1) * self.num_actions + last_action
            pair = pair.where(last_action >= 0, self.num_pairs)
        if self.has_places:
            place = observation.argmax(-1)
        return Inputs(features, pair, last_reward if self.has_pairs else None, place)
