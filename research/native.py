"""C of this project, compiled on the machine that runs it, and loaded with ctypes, whose calls do not hold the GIL.

A source is compiled once, with the machine's C compiler, and cached in `~/.cache/metapolicy` (or
`$XDG_CACHE_HOME/metapolicy`). Without a compiler there is no library: its callers then compute in Python, slower, with
the same results up to rounding.
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

import torch

from research.files import atomic_write, remove_abandoned

KERNEL = (
    *("-O3", "-march=native", "-std=gnu11", "-fno-fast-math"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)
"""Options for arithmetic on arrays: all instructions of this processor, fused multiply-add, no other liberties.

Some compilers take more of them by default, with which NaN is lost and the rounding of matrix.h's e^x.
"""

_HEADERS = Path(__file__).parent
_REAL = {torch.float32: "float", torch.float64: "double"}


@functools.cache
def library(source: Path, options: tuple[str, ...], otherwise: str) -> ctypes.CDLL | None:
    """Returns the compiled source, or None if it cannot be compiled; the reason is logged once.

    Args:
        source: The C file. It may include headers of this package with `#include "name.h"`.
        options: Options of the compiler.
        otherwise: A sentence for the log, without its full stop, that names the slower substitute.
    """
    try:
        return ctypes.CDLL(str(compiled(source, options)))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:  # RuntimeError: no home directory
        warn(otherwise, getattr(error, "stderr", "") or error)
        return None


def kernel(source: Path, dtype: torch.dtype, otherwise: str, options: tuple[str, ...] = ()) -> ctypes.CDLL | None:
    """Returns a C file compiled with `KERNEL` for numbers of a dtype, or None for others and as for `library`.

    Args:
        source: The C file, which reads the type of its numbers from `REAL`.
        dtype: The dtype.
        otherwise: See `library`.
        options: Further options of the compiler.
    """
    real = _REAL.get(dtype)
    return None if real is None else library(source, (*KERNEL, f"-DREAL={real}", *options), otherwise)


def warn(otherwise: str, why: object) -> None:
    """Logs that something is computed in Python, and why."""
    logging.getLogger(__name__).warning("%s, which is slower: %s", otherwise, why)


def compiled(source: Path, options: tuple[str, ...]) -> Path:
    """Returns the path of the compiled file; it is compiled if there is none for this source, compiler and processor.

    The name ends with a digest of the contents: a library that was cut or damaged would end the process that loads it.

    Raises:
        OSError: There is no compiler, or the file cannot be written.
        subprocess.CalledProcessError: The compiler refuses the source; `stderr` says why.
    """
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    command = [*compiler, *options, "-shared", "-fPIC", f"-I{_HEADERS}", str(source)]
    # A home directory may serve machines with different processors: the predefined macros name their instructions.
    processor = _output([*compiler, *options, "-E", "-dM", "-x", "c", os.devnull])
    headers = b"".join(path.read_bytes() for path in sorted(_HEADERS.glob("*.h")))
    name = f"{source.stem}-{_digest(source.read_bytes() + headers + repr(command).encode() + processor)}"
    directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metapolicy"
    for found in directory.glob(f"{name}-*.so"):
        if found.stem == f"{name}-{_digest(found.read_bytes())}":
            return found
        found.unlink(missing_ok=True)
    directory.mkdir(parents=True, exist_ok=True)
    remove_abandoned(directory)
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary, "made.so")
        _output([*command, "-o", str(made)])
        content = made.read_bytes()
    target = directory / f"{name}-{_digest(content)}.so"
    atomic_write(target, lambda file: file.write(content))  # several processes may compile at once
    return target


def _output(command: list[str]) -> bytes:
    try:
        return subprocess.run(command, check=True, capture_output=True).stdout
    except subprocess.CalledProcessError as error:
        error.stderr = error.stderr.decode(errors="replace")
        raise


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
