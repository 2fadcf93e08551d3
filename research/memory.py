"""How the process keeps its memory."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP_BELOW = 1 << 28


def keep_freed_memory() -> bool:
    """Makes glibc reuse freed blocks of up to 256 MiB instead of returning them to the kernel; whether it could.

    Tensors of a few hundred KB come and go thousands of times in an iteration. By default each goes back to the kernel
    and the next one is faulted in again, page by page, which costs a third of a Fisher-vector product. Call it once,
    early. It changes no result, and the peak memory hardly; on other C libraries it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEEP_BELOW)) and bool(mallopt(_M_TRIM_THRESHOLD, 2 * _KEEP_BELOW - 1))
