"""`python -m research.tracking sync [RUNS_DIR] [--run ID ...]`: copies the files of runs to MongoDB."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bson.errors import BSONError
from pymongo.errors import ConnectionFailure, PyMongoError

from research.conversion import ConfigError
from research.tracking.mongo import VARIABLE, find_server
from research.tracking.mongo.identity import about_copies
from research.tracking.mongo.mirror import Server
from research.tracking.mongo.store import ChangedError, Cursor, bring_up_to_date
from research.tracking.records import run_directories


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 if all runs are stored, 1 if one is not, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m research.tracking", description=__doc__)
    command = parser.add_subparsers(dest="command", required=True).add_parser("sync", help="files to MongoDB")
    command.add_argument("runs_dir", nargs="?", default="runs", type=Path, help="default: %(default)s")
    command.add_argument("--run", action="append", metavar="ID", help="only this run; may be given several times")
    command.add_argument("-m", "--mongo", metavar="ADDRESS", help=f"of the database; default: ${VARIABLE}")
    given = parser.parse_args(arguments)
    try:
        server = find_server(given.mongo)
        if server is None:
            raise ConfigError(f"{VARIABLE} is not set: need mongodb://user:password@host:27017/database")
        return sync(server, _directories(given.runs_dir, given.run))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def sync(server: Server, directories: Sequence[Path]) -> int:
    """Copies the files of runs to the database. Returns 0, or 1 if a run could not be stored."""
    database = server.connect()
    try:
        database.client.admin.command("ping")
        failures = 0
        for directory in directories:
            try:
                cursor = bring_up_to_date(database, directory)
            except ConnectionFailure:
                raise
            except (PyMongoError, BSONError) as error:  # it refuses the documents of this run
                problem = f"{server} refuses it ({type(error).__name__})"
            except (ValueError, ChangedError, OSError, KeyError) as error:
                problem = str(error)
            else:
                print(f"run {directory.name}: {_stored(directory, cursor)}")
                continue
            failures += 1
            print(f"run {directory.name}: not stored: {problem}", file=sys.stderr)
    except PyMongoError as error:
        print(f"error: {server} cannot be written ({type(error).__name__})", file=sys.stderr)
        return 1
    finally:
        database.client.close()
    return min(1, failures)


def _stored(directory: Path, cursor: Cursor) -> str:
    """Returns a description of the part of a run that is stored, and of its document."""
    text = f"{sum(cursor.counts.values())} points of {len(cursor.counts)} metrics"
    if str(cursor.number) != directory.name:
        text += f", as {cursor.number}"
    return text + (f"; {about_copies(cursor.copies)}" if cursor.copies else "")


def _directories(runs_dir: Path, names: Sequence[str] | None) -> list[Path]:
    there = run_directories(runs_dir)
    if names is None:
        return there
    known = {path.name: path for path in there}
    for name in names:
        if name not in known:
            raise ConfigError(f"--run {name}: no such run in {runs_dir}; there are {', '.join(known) or 'none'}")
    return [known[name] for name in names]
