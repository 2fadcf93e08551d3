"""PPO's loss on the outputs of a network with its terms, as one node of the autograd graph: ppo_loss.c.

The outputs may come from any head. `losses.py` has the same loss by torch's operations, which is the reference, and
what is used without a compiler, on other devices and for other dtypes.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from research import native
from research.distributions import Categorical, DiagGaussian, Distribution

_SOURCE = Path(__file__).with_name("ppo_loss.c")
_MATHS = ("-Wl,--no-as-needed", "-lm")
_NUMBERS = ("steps", "size", "is_gaussian", "output_row", "value_row")
_POINTERS = (
    *("output", "value", "log_std", "action", "log_prob", "advantage", "target", "valid"),
    *("to_output", "to_value", "to_log_std", "terms"),
)


class Coefficients(NamedTuple):
    """ε of the clip, c_H of the entropy and c_v of the value."""

    clip: float
    entropy: float
    value: float


class Samples(NamedTuple):
    """The sampled steps, `[rows, time, ...]`, fastest if time leads in memory.

    Attributes:
        action: The actions: `[rows, time, act]`, or `[rows, time]` int64.
        log_prob: Their log-probabilities under the policy that took them.
        advantage: Their advantages.
        target: Targets of the value.
        valid: Whether a step counts; others are not read.
    """

    action: Shaped[Tensor, "rows time *_"]
    log_prob: Float[Tensor, "rows time"]
    advantage: Float[Tensor, "rows time"]
    target: Float[Tensor, "rows time"]
    valid: Bool[Tensor, "rows time"]


def ppo_loss(
    distribution: Distribution, value: Float[Tensor, "rows time"], samples: Samples, coefficients: Coefficients
) -> tuple[Tensor, Tensor] | None:
    """Returns PPO's loss and its terms `[policy, value, entropy, kl, clip fraction]`, or None where torch computes it.

    The loss is differentiable once in the logits or means, the log standard deviation and the value. That deviation has
    to be the same for all steps.

    Raises:
        IndexError: The network has no such action.
    """
    if not _fits(distribution, value, samples):
        return None
    log_std = distribution.log_std[0, 0] if isinstance(distribution, DiagGaussian) else None
    outputs: Tensor = distribution[0]  # type: ignore[index]
    loss, terms = _Loss.apply(outputs, value, log_std, samples, coefficients)  # type: ignore[no-untyped-call]
    return loss, terms


def _fits(distribution: Distribution, value: Tensor, samples: Samples) -> bool:
    """Returns whether ppo_loss.c can read the tensors: it takes their shapes and dtype from the value."""
    if not isinstance(distribution, (Categorical, DiagGaussian)) or not value.is_cpu or not value.numel():
        return False
    outputs, action = distribution[0], samples.action
    shape, dtype = outputs.shape[:-1], outputs.dtype
    if isinstance(distribution, DiagGaussian):
        sizes_and_strides = list(zip(shape, distribution.log_std.stride(), strict=False))
        if any(size > 1 and stride for size, stride in sizes_and_strides):
            return False
        if not distribution.log_std.shape == action.shape == outputs.shape:
            return False
    elif action.dtype != torch.int64 or action.shape != shape:
        return False
    reals = [value, *distribution, *samples[1:4], *([action] if isinstance(distribution, DiagGaussian) else [])]
    alike = all(leaf.dtype == dtype and leaf.is_cpu for leaf in reals)
    fit = all(leaf.shape == shape for leaf in (value, *samples[1:])) and samples.valid.dtype == torch.bool
    return alike and fit and _load(dtype) is not None


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, outputs: Tensor, value: Tensor, log_std: Tensor | None, samples: Samples, coefficients: Coefficients
    ) -> tuple[Tensor, Tensor]:
        time_first, size = outputs.transpose(0, 1), outputs.shape[-1]
        read, values = time_first.reshape(-1, size), value.transpose(0, 1).reshape(-1)
        read = read if read.stride(-1) == 1 else read.contiguous()
        log_std = None if log_std is None else log_std.contiguous()
        to_output, to_value = outputs.new_empty(time_first.shape), outputs.new_empty(time_first.shape[:-1])
        to_log_std = None if log_std is None else torch.empty_like(log_std)
        terms = torch.empty(5, dtype=torch.float64)
        arrays = [leaf.transpose(0, 1).contiguous() for leaf in samples]
        tensors = (read, values, log_std, *arrays, to_output, to_value, to_log_std, terms)
        pointers = (None if leaf is None else leaf.data_ptr() for leaf in tensors)
        numbers = (len(values), size, log_std is not None, read.stride(0), values.stride(0))
        job = _Job(*numbers, *pointers, *coefficients)
        status = _load(outputs.dtype).ppo_loss(ctypes.byref(job))
        if status == 1:
            raise MemoryError(f"ppo_loss.c: not enough memory for {size} outputs")
        if status == 2:
            least, most = (int(bound) for bound in samples.action[samples.valid].aminmax())
            raise IndexError(f"action: got {least} to {most}, need 0 to {size - 1}")
        ctx.save_for_backward(to_output, to_value, to_log_std)
        loss = terms[0] - coefficients.entropy * terms[2] + coefficients.value * terms[1]
        terms = terms.to(outputs.dtype)
        ctx.mark_non_differentiable(terms)
        return loss.to(outputs.dtype), terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        to_output, to_value, to_log_std = ctx.saved_tensors
        own = None if to_log_std is None else cotangent * to_log_std
        return (cotangent * to_output).transpose(0, 1), (cotangent * to_value).transpose(0, 1), own, None, None


class _Job(ctypes.Structure):
    """The struct `loss_job` of ppo_loss.c, where the fields are explained."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_double) for name in ("clip", "entropy_coef", "value_coef")),
    ]


def _load(dtype: torch.dtype) -> Any:
    """Returns the compiled function for numbers of a dtype, or None."""
    return native.kernel(_SOURCE, dtype, "PPO's loss is computed by torch", _MATHS)
