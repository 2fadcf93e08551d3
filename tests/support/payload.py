"""A payload for files that could run code: it leaves a mark when it runs."""

from __future__ import annotations

import os

MARK = "executed"
"""Name of the directory that a payload makes when it runs."""


class Payload:
    """Unpickled, it makes the directory `MARK`."""

    def __reduce__(self):
        return os.mkdir, (MARK,)
