"""Stopping a run on request: a signal sets a flag that is polled between iterations, and an exit code gives the reason.

A handler raises nothing, so no iteration, checkpoint or record is interrupted halfway. A second Ctrl-C stops at once.

SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal was closed) stop a run for good. A run that was started with SIGHUP
ignored, as by nohup, goes on without a terminal. The preemption signal, with which a scheduler reclaims the machine,
stops a run that is to be started again elsewhere: SIGUSR1, or the one that METAPOLICY_PREEMPT_SIGNAL names (USR2,
TERM, ...).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from research.tracking.exit_codes import BUSY, HUNG_UP, INTERRUPTED, PREEMPTED, TERMINATED  # noqa: F401  former place
from research.tracking.sacred_parts import SacredInterrupt

PREEMPT_SIGNAL = "METAPOLICY_PREEMPT_SIGNAL"


class Stopped(SacredInterrupt):
    """Ends a run before its last iteration. Sacred records `STATUS` as the status of the run.

    Attributes:
        exit_code: Exit code of the process: one of `exit_codes.py`; 0 if it halted.
    """

    STATUS = "INTERRUPTED"

    def __init__(self, message: str, signum: int, preempted: bool = False):
        super().__init__(message)
        self.exit_code = PREEMPTED if preempted else 128 + signum


class Halted(Stopped):
    """Ends a run that has reached the iteration at which it was to stop. Its exit code is 0: it did as it was asked."""

    def __init__(self, message: str):
        SacredInterrupt.__init__(self, message)
        self.exit_code = 0


class StopSignals:
    """A context in which the first signal that asks to stop is stored and does not end the process.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Args:
        agree: Function of a number that returns the largest one among the processes that stop together.

    Attributes:
        preemption: The preemption signal.
        handled: All signals that ask to stop.
        signum: The signal that asked to stop; None until then.

    Raises:
        ValueError: METAPOLICY_PREEMPT_SIGNAL does not name a signal.
    """

    def __init__(self, agree: Callable[[int], int] = int) -> None:
        self._agree = agree
        self.preemption = preemption_signal()
        hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
        self.handled = tuple(dict.fromkeys((signal.SIGINT, signal.SIGTERM, *hang_up, self.preemption)))
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def requested(self) -> bool:
        """Returns whether any of the processes was asked to stop. Either all of them call this, or none."""
        agreed = self._agree(self.signum or 0)
        if agreed:  # otherwise a signal that arrives now would be lost
            self.signum = agreed
        return agreed != 0

    def stopped(self, message: str) -> Stopped:
        """Returns the exception to raise when everything is saved."""
        assert self.signum is not None  # a stop was requested
        return Stopped(message, self.signum, self.signum == self.preemption)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._handle) for signum in self.handled}
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
        # The next Ctrl-C raises KeyboardInterrupt at any point of the program.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def preemption_signal() -> signal.Signals:
    """Returns the signal that METAPOLICY_PREEMPT_SIGNAL names, or else SIGUSR1. Raises ValueError if it names none."""
    name = os.environ.get(PREEMPT_SIGNAL, "USR1")
    allowed = ("USR1", "USR2", "TERM", "INT", "HUP", "CONT", "XCPU")
    if name.upper().removeprefix("SIG") not in allowed:
        raise ValueError(f"{PREEMPT_SIGNAL}={name!r}: need one of {', '.join(allowed)}")
    return signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
