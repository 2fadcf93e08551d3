"""Exit codes of a command that was stopped or refused; 0, 1 and 2 have their usual meanings."""

from __future__ import annotations

import signal

BUSY = 75
"""Exit code if another process writes the record of the run. Nothing was done; it can be tried again later."""

PREEMPTED = 85
"""Exit code of a run that the preemption signal stopped: it is saved and should be started again."""

HUNG_UP = 128 + signal.SIGHUP  # 129
"""Exit code of a run that SIGHUP stopped. It is saved."""

INTERRUPTED = 128 + signal.SIGINT  # 130
"""Exit code of a run that SIGINT stopped. It is saved."""

TERMINATED = 128 + signal.SIGTERM  # 143
"""Exit code of a run that SIGTERM stopped. It is saved."""
