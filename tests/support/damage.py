"""Damaged copies of a file: bits, bytes, blocks and ends, anywhere and in the parts that describe the others."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from io import BytesIO

import numpy as np

KINDS = ("bit", "byte", "zeros", "cut", "swap", "copy", "insert", "remove", "append")


def damages(content: bytes, count: int, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Damaged copies of an archive, each with the kind of its damage: half of them outside of the large entries."""
    places = _small_parts(content)
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        while True:
            at = int(rng.choice(places) if rng.random() < 0.5 else rng.integers(len(content)))
            damaged = _damaged(content, kind, at, rng)
            if damaged != content:
                break
        yield kind, damaged


def _small_parts(content: bytes) -> np.ndarray:
    """Positions outside of the entries of more than 1 KiB: names, sizes, checksums, small entries, the directory."""
    is_small = np.ones(len(content), dtype=bool)
    with zipfile.ZipFile(BytesIO(content)) as archive:
        for entry in archive.infolist():
            if entry.file_size > 1024:
                begin = content.index(entry.filename.encode(), entry.header_offset)
                is_small[begin + 256 : begin + entry.file_size] = False
    return np.flatnonzero(is_small)


def _damaged(content: bytes, kind: str, at: int, rng: np.random.Generator) -> bytes:
    damaged, size = bytearray(content), int(2 ** rng.uniform(0, 12.9))
    other = int(rng.integers(len(content)))
    if kind == "bit":
        damaged[at] ^= 1 << int(rng.integers(8))
    elif kind == "byte":
        damaged[at] = int(rng.integers(256))
    elif kind == "zeros":
        damaged[at : at + size] = bytes(len(damaged[at : at + size]))
    elif kind == "cut":
        del damaged[at:]
    elif kind == "insert":
        damaged[at:at] = rng.bytes(size)
    elif kind == "remove":
        del damaged[at : at + size]
    elif kind == "append":
        damaged += rng.bytes(size) if rng.random() < 0.5 else content[at:]
    elif kind == "copy":
        damaged[at : at + size] = content[other : other + len(damaged[at : at + size])]
    else:  # two blocks change places, as those of a disk
        left, right = at // 512 * 512, other // 512 * 512
        damaged[left : left + 512], damaged[right : right + 512] = (
            content[right : right + 512],
            content[left : left + 512],
        )
    return bytes(damaged)
