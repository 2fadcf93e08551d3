"""Sacred's Run with heartbeats from the main thread; the run stops if its record cannot be written."""

from __future__ import annotations

import datetime
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from research.files import IS_FULL
from research.tracking.lock import BusyError
from research.tracking.observer import FileObserver
from research.tracking.provenance import why_no_commit
from research.tracking.restart import Start
from research.tracking.sacred_parts import CapturedStdout, Run, TeeingStreamProxy, linearize_metrics
from research.validation import recorded

KEPT = 1 << 20
"""Characters of output that are kept in memory; the record has all of it."""


class RecordedRun(Run):
    """A run whose record is written between iterations.

    Differs from Sacred's Run, whose heartbeats come from another thread: there a heartbeat that reads the captured
    output while the program prints can garble it, and the program cannot know when its metrics are on disk. Here
    `flush` returns when they are. All output goes to the record, and the last `KEPT` characters stay in `captured_out`:
    Sacred keeps all of it, several times. Sacred constructs its Run itself and has no hook, so `adopt` changes the
    class of it.

    Attributes:
        start: The record or checkpoint from which the command starts; None for other commands.
        session: The session of the command, see `session.Trainer`; None for other commands.
        stop_at: Iteration after which a training stops before its end; None for the end.
    """

    start: Start | None
    session: Any
    stop_at: int | None
    _last_beat: float
    _line: str
    _unwritten: list[Any]
    _reading: threading.RLock

    @classmethod
    def adopt(cls, run: Run) -> RecordedRun:
        """Returns the same object as a RecordedRun."""
        run.__class__ = cls
        adopted = cast(RecordedRun, run)
        adopted.start = adopted.session = adopted.stop_at = None
        adopted._last_beat = time.monotonic()
        adopted._line = ""
        adopted._unwritten = []
        adopted._reading = threading.RLock()
        return adopted

    def __call__(self, *args: Any) -> Any:
        """Carries the command out, with the settings of the record from which it starts."""
        with recorded(self.start.recorded if self.start else {}):
            return super().__call__(*args)

    @property
    def directory(self) -> Path | None:
        """The directory of the record; None if the run is not observed or not started."""
        return next((seen.directory for seen in self.observers if isinstance(seen, FileObserver)), None)

    def mark(self) -> dict[str, Any]:
        """Returns what a checkpoint notes of the record, see `FileObserver.mark`; empty if there is none."""
        files = next((seen for seen in self.observers if isinstance(seen, FileObserver)), None)
        return files.mark() if files else {}

    def beat(self) -> None:
        """Calls `flush` if the last call was at least `beat_interval` seconds ago (Sacred's option `-b`)."""
        if time.monotonic() - self._last_beat >= self.beat_interval:
            self.flush()

    def flush(self) -> None:
        """Writes metrics and output to the record; they are on disk when it returns.

        Metrics that cannot be written are kept for the next call.
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
        if self.directory is not None and not self.experiment_info["repositories"]:
            root = Path(self.experiment_info["base_dir"])
            print(f"No commit of the code is recorded: {root}: {why_no_commit(root)}.", flush=True)
        output = self._output_file
        proxies = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, TeeingStreamProxy)]
        if proxies and isinstance(output, CapturedStdout):  # otherwise nothing is captured, or it goes to a file
            output.buffer = captured = _Captured(output.get(), self._get_captured_output)
            for proxy in proxies:
                proxy._self_out = captured

    def _stop_heartbeat(self) -> None:
        is_failing = sys.exc_info()[0] is not None
        try:
            self.flush()
        except (OSError, BusyError):
            if not is_failing:
                raise
            # Sacred then raises the error that stopped the run, which is this one or its cause.

    def _get_captured_output(self) -> None:
        """Writes the whole lines printed since the last call to the record."""
        output = self._output_file
        with self._reading:
            if output is None or (output.closed and output.final is None):
                return
            # `get` of a closed file returns the output since the last heartbeat of a run that stopped early.
            self._line += output.get()
            end = self._line.rfind("\n") + 1
            if output.closed or (end == 0 and len(self._line) > KEPT):
                end = len(self._line)
            text = self._line[:end]
            if "\r" in text or "\b" in text:
                text = self.captured_out_filter(text)
            for observer in self.observers:
                if isinstance(observer, FileObserver):
                    self._safe_call(observer, "output_event", text=text)
            self._line = self._line[end:]
            self.captured_out = (self.captured_out + text)[-KEPT:]

    def _final_call(self, observer: Any, method: str, **kwargs: Any) -> None:
        try:
            getattr(observer, method)(**kwargs)
        except OSError as error:
            reason: Any = error.__context__
            reason = getattr(reason, "__cause__", None) or reason  # of a start that was refused
            if error.errno in IS_FULL and getattr(reason, "errno", None) == error.errno:
                return  # the reason why the run ends, which the command says
            print(f"error: {self.directory} does not say how the run ended: {error}", file=sys.stderr)

    def _safe_call(self, obs: Any, method: str, **kwargs: Any) -> None:
        if isinstance(obs, FileObserver):
            try:
                getattr(obs, method)(**kwargs)  # a record that cannot be written stops the run
            except OSError as error:
                error.add_note(
                    f"{obs.directory} cannot be written, so the run stops at its last checkpoint. Nothing recorded is "
                    f"lost: make room, or make the disk writable, and continue it (resume or ensure)."
                )
                raise
        else:
            super()._safe_call(obs, method, **kwargs)


class _Captured:
    """Output that was not read yet: it takes the place of the StringIO of Sacred's capture, which keeps all of it.

    Args:
        text: The output so far.
        read: Is called when there is more than `KEPT`, and reads it.
    """

    def __init__(self, text: str, read: Callable[[], None]):
        self._texts, self._size, self._read = deque([text]), len(text), read
        self.closed = False

    def write(self, text: str) -> int:
        self._texts.append(text)
        self._size += len(text)
        if self._size > KEPT:
            self._read()
        return len(text)

    def read(self) -> str:
        self._size = 0
        return "".join(self._texts.popleft() for _ in range(len(self._texts)))

    def seek(self, position: int) -> None: ...

    def tell(self) -> int:
        return 0

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def _utc_now() -> datetime.datetime:
    """Returns the time as Sacred has it: UTC, without a time zone."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
