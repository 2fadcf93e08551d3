"""Heads: functions from the memory m and the observation x to the outputs of a policy or a value.

With φ the activation and layers l = 1 … L:

    state   a perceptron on (m, x)
    film    h_l = φ(γ_l(m) ∘ (W_l h_{l−1} + b_l) + β_l(m)),  h_0 = x,  the output W_L h_{L−1} + b_L
            (Perez et al. 2018, arXiv:1709.07871, equation 1), with γ and β affine, γ = 1 and β = 0 at the start
    hyper   h_l = φ(W_l(m) h_{l−1} + b_l(m)),  the output without φ; W and b affine in m
            (Ha et al. 2017, arXiv:1609.09106), with the initialisation of Beck et al. 2022, arXiv:2210.11348

Every leading axis is a batch: each row and step has a memory, so that `hyper` gives each of them weights of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from research.policies.layers import unset_linear
from research.policies.memory.config import MemoryConfig
from research.policies.memory.generated import generated_linear
from research.policies.memory.initial import linear

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}


class StateHead(nn.Module):
    """A perceptron on memory and observation (RNN+S of Beck et al. 2023, arXiv:2309.14970).

    Args:
        config: The settings.
        sizes: Sizes of memory, observation and output.
        generator: Source of the initial weights.
        output_scale: Factor on the initial weights of the last layer.
    """

    def __init__(
        self, config: MemoryConfig, sizes: tuple[int, int, int], generator: torch.Generator, output_scale: float
    ):
        super().__init__()
        memory, observation, output = sizes
        self.activation = _ACTIVATIONS[config.head_activation]
        widths = (memory + observation, *config.head_hidden_sizes, output)
        self.layers = nn.ModuleList(_layers(widths, generator, output_scale))

    def forward(self, memory: Tensor, observation: Tensor) -> Tensor:
        """Returns the outputs, `[..., output]`."""
        hidden = torch.cat([memory, observation], -1)
        *layers, last = self.layers
        for layer in layers:
            hidden = self.activation(layer(hidden))
        outputs: Tensor = last(hidden)
        return outputs


class FilmHead(nn.Module):
    """A perceptron on the observation whose hidden units the memory scales and shifts; see `StateHead` for `Args`."""

    def __init__(
        self, config: MemoryConfig, sizes: tuple[int, int, int], generator: torch.Generator, output_scale: float
    ):
        super().__init__()
        memory, observation, output = sizes
        self.activation, self.widths = _ACTIVATIONS[config.head_activation], config.head_hidden_sizes
        self.layers = nn.ModuleList(_layers((observation, *self.widths, output), generator, output_scale))
        total = sum(self.widths)
        self.film = unset_linear(nn.Linear, memory, 2 * total)
        with torch.no_grad():  # the identity: factors 1, addends 0
            self.film.weight.zero_()
            self.film.bias[:total], self.film.bias[total:] = 1.0, 0.0

    def forward(self, memory: Tensor, observation: Tensor) -> Tensor:
        """Returns the outputs, `[..., output]`."""
        factors, addends = (part.split(self.widths, -1) for part in self.film(memory).chunk(2, -1))
        hidden = observation
        *layers, last = self.layers
        for layer, factor, addend in zip(layers, factors, addends, strict=True):
            hidden = self.activation(torch.addcmul(addend, factor, layer(hidden)))
        outputs: Tensor = last(hidden)
        return outputs


class HyperHead(nn.Module):
    """A perceptron on the observation whose weights the memory generates; see `StateHead` for `Args`."""

    def __init__(
        self, config: MemoryConfig, sizes: tuple[int, int, int], generator: torch.Generator, output_scale: float
    ):
        super().__init__()
        memory, observation, output = sizes
        self.activation = _ACTIVATIONS[config.head_activation]
        self.embedding = linear(memory, config.hyper_size, generator) if config.hyper_size else None
        widths = (observation, *config.head_hidden_sizes, output)
        ordinary = _layers(widths, generator, output_scale)
        generators = [GeneratedLinear(config.hyper_size or memory, layer) for layer in ordinary]
        if config.hyper_init == "kaiming":
            for layer in generators:
                layer.initialise_as_he(generator)
        self.layers = nn.ModuleList(generators)

    def forward(self, memory: Tensor, observation: Tensor) -> Tensor:
        """Returns the outputs, `[..., output]`."""
        if self.embedding is not None:
            memory = self.embedding(memory)
        memory, hidden = memory.flatten(0, -2), observation.flatten(0, -2)
        *layers, last = self.layers
        for layer in layers:
            hidden = self.activation(layer(memory, hidden))
        outputs: Tensor = last(memory, hidden)
        return outputs.unflatten(0, observation.shape[:-1])


class GeneratedLinear(nn.Module):
    """y = W(m) x + b(m), with W and b affine in m: for each row its own weights.

    It starts by Bias-HyperInit: W and b are those of a given layer, whatever m is.

    Args:
        memory: Size of m.
        layer: The layer that the generated weights equal at the start.
    """

    def __init__(self, memory: int, layer: nn.Linear):
        super().__init__()
        weights = torch.cat([layer.weight, layer.bias.unsqueeze(-1)], -1)  # [output, input + 1]
        self.weight = nn.Parameter(torch.zeros(*weights.shape, memory))
        self.bias = nn.Parameter(weights.detach().clone())

    @torch.no_grad()
    def initialise_as_he(self, generator: torch.Generator) -> None:
        """Draws the generating weights as He et al. 2015 (arXiv:1502.01852) do, U(±√(6 / inputs)), with biases 0."""
        bound = math.sqrt(6.0 / self.weight.shape[-1])
        self.weight.uniform_(-bound, bound, generator=generator)
        self.bias.zero_()

    def generate(self, memory: Tensor) -> Tensor:
        """Returns (W, b) of each row, `[rows, output, input + 1]`."""
        return F.linear(memory, self.weight.flatten(0, 1), self.bias.flatten()).unflatten(-1, self.bias.shape)

    def forward(self, memory: Tensor, inputs: Tensor) -> Tensor:
        """Returns y, `[rows, output]`, for `memory [rows, memory]` and `inputs [rows, input]`."""
        return generated_linear(memory, inputs, self.weight, self.bias)


HEADS: dict[str, type[StateHead | FilmHead | HyperHead]] = {"state": StateHead, "film": FilmHead, "hyper": HyperHead}
"""The heads that have a module of their own; the linear head's parameters belong to the policy."""


def linear_outputs(memory: Tensor, weight: Tensor, bias: Tensor, place: Tensor | None, places: int) -> Tensor:
    """Returns weight · memory + bias, `[..., output]`, with the rows of the observed state if there are several states.

    Args:
        memory: `[..., memory]`.
        weight: `[places · output, memory]`.
        bias: `[places · output]`.
        place: Index of the observed state, `[...]`; None where all states share the weights.
        places: Number of states.
    """
    outputs = F.linear(memory, weight, bias)
    if place is None:
        return outputs
    outputs = outputs.unflatten(-1, (places, -1))
    index = place[..., None, None].expand(*place.shape, 1, outputs.shape[-1])
    return outputs.gather(-2, index).squeeze(-2)


def _layers(widths: tuple[int, ...], generator: torch.Generator, output_scale: float) -> list[nn.Linear]:
    """Returns the layers of a perceptron, Glorot's, the last one times `output_scale`."""
    pairs = list(itertools.pairwise(widths))
    scales = [1.0] * (len(pairs) - 1) + [output_scale]
    return [linear(*pair, generator, scale) for pair, scale in zip(pairs, scales, strict=True)]


__all__ = ["HEADS", "FilmHead", "GeneratedLinear", "HyperHead", "StateHead", "linear_outputs"]
