"""Standard streams of every kind, in processes of their own."""

from __future__ import annotations

import io
import logging
import os
import pty
import subprocess
import sys

import pytest

from research.streams import any_character, logging_restored, prepare_streams

PROGRAM = """
import os, sys
from research.streams import prepare_streams
prepare_streams(in_record={in_record})
for number in range({lines}):
    print(number, "→ ∇", flush=True)
print("to the end", file=sys.stderr)
"""


def start(lines: int = 3, in_record: bool = False, shell: str = "exec {}", **options) -> subprocess.Popen[bytes]:
    """A process that prints so many lines, through a shell that redirects its output."""
    code = PROGRAM.format(lines=lines, in_record=in_record)
    environment = {**os.environ, "PYTHONIOENCODING": options.pop("encoding", "utf-8")}
    command = shell.format('"$0" -c "$1"')
    return subprocess.Popen(
        ["sh", "-c", command, sys.executable, code],
        env=environment,
        stderr=subprocess.PIPE,
        **{"stdout": subprocess.PIPE, **options},
    )


def end(process: subprocess.Popen[bytes]) -> tuple[bytes, int]:
    """What it says on standard error, and its exit code."""
    with process:
        return process.stderr.read(), process.wait(30)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_encoding_lacks_are_escapes(encoding):
    shown, errors = (process := start(1, encoding=encoding)).communicate(timeout=30)
    assert (process.returncode, shown, errors) == (0, b"0 \\u2192 \\u2207\n", b"to the end\n")


def test_others_are_themselves():
    assert start(1).communicate(timeout=30)[0].decode() == "0 → ∇\n"


@pytest.mark.parametrize("in_record", [False, True])
def test_a_reader_that_leaves_is_no_error(in_record):
    process = start(5000, in_record)
    process.stdout.readline()
    process.stdout.close()
    assert end(process) == (b"to the end\n", 0)


def test_a_terminal_that_is_closed_is_no_error():
    ours, theirs = pty.openpty()
    process = start(20_000, stdout=theirs, start_new_session=True)
    os.close(theirs)
    os.read(ours, 10)
    os.close(ours)
    assert end(process) == (b"to the end\n", 0)


def test_a_stream_that_was_closed_before_the_start_is_no_error(tmp_path):
    process = start(shell="exec {} >&-")
    assert end(process) == (b"to the end\n", 0)


def test_a_pipe_that_does_not_block_gets_everything():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = start(20_000, stdout=writer)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert end(process) == (b"to the end\n", 0)
    assert lines == [f"{number} → ∇" for number in range(20_000)]


def test_a_full_disk_is_an_error_unless_a_record_has_the_output():
    process = start(shell="exec {} >/dev/full")
    said, code = end(process)
    assert b"No space left" in said
    assert code != 0
    process = start(in_record=True, shell="exec {} >/dev/full")
    said = b"warning: standard output cannot be written (No space left on device); the record has it\n"
    assert end(process) == (said + b"to the end\n", 0)


def test_streams_that_were_replaced_stay_as_they_are(monkeypatch):
    own = io.StringIO()
    monkeypatch.setattr(sys, "stdout", own)
    prepare_streams()
    assert sys.stdout is own


def test_the_stream_of_a_program_takes_every_character_for_a_while(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    with any_character():
        sys.stdout.write("é →\n")
        sys.stdout.flush()
    assert stream.buffer.getvalue() == b"\xe9 \\u2192\n"
    with pytest.raises(UnicodeEncodeError):
        sys.stdout.write("→")


def test_handlers_of_the_root_logger_that_were_replaced_come_back():
    before = logging.root.level, logging.root.handlers[:]
    with logging_restored():
        logging.root.setLevel("ERROR")
        logging.root.handlers[:] = [logging.NullHandler()]
    assert (logging.root.level, logging.root.handlers) == before and before[1]
