"""Calls a function and prints the peak memory of this process in bytes. Started by `harness.peak_memory_mib`."""

import importlib
import json
import re
import resource
import sys
from pathlib import Path


def peak_bytes() -> int:
    """Returns the peak resident memory of this process in bytes.

    On Linux `ru_maxrss` of a child includes memory of its parent; `VmHWM` does not.
    """
    status = Path("/proc/self/status")
    if status.exists() and (
        found := re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE)
    ):
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(target: str, args: str) -> None:
    """Imports `target` ("module:name"), calls it with `args` (a JSON list) and prints the peak memory."""
    module, _, name = target.partition(":")
    getattr(importlib.import_module(module), name)(*json.loads(args))
    print(peak_bytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
