"""Sacred's Run with heartbeats from the main thread, and a record that is never lost in silence."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

from sacred.run import Run

from research.tracking.observer import FileObserver


class RecordedRun(Run):
    """A run whose record is written between iterations.

    Differs from Sacred's, which beats in a thread of its own: there, a beat that reads the captured output while the
    program prints can garble it, and nothing can tell when metrics have reached the disk. Here `flush` returns when
    they have. Sacred makes its Run itself and offers no hook, so `adopt` changes the class of what it made.
    """

    session: Any
    _last_beat: float

    @classmethod
    def adopt(cls, run: Run) -> RecordedRun:
        """The same run as a RecordedRun."""
        run.__class__ = cls
        adopted = cast(RecordedRun, run)
        adopted.session = None
        adopted._last_beat = time.monotonic()
        return adopted

    @property
    def directory(self) -> Path | None:
        """The directory of the record; None if the run is not observed, or not started."""
        return next((seen.directory for seen in self.observers if isinstance(seen, FileObserver)), None)

    def beat(self) -> None:
        """Flushes if the last time is `beat_interval` seconds ago (Sacred's `-b`)."""
        if time.monotonic() - self._last_beat >= self.beat_interval:
            self.flush()

    def flush(self) -> None:
        """Writes metrics and output to the record. They are on disk when it returns."""
        self._last_beat = time.monotonic()
        self._emit_heartbeat()

    def _start_heartbeat(self) -> None:
        self._last_beat = time.monotonic()

    def _stop_heartbeat(self) -> None:
        self.flush()

    def _get_captured_output(self) -> None:
        output = self._output_file
        if output is not None and output.closed and output.final is not None:
            # What was printed since the last beat of a run that stopped early: Sacred would drop it.
            self.captured_out = self.captured_out_filter(self.captured_out + output.get())
        super()._get_captured_output()

    def _safe_call(self, obs: Any, method: str, **kwargs: Any) -> None:
        if isinstance(obs, FileObserver):
            getattr(obs, method)(**kwargs)  # a record that cannot be written stops the run
        else:
            super()._safe_call(obs, method, **kwargs)
