"""A GRU as the memory of a policy, with the projection of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from research.policies.gru_function import gru_recorded
from research.policies.gru_kernel import GRUWeights, gru, project
from research.policies.memory.config import MemoryConfig
from research.policies.memory.initial import glorot, orthogonal
from research.policies.memory.inputs import Encoder, Inputs


class Recurrent(nn.Module):
    """A GRU with its input projection; its state is the memory.

    Args:
        config: The settings.
        encoder: The form of the inputs.
        generator: Source of the initial weights.

    Attributes:
        num_threads: Threads over the rows of a compiled pass; the results do not depend on it.
    """

    num_threads = 1

    def __init__(self, config: MemoryConfig, encoder: Encoder, generator: torch.Generator):
        super().__init__()
        size, num_features = config.hidden_size, encoder.num_features
        self.weight_input = glorot(3 * size, num_features, generator, fan=size + num_features)
        self.bias_input = nn.Parameter(torch.zeros(3 * size))
        self.weight_hidden = nn.Parameter(torch.cat([orthogonal(size, generator) for _ in range(3)]))
        self.bias_hidden = nn.Parameter(torch.zeros(size))
        self.pair: nn.Parameter | None = None
        if encoder.num_pairs:  # one more for the start of a trial; the second half is multiplied by the reward
            self.pair = glorot(2 * (encoder.num_pairs + 1), 3 * size, generator, fan=size + num_features)
        self.norm_input = nn.LayerNorm(3 * size) if config.layer_norm else None
        self.norm_hidden = nn.LayerNorm(3 * size) if config.layer_norm else None
        self.start = nn.Parameter(torch.zeros(size)) if config.learn_start else None

    def forward(self, inputs: Inputs, state: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the states after each step, `[time, rows, hidden]`, and the last one, for `inputs [time, rows, ...]`.

        The state before the first step is `[rows, hidden]`.
        """
        weights = GRUWeights(self.weight_input, self.bias_input, self.weight_hidden, self.bias_hidden, self.pair)
        constants = (inputs.features, inputs.pair, inputs.reward)
        if self.norm_input is None or self.norm_hidden is None:
            states = gru(*constants, state, weights, self.num_threads)
        else:
            gates = self.norm_input(project(*constants, weights))
            states = gru_recorded(gates, state, self.weight_hidden, self.bias_hidden, self.norm_hidden)
        return states, states[-1]

    def initial_state(self, rows: int) -> Tensor:
        """Returns the state at the start of a trial, `[rows, hidden]`."""
        start = self.bias_hidden.new_zeros(len(self.bias_hidden)) if self.start is None else self.start
        return start.expand(rows, -1)
