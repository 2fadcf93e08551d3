"""Sacred's Run with heartbeats from the main thread, and a record that is never lost in silence."""

from __future__ import annotations

import datetime
import sys
import time
from pathlib import Path
from typing import Any, cast

from sacred.metrics_logger import linearize_metrics
from sacred.run import Run

from research.tracking.lock import BusyError
from research.tracking.observer import FileObserver


class RecordedRun(Run):
    """A run whose record is written between iterations.

    Differs from Sacred's, which beats in a thread of its own: there, a beat that reads the captured output while the
    program prints can garble it, and nothing can tell when metrics have reached the disk. Here `flush` returns when
    they have. Sacred makes its Run itself and offers no hook, so `adopt` changes the class of what it made.
    """

    session: Any
    _last_beat: float
    _line: str
    _unwritten: list[Any]

    @classmethod
    def adopt(cls, run: Run) -> RecordedRun:
        """The same run as a RecordedRun."""
        run.__class__ = cls
        adopted = cast(RecordedRun, run)
        adopted.session = None
        adopted._last_beat = time.monotonic()
        adopted._line = ""
        adopted._unwritten = []
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
        """Writes metrics and output to the record. They are on disk when it returns.

        What cannot be written is kept for the next time.
        """
        self._last_beat = time.monotonic()
        self._get_captured_output()
        self._unwritten += self._metrics.get_last_metrics()
        metrics = linearize_metrics(self._unwritten)
        for observer in self.observers:
            self._safe_call(observer, "log_metrics", metrics_by_name=metrics, info=self.info)
        self._unwritten = []
        beat = {"info": self.info, "captured_out": self.captured_out, "beat_time": _utc_now(), "result": self.result}
        for observer in self.observers:
            self._safe_call(observer, "heartbeat_event", **beat)

    def _start_heartbeat(self) -> None:
        self._last_beat = time.monotonic()

    def _stop_heartbeat(self) -> None:
        is_failing = sys.exc_info()[0] is not None
        try:
            self.flush()
        except (OSError, BusyError):
            if not is_failing:
                raise
            # Sacred goes on with the error that stopped the run, which is this one or a better one.

    def _get_captured_output(self) -> None:
        """Adds what was printed since the last time, in whole lines, so that a beat costs what is new."""
        output = self._output_file
        if output is None or (output.closed and output.final is None):
            return
        # Once it is closed, `get` returns what was printed since the last beat of a run that stopped early.
        text = self._line + output.get()
        end = len(text) if output.closed else text.rfind("\n") + 1
        self._line = text[end:]
        self.captured_out += self.captured_out_filter(text[:end])

    def _final_call(self, observer: Any, method: str, **kwargs: Any) -> None:
        try:
            getattr(observer, method)(**kwargs)
        except OSError as error:
            print(f"error: {self.directory} does not say how the run ended: {error}", file=sys.stderr)

    def _safe_call(self, obs: Any, method: str, **kwargs: Any) -> None:
        if isinstance(obs, FileObserver):
            try:
                getattr(obs, method)(**kwargs)  # a record that cannot be written stops the run
            except OSError as error:
                error.add_note(
                    f"{obs.directory} cannot be written, so the run stops at its last checkpoint. Nothing recorded is "
                    f"lost: make room, or the disk writable, and go on with it (resume, or ensure)."
                )
                raise
        else:
            super()._safe_call(obs, method, **kwargs)


def _utc_now() -> datetime.datetime:
    """As Sacred has its times: UTC, without saying so."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
