"""A set as the memory of a policy: the transitions of a trial so far, encoded without regard to their order.

With the transitions z_i = (s_{i−1}, a_{i−1}, r_{i−1}, s_i, whether an episode ended), φ and ρ perceptrons, and
S_t = Σ_{i ≤ t} φ(z_i) of n_t transitions,

    m_t = ρ(S_t / n_t, asinh S_t)

(Zaheer et al. 2017, arXiv:1703.06114, theorem 2; Rakelly et al. 2019, arXiv:1903.08254, for tasks that are Markov
decision processes.) The mean says what the transitions are like, the sum, on a scale that is logarithmic for large
ones, how many of each kind there are. The first step of a trial has no transition: m_0 = ρ(0, 0).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from research.policies.memory.config import MemoryConfig
from research.policies.memory.initial import linear
from research.policies.memory.inputs import Encoder, Inputs
from research.policies.memory.projection import Projection


class Evidence(NamedTuple):
    """The state: the sum over the transitions so far, and the number of steps.

    Attributes:
        total: S, `[rows, hidden]`.
        steps: Number of steps, of which the first one of a trial had no transition, `[rows]` int64.
    """

    total: Tensor
    steps: Tensor


class Transitions(nn.Module):
    """φ of `num_layers` layers with tanh, and ρ of one.

    Args:
        config: The settings.
        encoder: The form of the inputs, with the last observation.
        generator: Source of the initial weights.
    """

    def __init__(self, config: MemoryConfig, encoder: Encoder, generator: torch.Generator):
        super().__init__()
        size = config.hidden_size
        self.input = Projection(encoder, size, generator)
        self.layers = nn.ModuleList(linear(size, size, generator) for _ in range(config.num_layers - 1))
        self.output = linear(2 * size, size, generator)

    def forward(self, inputs: Inputs, state: Evidence) -> tuple[Tensor, Evidence]:
        """Returns the memory after each step, `[time, rows, hidden]`, and the state, for `inputs [time, rows, ...]`."""
        encoded = self.input(inputs).tanh()
        for layer in self.layers:
            encoded = layer(encoded).tanh()
        time = len(encoded)
        seen = (state.steps + torch.arange(time, device=encoded.device).unsqueeze(-1)).unsqueeze(-1)
        total = state.total + (encoded * (seen > 0)).cumsum(0)
        memory = self.output(torch.cat([total / seen.clamp_min(1), total.asinh()], -1)).tanh()
        return memory, Evidence(total[-1], state.steps + time)

    def initial_state(self, rows: int) -> Evidence:
        """Returns the state at the start of a trial."""
        like = self.output.bias
        return Evidence(like.new_zeros(rows, len(like)), torch.zeros(rows, dtype=torch.int64, device=like.device))
