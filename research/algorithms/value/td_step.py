"""td_step.c: values and TD gradients of plain multilayer perceptrons on the CPU, for one task or several."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from research import native
from research.policies.q_network import QNetwork
from research.td import LossKind, TransitionBatch
from research.types import Params

_SOURCE = Path(__file__).with_suffix(".c")
_JOB = """
    layers is_tanh is_huber size* tasks rows num_parameters parameters* observation* values* action* target* weight*
    gradient* error* scratch*
"""


class _Job(ctypes.Structure):
    """The struct `job` of td_step.c, where the fields are explained."""

    _fields_ = [(name.strip("*"), ctypes.c_void_p if "*" in name else ctypes.c_int64) for name in _JOB.split()]


class TDStep:
    """The functions of td_step.c for one network. Make it with `td_step_of`.

    Args:
        functions: The compiled functions.
        sizes: Numbers of each layer, the observation first.
        is_tanh: Whether the activation is tanh; else ReLU.
        flat: The parameters W_1, b_1, W_2, ... as one tensor, `[parameters]` or `[tasks, parameters]`. It is read at
            each call, and has to stay where it is.
    """

    def __init__(self, functions: ctypes.CDLL, sizes: Sequence[int], is_tanh: bool, flat: Tensor):
        self._functions, self._flat = functions, flat
        self._sizes = np.array(sizes, np.int64)
        self._tasks = flat.shape[:-1].numel()
        self._job = _Job(len(sizes) - 1, is_tanh, size=self._sizes.ctypes.data, tasks=self._tasks)
        self._job.num_parameters, self._job.parameters = flat.shape[-1], flat.data_ptr()
        self._reference = ctypes.byref(self._job)
        self._one_row: tuple[NDArray[Any], NDArray[Any]] | None = None
        self._scratch = flat.new_empty(0)

    def values(self, observation: Tensor) -> Tensor:
        """Returns Q(s, ·) at `observation [..., obs]`, for several tasks `[tasks, ..., obs]`."""
        observation = observation.detach().to(self._flat.dtype).contiguous()
        values = self._flat.new_empty(*observation.shape[:-1], int(self._sizes[-1]))
        self._prepare(observation.shape[:-1].numel() // self._tasks, observation.data_ptr())
        self._job.values = values.data_ptr()
        self._functions.td_values(self._reference)
        return values

    def values_of_one(self, observation: NDArray[Any]) -> NDArray[Any]:
        """Returns Q(s, ·) `[actions]` at one observation `[obs]`, in an array that the next call overwrites."""
        if self._one_row is None:
            dtype = self._flat.numpy().dtype
            self._one_row = np.empty(int(self._sizes[0]), dtype), np.empty(int(self._sizes[-1]), dtype)
            self._addresses = self._one_row[0].ctypes.data, self._one_row[1].ctypes.data
        seen, values = self._one_row
        seen[:] = observation
        job = self._job
        self._prepare(1, self._addresses[0])
        job.values = self._addresses[1]
        self._functions.td_values(self._reference)
        return values

    def gradient(self, batch: TransitionBatch, target: Tensor, kind: LossKind, gradient: Tensor) -> Tensor:
        """Returns the TD errors Q(s, a) − y, and writes the gradient of the TD loss.

        Args:
            batch: The minibatch; its rewards and next observations are not read.
            target: y, `[batch]` or `[tasks, batch]`.
            kind: The loss.
            gradient: Contiguous tensor like the parameters, which is overwritten.

        Raises:
            IndexError: The network has no such action.
        """
        real = (field.to(self._flat.dtype) for field in (batch.observation, target, batch.weight))
        observation, target, weight = (field.contiguous() for field in real)
        action = batch.action.to(torch.int64).contiguous()
        error = torch.empty_like(target)
        job = self._job
        self._prepare(target.shape[-1], observation.data_ptr())
        job.is_huber = kind == "huber"
        job.action, job.target, job.weight = action.data_ptr(), target.data_ptr(), weight.data_ptr()
        job.gradient, job.error = gradient.data_ptr(), error.data_ptr()
        if self._functions.td_gradient(self._reference):
            raise IndexError(f"action: need actions from 0 to {self._sizes[-1] - 1}")
        return error

    def _prepare(self, rows: int, observation: int) -> None:
        job = self._job
        job.observation = observation
        if rows != job.rows:
            job.rows = rows
            needed = self._functions.td_scratch(self._reference)
            if needed > len(self._scratch):
                self._scratch = self._flat.new_empty(needed)
                job.scratch = self._scratch.data_ptr()


def td_step_of(network: nn.Module, params: Params, flat: Tensor) -> TDStep | None:
    """Returns the compiled TD step of a network, or None: not one plain MLP, not on the CPU, or no compiler.

    Args:
        network: The module.
        params: Its parameters by name.
        flat: The same in this order as one tensor, `[parameters]` or `[tasks, parameters]`.
    """
    if type(network) is not QNetwork or not flat.is_cpu:
        return None
    weights, _, activation = network.value.layers()
    in_order = [f"value.{2 * layer}.{kind}" for layer in range(len(weights)) for kind in ("weight", "bias")]
    if list(params) != in_order or activation not in (nn.Tanh, nn.ReLU):
        return None
    functions = _load(flat.dtype)
    sizes = [weights[0].shape[1], *(len(weight) for weight in weights)]
    return TDStep(functions, sizes, activation is nn.Tanh, flat) if functions else None


def _load(dtype: torch.dtype) -> ctypes.CDLL | None:
    functions = native.kernel(_SOURCE, dtype, "TD steps are computed by PyTorch")
    if functions is not None:
        functions.td_scratch.restype = ctypes.c_int64
    return functions
