"""Linear layers whose parameters the caller sets."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

L = TypeVar("L", bound=nn.Linear)


def unset_linear(kind: type[L], inputs: int, outputs: int) -> L:
    """Returns a linear layer with arbitrary parameters; torch's own generator stays as it was.

    `nn.utils.skip_init` does the same by way of the device `meta`, whose first use imports sympy: half a second.

    Args:
        kind: The class of the layer.
        inputs: Number of inputs.
        outputs: Number of outputs.
    """
    with torch.random.fork_rng(devices=[]):
        return kind(inputs, outputs)
