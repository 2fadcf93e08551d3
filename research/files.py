"""Atomic writes, appended lines and unique directories: files that stay readable whenever a process is killed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Numbers of the errors of a disk that is full, or has become read-only."""

_SUFFIX = ".partial"
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def atomic_write(path: Path, write: Callable[[IO[bytes]], Any], durable: bool = True) -> None:
    """Writes a file under another name and renames it to `path` when it is complete.

    At any time `path` is either the old file or the new one, also after the process was killed.

    Args:
        path: The file to replace or to create.
        write: Writes the content to an open binary file.
        durable: Whether to wait for the disk, so that this holds after a power failure, too.

    Raises:
        OSError: The file cannot be written; `filename` is its path.
    """
    partial = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}{_SUFFIX}")
    with naming(path):
        try:
            with partial.open("xb") as file:
                write(file)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            partial.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):  # it was renamed
                partial.unlink()
        if durable:
            _sync_directory(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError inside has a path: a full disk gives none, and that of a partial file means nothing to a reader."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or str(error.filename).endswith(_SUFFIX)):
            error.filename = str(path)
            del error.filename2  # None would be printed
        raise


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Writes a text as UTF-8, atomically."""
    atomic_write(path, lambda file: file.write(text.encode()), durable)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as strict, indented JSON, atomically.

    Raises:
        ValueError: The value contains NaN or an infinity.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def append_lines(path: Path, lines: list[str]) -> None:
    """Appends lines and waits until they are on disk.

    If the disk is full, the file stays as it was. If the process is killed, only the last line can be incomplete; the
    next call then begins a new one.
    """
    with naming(path), path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            file.seek(max(0, size - 1))
            is_torn = file.read(1) not in (b"", b"\n")
            _write_all(file, ("\n" * is_torn + "".join(f"{line}\n" for line in lines)).encode())
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):  # the next call begins a new line
                file.truncate(size)
            raise


def _write_all(file: IO[bytes], content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def whole_lines(path: Path) -> Iterator[str]:
    """Yields the lines of a file without an incomplete one at the end; no line if there is no file."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line.decode(errors="replace")


def remove_partial(directory: Path) -> None:
    """Deletes the incomplete files of processes that were killed, also in the directories below.

    No other process may write there.
    """
    for path in directory.rglob(f".*{_SUFFIX}"):
        path.unlink(missing_ok=True)  # a process that asks for the lock removes its own


def remove_abandoned(directory: Path) -> None:
    """Deletes the incomplete files of processes of this machine that have ended. Others may write in the directory."""
    for path in directory.glob(f".*.{_HOST}-*-*{_SUFFIX}"):
        pid = int(path.name.split("-")[-2])
        if not _is_running(pid):
            path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it is another user's
    return True


def is_number(name: str) -> bool:
    """Returns whether a name is a number as `claim_number` writes it: ASCII digits, no leading zero, 18 at most.

    >>> [is_number(name) for name in ("7", "07", "²", "1.0", "-1", "9" * 19)]
    [True, False, False, False, False, False]
    """
    return name.isascii() and name.isdigit() and len(name) <= 18 and (name[0] != "0" or name == "0")


def next_number(root: Path) -> int:
    """Returns one more than the highest number that is a name in `root`; 1 if there is none."""
    numbers = (int(path.name) for path in root.iterdir() if is_number(path.name)) if root.is_dir() else ()
    return max(numbers, default=0) + 1


def claim_number(root: Path) -> int:
    """Creates the directory `root/<n>` and returns n, one more than the highest number. See `claim_numbers`."""
    return claim_numbers(root, 1)[0]


def claim_numbers(root: Path, count: int, first: int | None = None) -> list[int]:
    """Creates a directory `root/<n>` for each of several numbers and returns them, ascending but perhaps with gaps.

    `mkdir` creates a directory or fails, also on network file systems, so processes that claim numbers at the same time
    get different ones.

    Args:
        root: Parent of the directories; created if it is missing.
        count: Number of directories.
        first: Lowest number to try; by default one more than the highest.
    """
    root.mkdir(parents=True, exist_ok=True)
    number = next_number(root) if first is None else first
    claimed: list[int] = []
    try:
        while len(claimed) < count:
            with contextlib.suppress(FileExistsError):
                (root / str(number)).mkdir()
                claimed.append(number)
            number += 1
    except OSError:
        release_numbers(root, claimed)
        raise
    return claimed


def release_numbers(root: Path, numbers: Iterable[int]) -> None:
    """Deletes the directories of claimed numbers that hold nothing."""
    for number in numbers:
        with contextlib.suppress(OSError):
            (root / str(number)).rmdir()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
