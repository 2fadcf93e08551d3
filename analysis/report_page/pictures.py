"""Embeds the pictures of runs in the page, up to a size limit, with a reason for each picture that is left out."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

KINDS = {
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
LARGEST = 2 << 20
"""Largest size of one picture in bytes."""


class Picture(NamedTuple):
    """A picture in the page, as a data URI. An SVG in `<img>` cannot run scripts."""

    run: str
    name: str
    uri: str


class LeftOut(NamedTuple):
    """A picture that was left out, with the reason."""

    run: str
    name: str
    reason: str


def inline(
    artifacts: pd.DataFrame, limit: float, directories: Mapping[str, str]
) -> tuple[list[Picture], list[LeftOut]]:
    """Returns the pictures among artifacts, in their order, up to `limit` bytes in total, and those left out.

    A page may be sent to others, so a file outside of its run's directory is never read: a record names its artifacts,
    and could name any file of this machine, as a path or by a link.

    Args:
        artifacts: The columns run, name, path.
        limit: Largest number of bytes.
        directories: The directory of each run; empty if it is not known, so that no picture of the run is read.
    """
    pictures, left_out = [], []
    total = 0
    for run, name, path in artifacts[["run", "name", "path"]].itertuples(index=False):
        kind = KINDS.get(Path(name).suffix.lower())
        if kind is None:
            continue
        if path and not _is_within(path, directories.get(str(run), "")):
            left_out.append(LeftOut(run, name, "not a file of the run's directory, so it is not read"))
            continue
        try:
            size = Path(path).stat().st_size if path else None
        except (OSError, ValueError):
            size = None
        if size is None:
            left_out.append(LeftOut(run, name, "the file is not there"))
        elif size > LARGEST:
            left_out.append(LeftOut(run, name, f"{_mib(size)}, more than {_mib(LARGEST)} for one picture"))
        elif total + size > limit:
            left_out.append(LeftOut(run, name, f"{_mib(size)}: the pictures reached {_mib(limit)} (--pictures)"))
        else:
            total += size
            data = base64.b64encode(Path(path).read_bytes()).decode()
            pictures.append(Picture(run, name, f"data:{kind};base64,{data}"))
    return pictures, left_out


def _is_within(path: str, directory: str) -> bool:
    """Whether a file, after all links, lies in a directory."""
    try:
        return bool(directory) and Path(path).resolve().is_relative_to(Path(directory).resolve())
    except (OSError, ValueError, RuntimeError):  # a loop of links, a NUL
        return False


def _mib(size: float) -> str:
    return f"{size / (1 << 20):.2g} MiB"
