"""Files that are whole or absent, never half: what a killed process leaves behind can always be read."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

_SUFFIX = ".partial"


def atomic_write(path: Path, write: Callable[[IO[bytes]], Any], durable: bool = True) -> None:
    """Lets `write` fill a file that takes the place of `path` once it is complete.

    Readers, and whoever comes after a process that was killed, find the old file or the new one.

    Args:
        path: The file to replace, or to make.
        write: Fills an open binary file.
        durable: Whether to wait for the disk, so that the same holds after a power cut.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_SUFFIX}")
    try:
        with partial.open("xb") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):  # it has become `path`
            partial.unlink()
    if durable:
        _sync_directory(path.parent)


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Atomically writes UTF-8."""
    atomic_write(path, lambda file: file.write(text.encode()), durable)


def write_json(path: Path, value: Any) -> None:
    """Atomically writes strict JSON, indented.

    Raises:
        ValueError: The value holds a number that JSON does not have (NaN, an infinity).
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def append_lines(path: Path, lines: list[str]) -> None:
    """Appends lines and waits until they are on disk. Only the last line of a file can ever be torn.

    If they do not fit on the disk, the file is left as it was.
    """
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            _write_all(file, "".join(f"{line}\n" for line in lines).encode())
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def _write_all(file: IO[bytes], content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def whole_lines(path: Path) -> Iterator[str]:
    """The lines of a file, without one at the end that a killed writer has torn. None if there is no file."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line.decode(errors="replace")


def remove_partial(directory: Path) -> None:
    """Deletes what writers that were killed left behind. No writer may be at work in the directory."""
    for path in directory.glob(f".*{_SUFFIX}"):
        path.unlink()


def next_number(root: Path) -> int:
    """One more than the highest number that names something in `root`: 1 if there is none."""
    numbers = (int(path.name) for path in root.iterdir() if path.name.isdigit()) if root.is_dir() else ()
    return max(numbers, default=0) + 1


def claim_number(root: Path) -> int:
    """Makes the directory `root/<n>` and returns n: one more than the highest, and never one that another has claimed.

    `mkdir` either makes a directory or fails, on network file systems too, so any number of processes may do this at
    once.
    """
    return claim_numbers(root, 1)[0]


def claim_numbers(root: Path, count: int) -> list[int]:
    """The same for several numbers, which rise and need not be consecutive."""
    root.mkdir(parents=True, exist_ok=True)
    number = next_number(root)
    claimed: list[int] = []
    while len(claimed) < count:
        with contextlib.suppress(FileExistsError):
            (root / str(number)).mkdir()
            claimed.append(number)
        number += 1
    return claimed


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
