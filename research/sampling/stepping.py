"""`step_rows` in C: steps many simulations in one call, without the GIL.

A step of a row takes about 20 µs. From Python every row also releases and acquires the GIL once, and waits while
another thread computes with NumPy. One C call for all rows of a thread avoids this.

A call can also take rows through several steps under the actions of a network (acting.py), which it computes row by
row: then Python does nothing between the steps, and no row waits for another one.

Without a compiler rows are stepped from Python, with the same results; the network is then torch's.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray

from research import native

_SOURCE = Path(__file__).with_name("step.c")
_PACKAGE = Path(mujoco.__file__).parent
_OPTIONS = (f"-I{_PACKAGE / 'include'}", f'-DMUJOCO="{mujoco.__version__}"')
_OTHERWISE = "Simulations are stepped from Python"
_ERROR_SIZE = 512
_MOST_LANES = 16
_FUNCTIONS = (
    *("mj_step", "mj_rnePostConstraint", "mj_getState", "mj_setState"),
    *("_mjPRIVATE__get_tls_error_fn", "_mjPRIVATE__set_tls_error_fn"),
)
_JOB = """
    model* state* state_size state_spec rows* count next frame_skip control* num_controls
    first_warning last_warning silent blown_up* num_fields field_size* field*
"""
_LOOP = """
    num_layers is_relu width size* parameters* num_parameters std* rows_per_task
    num_columns column_field* column_start* column_size* limit*
    first_row num_rows steps first horizon noise* observation* mean* action* history* blown_up*
"""


def _fields(names: str) -> list[tuple[str, type]]:
    return [(name.strip("*"), ctypes.c_void_p if "*" in name else ctypes.c_int64) for name in names.split()]


class _Functions(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _FUNCTIONS]


class Job(ctypes.Structure):
    """Rows to step: the struct `job` of step.c, where the fields are explained."""

    _fields_ = _fields(_JOB)


class Loop(ctypes.Structure):
    """Steps under the actions of a network: the struct `loop` of step.c, where the fields are explained.

    Attributes:
        dtype: The type of the network's numbers, `"float32"` or `"float64"`.
    """

    _fields_ = _fields(_LOOP)
    dtype: str


class StepRows:
    """The function `step_rows` of step.c.

    Args:
        function: The compiled function, see `load`.
        contact_forces: Whether it calls `mj_rnePostConstraint` after the steps of a row.
    """

    def __init__(self, function: Any, contact_forces: bool):
        addresses = [ctypes.cast(getattr(_mujoco(), name), ctypes.c_void_p).value for name in _FUNCTIONS]
        if not contact_forces:
            addresses[_FUNCTIONS.index("mj_rnePostConstraint")] = None
        self._functions = _Functions(*addresses)
        self._function = function

    def __call__(self, job: Job, data: mujoco.MjData, sources: NDArray[np.uintp], loop: Loop | None = None) -> None:
        """Steps rows of a job in `data` until none is left. Several threads may work on one job.

        Args:
            job: The rows and their arrays, which must stay alive during the call.
            data: The simulation of this thread.
            sources: Addresses of the fields to read in `data`, `[fields]`.
            loop: The steps to go through under the actions of a network; None for one step under given controls.
                The function must have been compiled for its type.

        Raises:
            mujoco.FatalError: An error in MuJoCo; `data` must not be used again.
        """
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        room = None if loop is None else np.empty(2 * (loop.width + _MOST_LANES), loop.dtype)
        arguments = (
            *(ctypes.byref(self._functions), ctypes.byref(job), loop and ctypes.byref(loop)),
            *(data._address, sources.ctypes.data, None if room is None else room.ctypes.data),
        )
        if self._function(*arguments, error, _ERROR_SIZE):
            raise mujoco.FatalError(error.value.decode(errors="replace"))


@functools.cache
def load(dtype: str = "float32") -> Any:
    """Returns the compiled `step_rows`, or None if it cannot be compiled; the reason is logged once.

    Args:
        dtype: The type of a network's numbers, `"float32"` or `"float64"`.
    """
    loaded = _library(dtype)
    if loaded is None:
        return None
    try:
        for name in _FUNCTIONS:
            getattr(_mujoco(), name)
    except (OSError, AttributeError) as error:
        native.warn(_OTHERWISE, error)
        return None
    loaded.step_rows.argtypes = [*[ctypes.c_void_p] * 7, ctypes.c_int64]
    loaded.step_rows.restype = ctypes.c_int
    return loaded.step_rows


def _library(dtype: str) -> ctypes.CDLL | None:
    return native.kernel(_SOURCE, getattr(torch, dtype), _OTHERWISE, _OPTIONS)


def lanes(dtype: str) -> int:
    """The numbers in a vector of the processor."""
    loaded = _library(dtype)
    assert loaded is not None
    loaded.lanes.restype = ctypes.c_int64
    return int(loaded.lanes())


@functools.cache
def _mujoco() -> ctypes.CDLL:
    """The library of MuJoCo's Python bindings."""
    names = [path for path in _PACKAGE.glob("libmujoco*") if path.suffix != ".py"]
    if not names:
        raise OSError(f"no libmujoco in {_PACKAGE}")
    return ctypes.CDLL(str(names[0]))
