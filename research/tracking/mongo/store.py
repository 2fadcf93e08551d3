"""Copies the files of a run to a MongoDB, in the layout that Sacred's observer writes and Omniboard reads.

    runs       one document for each run; its `_id` is the number of the run
    metrics    one document for each metric of a run and CHUNK points: {run_id, name, steps, values, timestamps}
    fs.*       sources and artifacts that are not large (GridFS)

The files serve as the queue: they contain everything that the database lacks, and memory is needed for one batch only.
`bring_up_to_date` can be called during a run, at its end and afterwards, any number of times and by several processes
at once. Every point is stored once: a batch is appended only to a document whose length is that before the batch.

Differs from Sacred's observer: it never stops a run; it replaces the metrics of a run that was resumed; the captured
output is limited, large artifacts stay on disk (path and hash are stored), and NaN is null.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from bson import ObjectId
from pymongo import InsertOne, UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from research.tracking.mongo.identity import origin, own_number, uid_of
from research.tracking.mongo.uploads import File, store_files
from research.tracking.records import METRICS, RecordError, fold, parse_row, read_config, read_run

CHUNK = 200_000
"""Points of a metric in one document, about 9 MB; MongoDB accepts 16."""

BATCH = 1_000
"""Rows of metrics in one write."""

OUTPUT_CAP = 1 << 20
"""Bytes of captured output in the database, taken from its end."""

LARGE = 8 << 20
"""Size in bytes from which an artifact stays on disk."""

_TIMES = ("start_time", "stop_time", "heartbeat")
_ATTEMPTS = 10
Document = dict[str, Any]


class ChangedError(RuntimeError):
    """Other processes kept changing the stored metrics of a run."""


@dataclass
class Cursor:
    """The part of a run that the database has.

    Attributes:
        uid: Unique id of the run.
        number: Its `_id` in the database.
        generation: Number of times that the run was resumed. Metrics of other generations are outdated.
        copies: Copies of the run that were resumed by themselves, each as its `_id` and folder.
        offset: Bytes of metrics.jsonl that are stored.
        counts: Points of each metric within these bytes.
        stored: Points of each metric in the database; None if the database must be asked.
        files: Ids of the stored sources and artifacts, by a text that identifies their content.
        hashes: Hashes of artifacts, by path, size and time.
    """

    uid: str
    number: int | str
    generation: int
    copies: list[str] = field(default_factory=list)
    offset: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    stored: dict[str, int] | None = None
    files: dict[str, ObjectId] = field(default_factory=dict)
    hashes: dict[tuple[str, int, int], str] = field(default_factory=dict)


def bring_up_to_date(database: Database[Document], directory: Path, cursor: Cursor | None = None) -> Cursor:
    """Copies to the database everything in the files of a run that it lacks. Returns the new cursor.

    Args:
        database: The database with the collections `runs` and `metrics`.
        directory: Directory of the run.
        cursor: Return value of the last call; without it, the database is asked and the files are read from the start.

    Raises:
        PyMongoError: The database cannot be reached, or refuses. Call this again without a cursor.
        RecordError: The record is damaged.
    """
    run = read_run(directory)
    uid, generation = uid_of(run), len(run.get("resumed", []))
    if cursor is None or (cursor.uid, cursor.generation) != (uid, generation):
        number, copies = own_number(database, directory, run)
        cursor = Cursor(uid, number, generation, copies)
    for _ in range(_ATTEMPTS):
        if _push_metrics(database, directory, cursor):
            break
        cursor.stored = None
    else:
        raise ChangedError(f"{directory}: another process is changing its metrics in the database all the time")
    _put_run(database, directory, run, cursor)
    if _store_files(database, directory, run, cursor):  # they take a while, so they come last
        _put_run(database, directory, run, cursor)
    return cursor


def metric_id(number: int | str, name: str, chunk: int) -> ObjectId:
    """Returns the `_id` of a document of a metric, which is the same in every process."""
    return ObjectId(hashlib.sha256(f"{number!r}/{name}/{chunk}".encode()).digest()[:12])


def _push_metrics(database: Database[Document], directory: Path, cursor: Cursor) -> bool:
    """Stores the rows after the cursor. Returns False if another process has changed the stored points meanwhile."""
    metrics = database["metrics"]
    if cursor.stored is None:
        cursor.stored = _stored_points(database, cursor)
        if any(cursor.stored.get(name, 0) < count for name, count in cursor.counts.items()):
            cursor.offset, cursor.counts = 0, {}  # the database has lost some
    path = directory / METRICS
    if not path.exists():
        return True
    with path.open("rb") as file:
        file.seek(cursor.offset)
        while lines := [line for line in islice(file, BATCH) if line.endswith(b"\n")]:
            series = fold(_rows(path, lines))
            after = cursor.counts | {
                name: cursor.counts.get(name, 0) + len(one["steps"]) for name, one in series.items()
            }
            operations = [step for name, one in series.items() for step in _operations(cursor, name, one)]
            if operations and not _apply(metrics, operations):
                return False
            for name, count in after.items():
                cursor.stored[name] = max(count, cursor.stored.get(name, 0))
            cursor.counts = after
            cursor.offset += sum(map(len, lines))
    return True


def _rows(path: Path, lines: Iterable[bytes]) -> Iterable[Document]:
    for line in lines:
        row = parse_row(line.decode(errors="replace"))
        if row is None:
            raise RecordError(path, f"a line is damaged, it begins with {line[:40]!r}", "`resume` or `ensure` mend it")
        yield row


def _stored_points(database: Database[Document], cursor: Cursor) -> dict[str, int]:
    """Returns the number of points of each metric in the database. Removes those of other generations of the run."""
    metrics = database["metrics"]
    metrics.delete_many({"run_id": cursor.number, "generation": {"$ne": cursor.generation}})
    stored: dict[str, int] = {}
    for one in metrics.find({"run_id": cursor.number}, {"name": 1, "length": 1}):
        stored[one["name"]] = stored.get(one["name"], 0) + one["length"]
    return stored


def _operations(cursor: Cursor, name: str, series: Mapping[str, list[Any]]) -> Iterable[Any]:
    """Yields the writes that store the missing points of a metric. Each of them succeeds only once."""
    assert cursor.stored is not None
    begin = cursor.counts.get(name, 0)
    end = begin + len(series["steps"])
    at = max(begin, cursor.stored.get(name, 0))
    while at < end:
        chunk, length = divmod(at, CHUNK)
        until = min(end, (chunk + 1) * CHUNK)
        points = {key: _bson(series[key][at - begin : until - begin]) for key in ("steps", "values")}
        points["timestamps"] = [_time(stamp) for stamp in series["timestamps"][at - begin : until - begin]]
        key = {"_id": metric_id(cursor.number, name, chunk)}
        after = {"length": length + until - at}
        if length == 0:
            labels = {"run_id": cursor.number, "name": name, "chunk": chunk, "generation": cursor.generation}
            yield InsertOne(key | labels | points | after)
        else:
            push = {"$push": {part: {"$each": values} for part, values in points.items()}, "$set": after}
            yield UpdateOne(key | {"length": length, "generation": cursor.generation}, push)
        at = until


def _apply(metrics: Any, operations: list[Any]) -> bool:
    """Returns whether all writes found the document that they continue."""
    try:
        done = metrics.bulk_write(operations, ordered=False)
    except BulkWriteError as error:
        if all(failure.get("code") == 11000 for failure in error.details["writeErrors"]):
            return False  # another process has made the document
        raise
    return bool(done.matched_count + done.inserted_count == len(operations))


def _put_run(database: Database[Document], directory: Path, run: Document, cursor: Cursor) -> None:
    """Stores the run, unless another process has stored a newer version of it."""
    runs, document = database["runs"], _document(directory, run, cursor)
    done = runs.replace_one({"_id": cursor.number, "writes": {"$lte": document["writes"]}}, document)
    if not done.matched_count and runs.find_one({"_id": cursor.number}, {"_id": 1}) is None:
        runs.insert_one(document)  # the database has lost it


def _document(directory: Path, run: Document, cursor: Cursor) -> Document:
    """Returns a run in the form of Sacred's observer."""
    info_path = directory / "info.json"
    info = json.loads(info_path.read_text(encoding="utf-8")) if info_path.exists() else {}
    ids = [
        {"name": name, "id": str(metric_id(cursor.number, name, chunk))}
        for name, points in sorted((cursor.stored or {}).items())
        for chunk in range(-(-points // CHUNK))
    ]
    document = {
        "writes": 1,
        **run,
        "experiment": {**run["experiment"], "sources": []},
        "format": "MongoObserver-0.7.0",
        "config": read_config(directory),
        "captured_out": _output(directory),
        "info": {**info, "metrics": ids},
    }
    plain: Document = _bson(document)
    sources = ([name, cursor.files.get(path)] for name, path in run["experiment"]["sources"])
    plain["experiment"]["sources"] = [pair for pair in sources if pair[1] is not None]
    plain["artifacts"] = [_artifact(directory, name, cursor) for name in run["artifacts"]]
    plain |= {name: _time(run[name]) for name in _TIMES if run.get(name)}
    plain |= {"_id": cursor.number, "record": origin(directory, cursor.uid)}
    return plain


def _output(directory: Path) -> str:
    path = directory / "cout.txt"
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - OUTPUT_CAP))
        start = f"[the last part of {path.resolve()}]\n" if file.tell() else ""
        return start + file.read().decode(errors="replace")


def _artifact(directory: Path, name: str, cursor: Cursor) -> Document:
    """Returns an artifact in Sacred's form, with path and hash if it is large."""
    path = directory / name
    digest, size = _digest(path, cursor), path.stat().st_size
    if size < LARGE:
        return {"name": name, "file_id": cursor.files.get(digest)}
    return {"name": name, "file_id": None, "path": str(path.resolve()), "sha256": digest, "size": size}


def _store_files(database: Database[Document], directory: Path, run: Document, cursor: Cursor) -> bool:
    """Stores the missing sources and artifacts. Returns whether there were any.

    The path of a source below the runs identifies its content, as the hash of an artifact does.
    """
    wanted = {path: (directory.parent / path, name) for name, path in run["experiment"]["sources"]}
    for name in run["artifacts"]:
        path = directory / name
        if path.stat().st_size < LARGE:
            wanted[_digest(path, cursor)] = (path, f"artifact://runs/{cursor.number}/{name}")
    missing = [digest for digest in wanted if digest not in cursor.files]
    if not missing:
        return False
    for found in database["fs.files"].find({"metadata.digest": {"$in": missing}}, {"metadata": 1}):
        cursor.files[found["metadata"]["digest"]] = found["_id"]
    files = (File(digest, *wanted[digest]) for digest in missing if digest not in cursor.files)
    for stored in store_files(database, files):
        cursor.files |= stored
    return True


def _digest(path: Path, cursor: Cursor) -> str:
    seen = path.stat()
    key = (str(path), seen.st_size, seen.st_mtime_ns)
    if key not in cursor.hashes:
        with path.open("rb") as file:
            cursor.hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return cursor.hashes[key]


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def _bson(value: Any) -> Any:
    """Returns JSON as BSON accepts it: no dots and dollars in keys (written as Sacred does), integers of 64 bits."""
    if isinstance(value, Mapping):
        return {_key(str(key)): _bson(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_bson(inner) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return str(value)
    return value


def _key(name: str) -> str:
    return ("@" + name[1:] if name.startswith("$") else name).replace(".", ",")
