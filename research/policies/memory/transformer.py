"""A causal transformer as the memory of a policy: every step attends to all steps of its trial so far.

With e_t the projected input of step t, pre-norm blocks (Vaswani et al. 2017, arXiv:1706.03762; Xiong et al. 2020,
arXiv:2002.04745) and positions by rotation of queries and keys (Su et al. 2021, arXiv:2104.09864) or a learned table P:

    x ← e (+ P);  in each block x ← x + O attention(Q, K, V of norm(x)), x ← x + D gelu(U norm(x));  memory = norm(x)

The position of a step is its index in the trial, through the ends of episodes. The state is the cache of keys and
values: a trial that is read step by step computes those of each step once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from research.policies.memory.attention import attention, rotate
from research.policies.memory.config import MemoryConfig, check_context
from research.policies.memory.initial import glorot, linear
from research.policies.memory.inputs import Encoder, Inputs
from research.policies.memory.projection import Projection


class Cache(NamedTuple):
    """Keys and values of the steps so far.

    Attributes:
        keys: `[rows, layers, heads, capacity, size]`.
        values: Tensor like `keys`.
        length: Number of steps, int64 without axes; what is beyond it has no meaning.
    """

    keys: Tensor
    values: Tensor
    length: Tensor


class Transformer(nn.Module):
    """Blocks of attention and perceptron on the projected inputs.

    Args:
        config: The settings.
        encoder: The form of the inputs.
        generator: Source of the initial weights.
        longest: Most steps of a trial of training.
    """

    def __init__(self, config: MemoryConfig, encoder: Encoder, generator: torch.Generator, longest: int):
        super().__init__()
        size = config.hidden_size
        self.config, self.longest, self.is_rotary = config, longest, config.positions == "rotary"
        self.shape = (config.num_layers, config.num_attention_heads)
        self.input = Projection(encoder, size, generator)
        # Not 0: inputs can be 0 at the start of a trial, and a norm's derivative at 0 is 1 / √ε, in each block again.
        self.input.bias = nn.Parameter(glorot(1, size, generator, size + encoder.num_features).detach()[0])
        self.blocks = nn.ModuleList(Block(config, generator) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(size)
        self.positions: nn.Parameter | None = None
        if not self.is_rotary:
            entries = config.context_length or longest
            self.positions = nn.Parameter(0.02 * torch.randn(entries, size, generator=generator))

    def forward(self, inputs: Inputs, state: Cache) -> tuple[Tensor, Cache]:
        """Returns the memory after each step, `[time, rows, hidden]`, and the cache, for `inputs [time, rows, ...]`.

        One step without a graph writes into the given cache, which is then used up: no other step can follow it.

        Raises:
            ValueError: The trial is longer than the context.
        """
        first, time = int(state.length), len(inputs.features)
        check_context(self.config, self.longest, first + time)
        hidden = self.input(inputs).transpose(0, 1).contiguous()
        if self.positions is not None:
            hidden = hidden + self.positions[first : first + time]
        if time == 1 and not torch.is_grad_enabled():
            cache = self._with_room(state, first)
            for index, block in enumerate(self.blocks):
                hidden = block.step(hidden, cache, index, first, self.is_rotary)  # type: ignore[operator]
            return self.norm(hidden).transpose(0, 1), cache._replace(length=state.length + 1)
        keys, values = [], []
        for index, block in enumerate(self.blocks):
            past = tuple(leaf[:, index, :, :first] for leaf in (state.keys, state.values))
            hidden, key, value = block(hidden, past, first, self.is_rotary)
            keys.append(key)
            values.append(value)
        cache = Cache(torch.stack(keys, 1), torch.stack(values, 1), state.length + time)
        return self.norm(hidden).transpose(0, 1), cache

    def initial_state(self, rows: int) -> Cache:
        """Returns the empty cache. The first step that is read alone makes room for a trial of training."""
        layers, heads = self.shape
        empty = self.norm.weight.new_zeros(rows, layers, heads, 0, len(self.norm.weight) // heads)
        return Cache(empty, empty, torch.zeros((), dtype=torch.int64))

    def _with_room(self, state: Cache, first: int) -> Cache:
        """Returns the cache with room for another step, then for a trial of training, or for as many steps again."""
        if state.keys.shape[3] > first:
            return state

        def grown(leaf: Tensor) -> Tensor:
            rows, layers, heads, _, size = leaf.shape
            larger = leaf.new_empty(rows, layers, heads, max(self.longest, 2 * first, 1), size)
            larger[:, :, :, :first] = leaf[:, :, :, :first]
            return larger

        return Cache(grown(state.keys), grown(state.values), state.length)


class Block(nn.Module):
    """One block; the weights of its two last products are smaller with more blocks, as in GPT-2 (Radford et al. 2019).

    Args:
        config: The settings.
        generator: Source of the initial weights.
    """

    def __init__(self, config: MemoryConfig, generator: torch.Generator):
        super().__init__()
        size, scale = config.hidden_size, (2 * config.num_layers) ** -0.5
        self.heads = config.num_attention_heads
        self.norm_attention, self.norm_perceptron = nn.LayerNorm(size), nn.LayerNorm(size)
        self.project = linear(size, 3 * size, generator)
        self.output = linear(size, size, generator, scale)
        self.up = linear(size, 4 * size, generator)
        self.down = linear(4 * size, size, generator, scale)

    def forward(
        self, hidden: Tensor, past: tuple[Tensor, Tensor], first: int, is_rotary: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the next x, `[rows, time, hidden]`, and keys and values from the start of the trial on.

        Args:
            hidden: x.
            past: Keys and values of earlier steps, `[rows, heads, first, size]`.
            first: Number of earlier steps.
            is_rotary: Whether queries and keys are rotated.
        """
        query, key, value = self._parts(hidden, first, is_rotary)
        if first:
            key, value = (torch.cat(pair, 2) for pair in zip(past, (key, value), strict=True))
        return self._outputs(hidden, attention(query, key, value)), key, value

    def step(self, hidden: Tensor, cache: Cache, index: int, first: int, is_rotary: bool) -> Tensor:
        """Returns the next x, `[rows, 1, hidden]`; writes key and value of block `index` into the cache."""
        query, key, value = self._parts(hidden, first, is_rotary)
        keys, values = (leaf[:, index, :, : first + 1] for leaf in (cache.keys, cache.values))
        keys[:, :, -1], values[:, :, -1] = key.squeeze(2), value.squeeze(2)
        return self._outputs(hidden, attention(query, keys, values))

    def _parts(self, hidden: Tensor, first: int, is_rotary: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query, key and value, `[rows, heads, time, size]`."""
        parts = self.project(self.norm_attention(hidden)).unflatten(-1, (3, self.heads, -1))
        turned = parts[..., :2, :, :]
        if is_rotary:
            turned = rotate(turned, first)
        query, key = turned.unbind(-3)
        return query.transpose(1, 2), key.transpose(1, 2), parts[..., 2, :, :].transpose(1, 2)

    def _outputs(self, hidden: Tensor, attended: Tensor) -> Tensor:
        hidden = hidden + self.output(attended.transpose(1, 2).flatten(2))
        outputs: Tensor = hidden + self.down(F.gelu(self.up(self.norm_perceptron(hidden))))
        return outputs
