"""Stopping when asked to: signals become a flag that is polled between iterations, and an exit code that says why.

Nothing is raised inside a handler, so no iteration, checkpoint or record is ever cut through the middle. A second
Ctrl-C stops at once.

SIGINT (Ctrl-C) and SIGTERM stop a run for good. The preemption signal, by which a scheduler says that it wants the
machine back, stops it to be run again elsewhere: SIGUSR1, or what METAPOLICY_PREEMPT_SIGNAL names (USR2, TERM, ...).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from sacred.utils import SacredInterrupt

PREEMPT_SIGNAL = "METAPOLICY_PREEMPT_SIGNAL"

BUSY = 75
"""Exit code of a run that another process is at work on. Nothing was done; it may be tried again later."""

PREEMPTED = 85
"""Exit code of a run that the preemption signal stopped: it is saved, and wants to be run again."""

INTERRUPTED = 128 + signal.SIGINT  # 130
"""Exit code of a run that SIGINT stopped. It is saved."""

TERMINATED = 128 + signal.SIGTERM  # 143
"""Exit code of a run that SIGTERM stopped. It is saved."""


class Stopped(SacredInterrupt):
    """Ends a run that was asked to stop. Sacred records it as `STATUS`.

    Attributes:
        exit_code: What the process exits with: `PREEMPTED`, `INTERRUPTED` or `TERMINATED`.
    """

    STATUS = "INTERRUPTED"

    def __init__(self, message: str, signum: int, preempted: bool = False):
        super().__init__(message)
        self.exit_code = PREEMPTED if preempted else 128 + signum


class StopSignals:
    """While entered, remembers the first signal that asks to stop instead of dying of it.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Args:
        agree: Of several processes that stop together: the largest number that any of them has.

    Attributes:
        preemption: The signal that asks to stop and to be run again.
        handled: All signals that ask to stop.
        signum: The signal that asked to stop; None so far.

    Raises:
        ValueError: METAPOLICY_PREEMPT_SIGNAL names no signal.
    """

    def __init__(self, agree: Callable[[int], int] = int) -> None:
        self._agree = agree
        self.preemption = preemption_signal()
        self.handled = tuple(dict.fromkeys((signal.SIGINT, signal.SIGTERM, self.preemption)))
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def requested(self) -> bool:
        """Whether a stop was asked for, of any of the processes. All of them call it, or none."""
        agreed = self._agree(self.signum or 0)
        if agreed:
            self.signum = agreed
        return agreed != 0

    def stopped(self, message: str) -> Stopped:
        """What to raise once everything is saved."""
        assert self.signum is not None  # otherwise there is no reason to stop
        return Stopped(message, self.signum, self.signum == self.preemption)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._handle) for signum in self.handled}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
        # The next Ctrl-C raises KeyboardInterrupt wherever the program is.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def preemption_signal() -> signal.Signals:
    """The signal that METAPOLICY_PREEMPT_SIGNAL names, SIGUSR1 by default. Raises ValueError if it names none."""
    name = os.environ.get(PREEMPT_SIGNAL, "USR1")
    allowed = ("USR1", "USR2", "TERM", "INT", "HUP", "CONT", "XCPU")
    if name.upper().removeprefix("SIG") not in allowed:
        raise ValueError(f"{PREEMPT_SIGNAL}={name!r}: need one of {', '.join(allowed)}")
    return signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
