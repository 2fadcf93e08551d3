"""Which document of a database is that of a run.

A run is known by its uid, by the times at which it was resumed, and by its folder. A folder that was moved, or copied
and left as it is, has the document of the original. Once a copy is resumed, the two are different runs: each has a
document of its own, and neither overwrites the other's. When in doubt (the original is on a machine that cannot be
asked), a run counts as a copy, so that the worst case is one document too many.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from research.tracking.place import id_of
from research.tracking.records import read_run

Document = dict[str, Any]


def uid_of(run: Mapping[str, Any]) -> str:
    """Returns the unique id of a run; early records have their start time only."""
    return str(run.get("uid") or run["start_time"])


def origin(directory: Path, uid: str | None) -> Document:
    """Returns a document that distinguishes a run from one in another folder with the same number.

    The number of the folder's inode is the same on all machines that share a file system, and another one in a copy.
    """
    folder = {"host": socket.gethostname(), "directory": str(directory.resolve())}
    return {"uid": uid, **folder, "inode": str(directory.stat().st_ino)}


def placeholder(number: int | str, record: Document) -> Document:
    """Returns the document of a run of which nothing is stored yet."""
    return {"_id": number, "status": "QUEUED", "writes": 0, "record": record}


def own_number(database: Database[Document], directory: Path, run: Document) -> tuple[int | str, list[str]]:
    """Returns the `_id` of a run, and a description of each copy of it that was resumed by itself.

    The `_id` is the number of the run, or the next free number if another run has that.
    """
    runs, record = database["runs"], origin(directory, uid_of(run))
    number = id_of(directory.name)
    resumed = _resumed(run)
    claimed = {f"record.{key}": value for key, value in (record | {"uid": None}).items()}
    while True:
        known = list(runs.find({"record.uid": record["uid"]}, {"record": 1, "resumed": 1}))
        known.sort(key=lambda one: not _is_folder(one["record"], record))  # its own document first
        for one in known:
            if _is_same(one, record, resumed):
                return one["_id"], [_describe(other) for other in known if other is not one]
        try:
            runs.insert_one({**placeholder(number, record), "resumed": [{"time": time} for time in resumed]})
            return number, [_describe(other) for other in known]
        except DuplicateKeyError:
            if runs.update_one({"_id": number, **claimed}, {"$set": {"record.uid": record["uid"]}}).matched_count:
                return number, [_describe(other) for other in known]  # it was reserved before the run had an uid
            number = next_number(database)


def next_number(database: Database[Document]) -> int:
    """Returns one more than the highest number of a run."""
    return max((run["_id"] for run in database["runs"].find({}, {"_id": 1}) if type(run["_id"]) is int), default=0) + 1


def about_copies(copies: list[str]) -> str:
    """Returns a clause about a run of which other copies were resumed, or which was resumed itself."""
    return f"its record was copied, and the copies differ; the other is stored as {', '.join(copies)}"


def _resumed(run: Mapping[str, Any]) -> list[str]:
    """Returns the times at which a run was resumed."""
    return [str(start["time"]) for start in run.get("resumed") or ()]


def _is_same(document: Document, record: Document, resumed: list[str]) -> bool:
    """Returns whether a document with the uid of a run is that of the run, or of an earlier state of it."""
    theirs = _resumed(document)
    shared = min(len(theirs), len(resumed))
    if theirs[:shared] != resumed[:shared]:
        return False  # both were resumed, each by itself
    if len(theirs) == len(resumed) or _is_folder(document["record"], record):
        return True
    return len(theirs) < len(resumed) and _is_gone(document["record"])


def _is_folder(one: Document, other: Document) -> bool:
    """Returns whether two origins are the same folder, possibly seen from two machines."""
    if "inode" not in one:
        return bool(one.get("directory") == other["directory"])
    is_elsewhere = one["host"] != other["host"]
    return bool(one["inode"] == other["inode"] and (is_elsewhere or one["directory"] == other["directory"]))


def _is_gone(record: Document) -> bool:
    """Returns whether a folder of this machine does not hold its run any more."""
    directory = Path(record.get("directory", ""))
    if record.get("host") != socket.gethostname():
        return False
    if not (directory / "run.json").exists():
        return True
    try:
        return uid_of(read_run(directory)) != record["uid"]
    except (ValueError, KeyError):
        return False  # damaged, but there


def _describe(document: Document) -> str:
    record = document["record"]
    return f"{document['_id']} ({record.get('host')}:{record.get('directory')})"
