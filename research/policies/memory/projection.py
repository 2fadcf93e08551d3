"""The linear map of the inputs into a memory, with a table for pairs of observation and action."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from research.policies.gru_kernel import project_inputs
from research.policies.memory.initial import glorot
from research.policies.memory.inputs import Encoder, Inputs


class Projection(nn.Module):
    """W f + b + P[pair] + reward · R[pair], for the features f of the inputs.

    Args:
        encoder: The form of the inputs.
        size: Size of the result.
        generator: Source of the initial weights.
    """

    def __init__(self, encoder: Encoder, size: int, generator: torch.Generator):
        super().__init__()
        fan = size + encoder.num_features
        self.weight = glorot(size, encoder.num_features, generator, fan)
        self.bias = nn.Parameter(torch.zeros(size))
        self.pair: nn.Parameter | None = None
        if encoder.num_pairs:  # one more for the start of a trial; the second half is multiplied by the reward
            self.pair = glorot(2 * (encoder.num_pairs + 1), size, generator, fan)

    def forward(self, inputs: Inputs) -> Tensor:
        """Returns the result, `[..., size]`. The inputs are constants."""
        return project_inputs(inputs.features, inputs.pair, inputs.reward, self.weight, self.bias, self.pair)
