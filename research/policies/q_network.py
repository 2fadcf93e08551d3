"""Networks for the values of discrete actions. They know no environment and no loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn

from research.policies.mlp import ACTIVATIONS, MLP, check_layers, mlp


@dataclass(frozen=True)
class QNetworkConfig:
    """Settings of a Q-network.

    Attributes:
        hidden_sizes: Units of each hidden layer.
        activation: `"relu"` or `"tanh"`.
        dueling: Whether the last hidden layer and the output are separate for value and advantages, see
            `DuelingQNetwork`.
    """

    hidden_sizes: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    dueling: bool = False

    def __post_init__(self) -> None:
        check_layers(self)
        if self.dueling and not self.hidden_sizes:
            raise ValueError(
                "dueling=True: need at least 1 hidden layer, the streams for value and advantages have one"
            )


class QNetwork(nn.Module):
    """Observations `[..., obs]` → Q(s, ·) of every action, `[..., actions]`, as one MLP."""

    accepts_task_axis = True

    def __init__(self, sizes: Sequence[int], activation: str, *, generator: torch.Generator):
        super().__init__()
        self.value: MLP = mlp(sizes, activation, generator)

    def forward(self, observation: Tensor) -> Tensor:
        values: Tensor = self.value(observation)
        return values


class DuelingQNetwork(nn.Module):
    """Observations `[..., obs]` → Q(s, a) = V(s) + A(s, a) − mean_a' A(s, a'), `[..., actions]`.

    Wang et al. 2016, arXiv:1511.06581, eq. 9. V and A share all hidden layers except the last.
    """

    accepts_task_axis = True

    def __init__(self, sizes: Sequence[int], activation: str, *, generator: torch.Generator):
        super().__init__()
        *shared, last, actions = sizes
        self.body = nn.Sequential()
        if len(shared) > 1:
            self.body = nn.Sequential(mlp(shared, activation, generator), ACTIVATIONS[activation]())
        self.state_value = mlp((shared[-1], last, 1), activation, generator)
        self.advantage = mlp((shared[-1], last, actions), activation, generator)

    def forward(self, observation: Tensor) -> Tensor:
        features = self.body(observation)
        advantage: Tensor = self.advantage(features)
        value: Tensor = self.state_value(features)
        return value + advantage - advantage.mean(-1, keepdim=True)


def make_q_network(
    config: QNetworkConfig,
    observation_space: gymnasium.spaces.Box,
    action_space: gymnasium.Space[Any],
    generator: torch.Generator,
) -> QNetwork | DuelingQNetwork:
    """Returns a Q-network for these spaces.

    Raises:
        ValueError: The actions are not Discrete.
    """
    if not isinstance(action_space, gymnasium.spaces.Discrete):
        raise ValueError(
            f"action space {action_space}: need Discrete, a Q-network has an output for each action; use a policy "
            "gradient (maml_trpo, maml_ppo, rl2) for others, or a task with discrete actions"
        )
    sizes = (math.prod(observation_space.shape), *config.hidden_sizes, int(action_space.n))
    kind = DuelingQNetwork if config.dueling else QNetwork
    return kind(sizes, config.activation, generator=generator)
