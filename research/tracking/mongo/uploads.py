"""Stores files in GridFS, many small ones with two requests."""

from __future__ import annotations

import datetime
import mimetypes
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gridfs
from bson import ObjectId
from pymongo.database import Database

BATCH_BYTES = 1 << 20
"""Bytes of files in one request; files of this size and more are stored one by one."""

_CHUNK = 255 << 10  # bytes of a chunk, the default of GridFS

Document = dict[str, Any]


class File(NamedTuple):
    """A file to store.

    Attributes:
        digest: A text that identifies its content.
        path: Its path on disk.
        name: Its name in the database.
    """

    digest: str
    path: Path
    name: str


def store_files(database: Database[Document], files: Iterable[File]) -> Iterator[dict[str, ObjectId]]:
    """Stores files in batches, and yields the ids of each batch by digest.

    A file's entry follows its chunks, so an interrupted call leaves no entry of an incomplete file. Two processes may
    store a file twice, which does no harm.
    """
    small: list[tuple[Document, bytes]] = []
    for file in files:
        content, entry = file.path.read_bytes(), _entry(file)
        if len(content) >= BATCH_BYTES:
            gridfs.GridFS(database).put(content, **entry)
            yield {file.digest: entry["_id"]}
            continue
        small.append((entry, content))
        if sum(len(content) for _, content in small) >= BATCH_BYTES:
            yield _store_batch(database, small)
            small = []
    if small:
        yield _store_batch(database, small)


def _entry(file: File) -> Document:
    """Returns the fields of a file that GridFS leaves to its caller."""
    kind = mimetypes.guess_type(file.path.name)[0]
    return {"_id": ObjectId(), "filename": file.name, "contentType": kind, "metadata": {"digest": file.digest}}


def _store_batch(database: Database[Document], files: list[tuple[Document, bytes]]) -> dict[str, ObjectId]:
    """Stores files as GridFS does, with one request for the chunks of all and one for their entries."""
    database["fs.files"].create_index([("filename", 1), ("uploadDate", 1)])
    database["fs.chunks"].create_index([("files_id", 1), ("n", 1)], unique=True)
    chunks = [
        {"_id": ObjectId(), "files_id": entry["_id"], "n": at // _CHUNK, "data": content[at : at + _CHUNK]}
        for entry, content in files
        for at in range(0, len(content), _CHUNK)
    ]
    if chunks:
        database["fs.chunks"].insert_many(chunks, ordered=False)
    now = datetime.datetime.now(datetime.UTC)
    sizes = ({"chunkSize": _CHUNK, "length": len(content), "uploadDate": now} for _, content in files)
    database["fs.files"].insert_many(
        [entry | size for (entry, _), size in zip(files, sizes, strict=True)], ordered=False
    )
    return {entry["metadata"]["digest"]: entry["_id"] for entry, _ in files}
