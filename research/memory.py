"""Memory allocation of the process."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP_BELOW = 1 << 28


def keep_freed_memory() -> bool:
    """Makes glibc reuse freed blocks of up to 256 MiB, and not return them to the kernel. Returns whether it could.

    Tensors of a few hundred KB are allocated thousands of times in an iteration. By default each goes back to the
    kernel, and the page faults of the next one cost a third of a Fisher-vector product. Call this once, early. It
    changes no result and hardly the peak memory; with other C libraries it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEEP_BELOW)) and bool(mallopt(_M_TRIM_THRESHOLD, 2 * _KEEP_BELOW - 1))
