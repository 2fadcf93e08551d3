"""Multilayer perceptron policies. They know no environment and no loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from research.distributions import Categorical, DiagGaussian
from research.policies.layers import unset_linear
from research.policies.mlp_function import DERIVATIVES, affine, mlp_function, mlp_output
from research.validation import at_least, one_of

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


def check_layers(config: Any) -> None:
    """Raises ValueError if `hidden_sizes` or `activation` of a config is impossible."""
    if any(size < 1 for size in config.hidden_sizes):
        raise ValueError(f"hidden_sizes={config.hidden_sizes}: need at least 1 unit in every layer")
    one_of(config, "activation", tuple(ACTIVATIONS))


GAUSSIAN_SETTINGS = ("init_log_std", "min_log_std")
"""Settings of policies that continuous actions read, and discrete ones do not."""


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


class TaskLinear(nn.Linear):
    """A linear layer whose parameters may have a leading `[tasks]` axis: a batched matrix product.

    With `weight [tasks, out, in]` the input is `[tasks, ..., in]`, and each task uses its own weights.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        if self.weight.ndim == 2:
            # F.linear gives the same numbers, but under vmap it takes nearly twice as long.
            return (affine if inputs.ndim == 2 else F.linear)(inputs, self.weight, self.bias)
        return affine(inputs.flatten(1, -2), self.weight, self.bias).unflatten(1, inputs.shape[1:-1])


class MLP(nn.Sequential):
    """Linear layers with an activation between them; one node of the autograd graph if gradients are needed."""

    def layers(self) -> tuple[list[Tensor], list[Tensor], type[nn.Module] | None]:
        """Returns weights, biases, and the class of all activations if `mlp_function` has it and applies, else None.

        A slice of the module that ends with an activation has None, too. `higher` makes subclasses of the activations.
        """
        modules = list(self)
        linear, between = cast(list[TaskLinear], modules[::2]), modules[1::2]
        kinds = (kind for kind in DERIVATIVES if all(isinstance(module, kind) for module in between))
        kind = next(kinds, None) if len(modules) % 2 else None
        return [layer.weight for layer in linear], [layer.bias for layer in linear], kind

    def forward(self, inputs: Tensor) -> Tensor:
        weights, biases, activation = self.layers()
        if activation is not None and weights[0].ndim == 3 and not torch.is_grad_enabled():  # actions are chosen here
            outputs = mlp_output(inputs.flatten(1, -2), weights, biases, activation)
            return outputs.unflatten(1, inputs.shape[1:-1])
        if activation is None or not _one_node(inputs, weights):
            return cast(Tensor, super().forward(inputs))  # type: ignore[no-untyped-call]
        tasks = weights[0].ndim - 2
        outputs = mlp_function(inputs.flatten(tasks, -2), weights, biases, activation)
        return outputs.unflatten(tasks, inputs.shape[tasks:-1])


def _one_node(inputs: Tensor, weights: Sequence[Tensor]) -> bool:
    """Returns whether `mlp_function` applies: gradients are needed for the parameters, and not for the inputs."""
    if not torch.is_grad_enabled() or inputs.requires_grad or inputs.ndim < weights[0].ndim:
        return False
    return all(w.ndim == weights[0].ndim for w in weights) and not any(
        torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in (inputs, *weights)
    )


def mlp(sizes: Sequence[int], activation: str, generator: torch.Generator, output_scale: float = 1.0) -> MLP:
    """Returns linear layers of the given sizes with the activation between them.

    Initial weights are Glorot-uniform, those of the last layer times `output_scale`; biases are 0.

    Raises:
        ValueError: The activation is unknown, or a size is below 1.
    """
    one_of({"activation": activation}, "activation", tuple(ACTIVATIONS))
    if any(size < 1 for size in sizes):
        raise ValueError(f"layer sizes {tuple(sizes)}: need at least 1 unit in every layer")
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        linear = unset_linear(TaskLinear, fan_in, fan_out)
        bound = math.sqrt(6.0 / (fan_in + fan_out))
        with torch.no_grad():
            linear.weight.uniform_(-bound, bound, generator=generator)
            linear.bias.zero_()
        layers += [linear, ACTIVATIONS[activation]()]
    with torch.no_grad():
        linear.weight.mul_(output_scale)
    return MLP(*layers[:-1])


class GaussianMLP(nn.Module):
    """Observation → normal distribution: the mean is the output of an MLP, the standard deviation a parameter.

    Args:
        num_observations: Size of an observation.
        num_actions: Size of an action.
        config: The settings.
        generator: Source of the initial weights.
    """

    accepts_task_axis = True

    def __init__(self, num_observations: int, num_actions: int, config: PolicyConfig, generator: torch.Generator):
        super().__init__()
        sizes = (num_observations, *config.hidden_sizes, num_actions)
        self.mean = mlp(sizes, config.activation, generator, config.output_scale)
        self.log_std = nn.Parameter(torch.full((num_actions,), float(config.init_log_std)))
        self.min_log_std = config.min_log_std

    def forward(self, observation: Tensor) -> DiagGaussian:
        return self.distribution(self.mean(observation), self.log_std)

    def distribution(self, mean: Tensor, log_std: Tensor) -> DiagGaussian:
        """Returns the distribution with this mean, `[..., act]`, and the parameter `log_std`, `[act]` or per task."""
        log_std = log_std.clamp_min(self.min_log_std)
        if log_std.ndim == 2:  # one for each task
            log_std = log_std.reshape(-1, *[1] * (mean.ndim - 2), log_std.shape[-1])
        return DiagGaussian(mean, log_std.expand_as(mean))


class CategoricalMLP(nn.Module):
    """Observation → distribution over `num_actions` discrete actions. Arguments as for `GaussianMLP`."""

    accepts_task_axis = True

    def __init__(self, num_observations: int, num_actions: int, config: PolicyConfig, generator: torch.Generator):
        super().__init__()
        sizes = (num_observations, *config.hidden_sizes, num_actions)
        self.logits = mlp(sizes, config.activation, generator, config.output_scale)

    def forward(self, observation: Tensor) -> Categorical:
        return Categorical(self.logits(observation))
