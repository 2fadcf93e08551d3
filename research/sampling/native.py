"""`step_rows` in C: steps many simulations in one call, without the GIL.

A step of a row takes about 20 µs. From Python every row also releases and acquires the GIL once, and waits while
another thread computes with NumPy. One C call for all rows of a thread avoids this.

The function is compiled once, with the machine's C compiler and the headers of MuJoCo's package, and cached in
`~/.cache/metapolicy` (or `$XDG_CACHE_HOME/metapolicy`). Without a compiler rows are stepped from Python, with the same
results.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from research.files import atomic_write, remove_abandoned

_SOURCE = Path(__file__).with_name("step.c")
_PACKAGE = Path(mujoco.__file__).parent
_ERROR_SIZE = 512
_FUNCTIONS = (
    *("mj_step", "mj_rnePostConstraint", "mj_getState", "mj_setState"),
    *("_mjPRIVATE__get_tls_error_fn", "_mjPRIVATE__set_tls_error_fn"),
)
_JOB = """
    model* state* state_size state_spec rows* count next frame_skip control* num_controls
    first_warning last_warning silent blown_up* num_fields field_size* field*
"""


class _Functions(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _FUNCTIONS]


class Job(ctypes.Structure):
    """Rows to step: the struct `job` of step.c, where the fields are explained."""

    _fields_ = [(name.strip("*"), ctypes.c_void_p if "*" in name else ctypes.c_int64) for name in _JOB.split()]


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

    def __call__(self, job: Job, data: mujoco.MjData, sources: NDArray[np.uintp]) -> None:
        """Steps rows of a job in `data` until none is left. Several threads may work on one job.

        Args:
            job: The rows and their arrays, which must stay alive during the call.
            data: The simulation of this thread.
            sources: Addresses of the fields to read in `data`, `[fields]`.

        Raises:
            mujoco.FatalError: An error in MuJoCo; `data` must not be used again.
        """
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        arguments = (ctypes.byref(self._functions), ctypes.byref(job), data._address, sources.ctypes.data)
        if self._function(*arguments, error, _ERROR_SIZE):
            raise mujoco.FatalError(error.value.decode(errors="replace"))


@functools.cache
def load() -> Any:
    """Returns the compiled `step_rows`, or None if it cannot be compiled; the reason is logged once."""
    try:
        library = ctypes.CDLL(str(_compiled()))
        for name in _FUNCTIONS:
            getattr(_mujoco(), name)
    except (OSError, AttributeError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or error
        logging.getLogger(__name__).warning("Simulations are stepped from Python, which is slower: %s", detail)
        return None
    pointer = ctypes.c_void_p
    library.step_rows.argtypes = [pointer, pointer, pointer, pointer, pointer, ctypes.c_int64]
    library.step_rows.restype = ctypes.c_int
    return library.step_rows


@functools.cache
def _mujoco() -> ctypes.CDLL:
    """The library of MuJoCo's Python bindings."""
    names = [path for path in _PACKAGE.glob("libmujoco*") if path.suffix != ".py"]
    if not names:
        raise OSError(f"no libmujoco in {_PACKAGE}")
    return ctypes.CDLL(str(names[0]))


def _compiled() -> Path:
    """Path of the compiled file; it is compiled if there is none for this source, compiler and version of MuJoCo.

    The name ends with a digest of the contents: a library that was cut or damaged would end the process that loads it.
    """
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    command = [*compiler, "-O2", "-std=c11", "-shared", "-fPIC", f"-I{_PACKAGE / 'include'}", str(_SOURCE)]
    machine = repr((command, mujoco.__version__, platform.machine()))
    name = f"step-{_digest(_SOURCE.read_bytes() + machine.encode())}"
    directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metapolicy"
    for found in directory.glob(f"{name}-*.so"):
        if found.stem == f"{name}-{_digest(found.read_bytes())}":
            return found
        found.unlink(missing_ok=True)
    directory.mkdir(parents=True, exist_ok=True)
    remove_abandoned(directory)
    content = _compile(command)
    target = directory / f"{name}-{_digest(content)}.so"
    atomic_write(target, lambda file: file.write(content))  # several processes may compile at once
    return target


def _compile(command: list[str]) -> bytes:
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary, "step.so")
        subprocess.run([*command, "-o", str(made)], check=True, capture_output=True, encoding="utf-8", errors="replace")
        return made.read_bytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
