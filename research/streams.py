"""Standard output and error that cannot stop a command, whatever they are connected to.

Characters that the encoding of the locale lacks are written as escapes such as "u2192" after a backslash. If the reader
of a pipe has left, or the terminal was closed, further output is dropped.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

ERRORS = "backslashreplace"


def prepare_streams(in_record: bool = False) -> None:
    """Makes the standard streams of this process safe; to be called first in a program.

    Streams that were replaced, for instance by pytest or Jupyter, stay as they are.

    Args:
        in_record: Whether a record holds the same output. Then a full disk at standard output does not stop the
            program either; a line on standard error says so.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed at the start: the number must not become that of another file
            _discard(descriptor)
            raw = _Output(descriptor, in_record)
            _set(name, io.TextIOWrapper(raw, encoding="utf-8", errors=ERRORS, write_through=True))
        elif stream is getattr(sys, f"__{name}__") and not isinstance(_raw(stream), _Output):
            stream.flush()
            raw = _Output(descriptor, in_record)
            buffer: Any = raw if stream.write_through else io.BufferedWriter(raw)
            _set(name, io.TextIOWrapper(buffer, stream.encoding, ERRORS, line_buffering=stream.line_buffering,
                                        write_through=stream.write_through))  # fmt: skip


@contextlib.contextmanager
def any_character() -> Iterator[None]:
    """A context in which the streams of somebody else's program take every character, as escapes if need be."""
    before = [(stream, stream.errors) for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    strict = [(stream, errors) for stream, errors in before if errors == "strict"]
    for stream, _ in strict:
        stream.reconfigure(errors=ERRORS)
    try:
        yield
    finally:
        for stream, errors in strict:
            stream.reconfigure(errors=errors)


@contextlib.contextmanager
def logging_restored() -> Iterator[None]:
    """A context whose changes of the root logger, its level and its handlers, end with it.

    Sacred's option `--loglevel` would otherwise hide the warnings of all later runs and other code of the process.
    """
    level, handlers = logging.root.level, list(logging.root.handlers)
    try:
        yield
    finally:
        logging.root.setLevel(level)
        logging.root.handlers[:] = handlers


class _Output(io.FileIO):
    """A descriptor that is connected to the null device once nobody can receive what is written to it."""

    def __init__(self, descriptor: int, in_record: bool):
        super().__init__(descriptor, "w", closefd=False)
        self._is_terminal = os.isatty(descriptor)  # one that was closed is none any more
        self._in_record = in_record

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
            while written is None:  # a pipe that does not block, and is full
                select.select([], [self], [])
                written = super().write(data)
        except OSError as error:
            is_gone = error.errno == errno.EPIPE or (error.errno == errno.EIO and self._is_terminal)
            if not (is_gone or self._in_record):
                raise
            _discard(self.fileno())
            if not is_gone and self.fileno() == 1:
                reason = error.strerror
                print(f"warning: standard output cannot be written ({reason}); the record has it", file=sys.stderr)  # noqa: T201
            written = memoryview(data).nbytes
        return written


def _raw(stream: Any) -> Any:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _set(name: str, stream: io.TextIOWrapper) -> None:
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _discard(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
