"""Stopping when asked to: SIGINT (Ctrl-C) and SIGTERM become a flag that is polled between iterations.

Nothing is raised inside a handler, so no iteration, checkpoint or record is ever cut through the middle. A second
Ctrl-C stops at once.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from sacred.utils import SacredInterrupt


class Stopped(SacredInterrupt):
    """Ends a run that was asked to stop. Sacred records it as `STATUS`.

    Attributes:
        exit_code: What the process exits with: 128 + the signal's number, so 130 for SIGINT and 143 for SIGTERM.
    """

    STATUS = "INTERRUPTED"

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.exit_code = 128 + signum


class StopSignals:
    """While entered, remembers the first SIGINT or SIGTERM instead of dying of it.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Attributes:
        signum: The signal that asked to stop; None so far.
    """

    HANDLED = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def requested(self) -> bool:
        """Whether a stop was asked for."""
        return self.signum is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._handle) for signum in self.HANDLED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        # The next Ctrl-C raises KeyboardInterrupt wherever the program is.
        signal.signal(signal.SIGINT, signal.default_int_handler)
