"""Reads runs from a MongoDB in Sacred's layout, written by this project's mirror or by Sacred's MongoObserver.

A metric may be split over several documents (`chunk`). If a run was resumed, only the metrics of its last `generation`
count. Keys with dots were written with commas, since MongoDB refuses dots; reading restores the dots.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gridfs
import numpy as np
from pymongo.database import Database
from pymongo.errors import PyMongoError

from analysis.data.from_files import note_dropped
from analysis.data.records import LOG_BYTES, STALE, TORN, Points, Record, is_silent, points
from research.tracking.mongo.address import Address
from research.tracking.place import sort_key
from research.tracking.records import EVALUATION

_SECONDS = 5.0
"""Timeout of the connection to a server."""

_BATCH = 50
"""Runs whose metrics are read with one query."""

Document = dict[str, Any]


class MongoSource:
    """The runs of one database.

    Args:
        address: `mongodb://user:password@host:27017/database`; the default database is `sacred`.
        now: The current time in seconds since the epoch, which decides whether a run is stale.

    Raises:
        ValueError: The address is malformed, or no server answers. No message contains the password.
    """

    def __init__(self, address: str, now: float):
        self.now = np.datetime64(int(1000 * now), "ms")
        self._address = Address(address, "address")
        self.text = f"mongodb://{self._address.place}/{self._address.database}"
        self.database = self._connect()

    def _connect(self) -> Database[Document]:
        kind = ""
        database = self._address.connect(serverSelectionTimeoutMS=int(1000 * _SECONDS))
        try:
            database.client.admin.command("ping")
        except PyMongoError as error:
            database.client.close()
            kind = type(error).__name__
        if kind:  # raised outside of the handler: the original error may contain the address with the password
            raise ValueError(f"{self.text}: no answer from a MongoDB server there ({kind})")
        return database

    def close(self) -> None:
        self.database.client.close()

    def __repr__(self) -> str:
        return self.text

    def records(self) -> list[Record]:
        found = [self._record(run) for run in self.database["runs"].find({}, {"captured_out": 0})]
        return sorted(found, key=lambda one: sort_key(one.name))

    def _record(self, document: Document) -> Record:
        run = _plain(document)
        status = run.get("status") if isinstance(run.get("status"), str) else TORN
        directory = (run.get("record") or {}).get("directory", "")
        problems = [] if isinstance(run.get("config"), dict) else ["config is missing"]
        if status == "RUNNING" and is_silent(run, self.now):
            status = STALE
        return Record(
            self.text,
            str(document["_id"]),
            str(status),
            run,
            run.get("config"),
            directory,
            {one["name"]: _path(one, directory) for one in document.get("artifacts") or ()},
            problems,
        )

    def points(self, records: Sequence[Record]) -> Iterator[dict[str, Points]]:
        for start in range(0, len(records), _BATCH):
            batch = records[start : start + _BATCH]
            parts: dict[Any, dict[str, list[tuple[int, Points]]]] = defaultdict(lambda: defaultdict(list))
            by_id = {record.run["_id"]: record for record in batch}
            for one in self.database["metrics"].find({"run_id": {"$in": list(by_id)}}):
                record = by_id[one["run_id"]]
                if one.get("generation", 0) != len(record.run.get("resumed") or ()):
                    continue
                found, dropped = points(one["steps"], one["values"], one["timestamps"])
                note_dropped(record.problems, one["name"], dropped)
                parts[one["run_id"]][one["name"]].append((one.get("chunk", 0), found))
            for number in by_id:
                yield {name: _joined(chunks) for name, chunks in parts[number].items()}

    def evaluation(self, record: Record) -> Mapping[str, Any] | None:
        for one in record.run.get("artifacts") or ():
            if one["name"] == EVALUATION and one.get("file_id") is not None:
                try:
                    return dict(json.loads(gridfs.GridFS(self.database).get(one["file_id"]).read()))
                except (gridfs.NoFile, ValueError):
                    record.problems.append(f"{EVALUATION}: damaged in the database")
        return None

    def log(self, record: Record) -> str:
        database = self._connect()  # the connection of `records` may have been closed
        found = database["runs"].find_one({"_id": record.run["_id"]}, {"captured_out": 1}) or {}
        database.client.close()
        return str(found.get("captured_out") or "")[-LOG_BYTES:]


def _joined(chunks: list[tuple[int, Points]]) -> Points:
    """Returns the chunks of a metric joined in order."""
    parts = [part for _, part in sorted(chunks, key=lambda chunk: chunk[0])]
    return parts[0] if len(parts) == 1 else Points(*map(np.concatenate, zip(*parts, strict=True)))


def _path(artifact: Mapping[str, Any], directory: str) -> str:
    """Returns the path of an artifact on the machine of the run or, if unknown, its id in GridFS."""
    return artifact.get("path") or (f"{directory}/{artifact['name']}" if directory else f"gridfs:{artifact['file_id']}")


def _plain(value: Any) -> Any:
    """Returns a document with its original keys."""
    if isinstance(value, dict):
        return {_key(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _key(name: str) -> str:
    return ("$" + name[1:] if name.startswith("@") else name).replace(",", ".")
