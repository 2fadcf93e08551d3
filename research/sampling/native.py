"""`step_rows` in C: steps many simulations while Python does something else.

Stepping a row takes about 25 µs. From Python every row costs two changes of hands of the GIL on top, and a thread that
computes with NumPy meanwhile keeps the others waiting for theirs. One call for all rows of a thread needs none of that.

The function is compiled once, by the machine's C compiler against the headers that MuJoCo's package brings, and kept in
`~/.cache/metapolicy` (or `$XDG_CACHE_HOME/metapolicy`). Without a compiler rows are stepped from Python, with the same
numbers.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

_SOURCE = Path(__file__).with_name("step.c")
_PACKAGE = Path(mujoco.__file__).parent
_ERROR_SIZE = 512


class _Functions(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("step", "contact_forces", "get_error", "set_error")]


class StepRows:
    """`step_rows` for given simulations.

    Args:
        function: The compiled one, see `load`.
        models: The model of each row.
        data: The simulation of each row. Both must stay alive.
        frame_skip: Physics steps of a row.
        contact_forces: Whether to call `mj_rnePostConstraint` after them.
        core_start: Where the numbers to read begin, counted from `qpos`.
        core_size: How many they are.
    """

    def __init__(
        self,
        function: Any,
        models: Any,
        data: Any,
        frame_skip: int,
        contact_forces: bool,
        core_start: int,
        core_size: int,
    ):
        library = _mujoco()
        addresses = [
            ctypes.cast(getattr(library, name), ctypes.c_void_p).value
            for name in ("mj_step", "mj_rnePostConstraint", *_ERROR_HANDLER)
        ]
        if not contact_forces:
            addresses[1] = None
        self._functions = _Functions(*addresses)
        self._models = np.array([model._address for model in models], np.uintp)
        self._data = np.array([each._address for each in data], np.uintp)
        self._function = function
        self._frame_skip, self._core_start, self._core_size = frame_skip, core_start, core_size

    def begin(self, rows: NDArray[np.int64], control: NDArray[np.float64], core: NDArray[np.float64]) -> Any:
        """A function that steps rows until none is left; to be called by as many threads as there are.

        Args:
            rows: `[count]`.
            control: `[count, nu]`, contiguous.
            core: `[count, core_size]`, contiguous: receives what is read.
        """
        following = np.zeros(1, np.int64)

        def work(_: Any = None) -> None:
            error = ctypes.create_string_buffer(_ERROR_SIZE)
            failed = self._function(
                ctypes.byref(self._functions),
                self._models.ctypes.data,
                self._data.ctypes.data,
                rows.ctypes.data,
                len(rows),
                following.ctypes.data,
                self._frame_skip,
                control.ctypes.data,
                control.shape[1],
                core.ctypes.data,
                self._core_start,
                self._core_size,
                error,
                _ERROR_SIZE,
            )
            if failed:
                raise mujoco.FatalError(error.value.decode(errors="replace"))

        return work


_ERROR_HANDLER = ("_mjPRIVATE__get_tls_error_fn", "_mjPRIVATE__set_tls_error_fn")


@functools.cache
def load() -> Any:
    """The compiled `step_rows`, or None where it cannot be had; the reason is logged once."""
    try:
        library = ctypes.CDLL(str(_compiled()))
        for name in ("mj_step", "mj_rnePostConstraint", *_ERROR_HANDLER):
            getattr(_mujoco(), name)
    except (OSError, AttributeError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or error
        logging.getLogger(__name__).warning("Simulations are stepped from Python, which is slower: %s", detail)
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.step_rows.argtypes = [
        *(pointer, pointer, pointer, pointer, integer, pointer, integer),
        *(pointer, integer, pointer, integer, integer, pointer, integer),
    ]
    library.step_rows.restype = ctypes.c_int
    return library.step_rows


@functools.cache
def _mujoco() -> ctypes.CDLL:
    """The library that the Python bindings have loaded."""
    names = [path for path in _PACKAGE.glob("libmujoco*") if path.suffix != ".py"]
    if not names:
        raise OSError(f"no libmujoco in {_PACKAGE}")
    return ctypes.CDLL(str(names[0]))


def _compiled() -> Path:
    """The compiled file; compiles it if there is none for this source, compiler and version of MuJoCo."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    command = [*compiler, "-O2", "-std=c11", "-shared", "-fPIC", f"-I{_PACKAGE / 'include'}", str(_SOURCE)]
    key = hashlib.sha256(_SOURCE.read_bytes() + repr((command, mujoco.__version__)).encode()).hexdigest()[:16]
    directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metapolicy"
    target = directory / f"step-{key}.so"
    if not target.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as workshop:
            made = Path(workshop, "step.so")
            subprocess.run([*command, "-o", str(made)], check=True, capture_output=True, text=True)
            made.replace(target)  # whole or not at all, however many processes come at once
    return target
