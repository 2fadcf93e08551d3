"""The settings of a policy with memory, and which of them fit the spaces of a task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium

from research.policies.mlp import GAUSSIAN_SETTINGS
from research.spaces import OneHot, is_constant
from research.validation import at_least, choices, refuse_unread


@dataclass(frozen=True)
class MemoryConfig:
    """Settings of a policy with memory.

    Attributes:
        hidden_size: Units of the memory.
        memory: `"gru"`; `"transformer"`, which attends to all steps of the trial; or `"set"`, an encoder of the
            transitions of the trial that does not know their order.
        head: The function from memory and observation to the action. `"linear"` reads the memory alone. `"state"` is a
            perceptron on both. `"film"` is a perceptron on the observation, the memory gives a factor and an addend of
            each hidden unit (Perez et al. 2018, arXiv:1709.07871). `"hyper"` is a perceptron on the observation, the
            memory gives all its weights (Ha et al. 2017, arXiv:1609.09106; Beck et al. 2022, arXiv:2210.11348).
        head_hidden_sizes: Units of each hidden layer of such a perceptron.
        head_activation: Activation of its hidden layers.
        hyper_init: Initial hypernetwork. `"bias"` (Bias-HyperInit, Beck et al. 2022): the generated weights are the
            same for every memory and equal to an ordinary initialisation. `"kaiming"`: He's for the layer that
            generates them, a control under which the generated weights have the wrong size.
        hyper_size: Units of a linear map of the memory that the hypernetwork reads; 0: it reads the memory itself.
        num_layers: Blocks of the transformer, or layers of the encoder of a transition of the set; a GRU has one.
        num_attention_heads: Heads of attention of each block of the transformer; they divide `hidden_size`.
        context_length: Most steps that the transformer reads; longer trials are refused. 0: with rotary positions, no
            limit; with learned ones, whose table has so many entries, the steps of a trial of training.
        positions: Positions of steps in the transformer: `"rotary"` (Su et al. 2021, arXiv:2104.09864) or a `"learned"`
            table.
        belief_size: Dimensions of a Gaussian belief: linear maps of the memory give its mean and log-variance, and the
            head reads both, not the memory. 0 for none.
        belief_gradient: Whether the gradient of the policy reaches the memory through the belief.
        separate_value: Whether the value has a memory of its own, or reads that of the policy.
        layer_norm: Whether both products of the GRU's cell, with the input and with the state, are layer-normalised
            (Ba et al. 2016, arXiv:1607.06450). Several times slower, as it has no fused backward pass.
        learn_start: Whether the GRU's state at the start of a trial is learned, or 0.
        outer_input: Whether the input also has onehot(s, a) and reward · onehot(s, a) of the last step. It needs
            one-hot (or constant) observations and discrete actions.
        per_state_heads: Whether each state has output weights of its own: head `"hyper"` without hidden layers on
            one-hot observations, less its shared bias, by table look-up. It needs one-hot (or constant) observations.
        output_scale: Factor on the initial output weights of the policy (Glorot's): with less than 1, the first actions
            hardly depend on the input. `hyper_init="kaiming"` does not read it.
        init_log_std: Initial log standard deviation (continuous actions).
        min_log_std: Lower limit of the log standard deviation (continuous actions).
    """

    hidden_size: int = 64
    memory: Literal["gru", "transformer", "set"] = "gru"
    head: Literal["linear", "state", "film", "hyper"] = "linear"
    head_hidden_sizes: tuple[int, ...] = (64,)
    head_activation: Literal["tanh", "relu"] = "tanh"
    hyper_init: Literal["bias", "kaiming"] = "bias"
    hyper_size: int = 0
    num_layers: int = 1
    num_attention_heads: int = 4
    context_length: int = 0
    positions: Literal["rotary", "learned"] = "rotary"
    belief_size: int = 0
    belief_gradient: bool = False
    separate_value: bool = False
    layer_norm: bool = False
    learn_start: bool = False
    outer_input: bool = False
    per_state_heads: bool = False
    output_scale: float = 0.01
    init_log_std: float = 0.0
    min_log_std: float = math.log(1e-6)

    def __post_init__(self) -> None:
        choices(self)
        at_least(self, 1, "hidden_size", "num_layers", "num_attention_heads")
        at_least(self, 0, "output_scale", "hyper_size", "belief_size", "context_length")
        if any(size < 1 for size in self.head_hidden_sizes):
            raise ValueError(f"head_hidden_sizes={self.head_hidden_sizes}: need at least 1 unit in every layer")
        if self.head == "film" and not self.head_hidden_sizes:
            raise ValueError("head_hidden_sizes=(): head='film' modulates hidden layers; need at least one")
        if self.init_log_std < self.min_log_std:
            raise ValueError(f"init_log_std={self.init_log_std}: need at least min_log_std={self.min_log_std}")
        for key, (owner, needed) in _OWNERS.items():
            if getattr(self, owner) not in needed:
                allowed = " or ".join(f"{owner}={name!r}" for name in needed)
                refuse_unread(self, (key,), f"it is for {allowed}, got {owner}={getattr(self, owner)!r}")
        if not self.head_hidden_sizes:
            refuse_unread(self, ("head_activation",), "it is for hidden layers, got head_hidden_sizes=()")
        if self.hyper_init == "kaiming":
            refuse_unread(self, ("output_scale",), "hyper_init='kaiming' has a scale of its own")
        if self.memory == "transformer":
            self._check_attention()
        if self.belief_gradient and not self.belief_size:
            raise ValueError("belief_gradient=True: there is no belief; need belief_size of at least 1, or False")

    def _check_attention(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads}: need a divisor of hidden_size={self.hidden_size}"
            )
        if self.positions == "rotary" and self.hidden_size // self.num_attention_heads % 2:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads}: positions='rotary' turns pairs of dimensions; need "
                f"hidden_size / num_attention_heads even, got hidden_size={self.hidden_size}"
            )


_PERCEPTRONS = ("state", "film", "hyper")
_OWNERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "head_hidden_sizes": ("head", _PERCEPTRONS),
    "head_activation": ("head", _PERCEPTRONS),
    "hyper_init": ("head", ("hyper",)),
    "hyper_size": ("head", ("hyper",)),
    "per_state_heads": ("head", ("linear",)),
    "num_layers": ("memory", ("transformer", "set")),
    "num_attention_heads": ("memory", ("transformer",)),
    "context_length": ("memory", ("transformer",)),
    "positions": ("memory", ("transformer",)),
    "layer_norm": ("memory", ("gru",)),
    "learn_start": ("memory", ("gru",)),
}
"""Setting → the setting whose choices read it, and those choices."""


def check_spaces(config: MemoryConfig, observations: gymnasium.spaces.Box, actions: gymnasium.Space[Any]) -> None:
    """Raises ValueError if `make_memory_policy` cannot make a policy for these spaces."""
    if not isinstance(actions, (gymnasium.spaces.Discrete, gymnasium.spaces.Box)):
        raise ValueError(f"task: its actions are {actions}; there are policies for Box and Discrete actions only")
    if isinstance(actions, gymnasium.spaces.Discrete):
        refuse_unread(config, GAUSSIAN_SETTINGS, f"it is for continuous actions, got {actions}", prefix="policy.")
    if config.outer_input and not isinstance(actions, gymnasium.spaces.Discrete):
        raise ValueError(f"policy.outer_input=True: it is for discrete actions, got {actions}; need False")
    never_changes = is_constant(observations)
    if config.memory == "set" and config.head == "linear" and not (never_changes or config.per_state_heads):
        raise ValueError(
            "policy.head='linear': with policy.memory='set' no action would depend on the observation, which the set "
            "of transitions does not single out; need 'state', 'film' or 'hyper'"
        )
    for name in ("outer_input", "per_state_heads"):
        if getattr(config, name) and not (isinstance(observations, OneHot) or never_changes):
            raise ValueError(
                f"policy.{name}=True: it is for one-hot observations (research.spaces.OneHot), got {observations}; "
                "need False"
            )


def context_of(config: MemoryConfig, longest: int) -> int | None:
    """Returns the most steps that a transformer can read; None without a limit.

    Args:
        config: The settings.
        longest: Most steps of a trial of training.
    """
    if config.context_length:
        return config.context_length
    return None if config.positions == "rotary" else longest


def check_context(config: MemoryConfig, longest: int, steps: int, of: str = "") -> None:
    """Raises ValueError if a transformer cannot read a trial.

    Args:
        config: The settings of the policy.
        longest: Most steps of a trial of training.
        steps: Steps of the trial.
        of: Which trial it is, for the message, e.g. " of an evaluation".
    """
    limit = context_of(config, longest) if config.memory == "transformer" else None
    if limit is not None and steps > limit:
        advice = "" if config.positions == "rotary" else ", or policy.positions='rotary', which has no table"
        raise ValueError(f"policy.context_length={limit}: need at least {steps}, the steps of a trial{of}{advice}")
