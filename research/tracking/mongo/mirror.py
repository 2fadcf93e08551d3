"""Copies a run to a MongoDB while it runs, without ever delaying it.

A thread brings the database up to date with the files of the run every few seconds and at the end. A database that is
slow, interrupted or absent does not affect the run: the files hold everything, and the next pass copies what is
missing.
"""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from typing import Any

from pymongo import monitoring
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, PyMongoError

from research.files import claim_number, claim_numbers
from research.tracking.mongo.address import Address
from research.tracking.mongo.identity import about_copies, next_number, origin, placeholder
from research.tracking.mongo.store import Cursor, Document, bring_up_to_date
from research.tracking.observer import FileObserver
from research.tracking.sacred_parts import RunObserver

INTERVAL_SECONDS = 10.0
"""Seconds between two passes."""

START_SECONDS = 1.5
"""Seconds until the first answer of a server, after which a run starts without it."""

SILENCE_SECONDS = 2.0
"""Seconds until the next answer at the end of a run, after which the run ends without it."""

END_SECONDS = 30.0
"""Longest time in seconds that a run waits at its end, while the server answers."""


class Server:
    """A MongoDB to write to."""

    def __init__(self, address: Address):
        self.address = address

    def __repr__(self) -> str:
        return f"MongoDB at {self.address.place}, database {self.address.database}"

    def mirror(self, files: FileObserver) -> Mirror:
        """Returns an observer that copies a run to the database."""
        return Mirror(self, files)

    def connect(self, pulse: Pulse | None = None) -> Database[Document]:
        """Returns the database. Nothing is sent yet.

        Raises:
            ConfigError: A file that the address names cannot be read any more.
        """
        milliseconds = int(1000 * START_SECONDS)
        return self.address.connect(
            serverSelectionTimeoutMS=milliseconds,
            connectTimeoutMS=milliseconds,
            socketTimeoutMS=10_000,
            appname="metapolicy",
            event_listeners=[pulse] if pulse else [],
        )


class Pulse(monitoring.CommandListener):
    """The time of the last answer of a server, on the clock `time.monotonic`."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def started(self, event: monitoring.CommandStartedEvent) -> None: ...

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        self.last = time.monotonic()

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


class Mirror(RunObserver):
    """Copies the files of one run to a database.

    Args:
        server: The server of the database.
        files: The observer that writes the files. From now on it claims numbers that are also free in the database.

    Attributes:
        is_complete: Whether the database has everything at the end.
    """

    # Sacred calls it after the observer of the files.
    priority = 10

    def __init__(self, server: Server, files: FileObserver):
        self.server = server
        self.files = files
        files.claim = self.claim
        self.is_complete = False
        self._pulse = Pulse()
        self._database = server.connect(self._pulse)  # nothing is sent yet
        self._wake = threading.Event()
        self._is_ending = False
        self._is_down = False
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    def claim(self, runs_dir: Path) -> int:
        """Creates the directory of a new run and returns its number, which no run in the database has.

        Without an answer from the database only the directories count.
        """
        number = claim_number(runs_dir)
        try:
            self._database.client.admin.command("ping")
            while not self._reserve(runs_dir / str(number)):
                taken = runs_dir / str(number)
                (number,) = claim_numbers(runs_dir, 1, max(number + 1, next_number(self._database)))
                taken.rmdir()
        except PyMongoError as error:
            self._note(error)
        return number

    def _reserve(self, directory: Path) -> bool:
        """Reserves the number of a run in the database. Returns whether it was free."""
        try:
            self._database["runs"].insert_one(placeholder(int(directory.name), origin(directory, None)))
        except DuplicateKeyError:
            return False
        return True

    def started_event(
        self, ex_info: Any, command: str, host_info: Any, start_time: Any, config: Any, meta_info: Any, _id: Any
    ) -> None:
        self._say_news()
        self._thread.start()

    def heartbeat_event(self, info: Any, captured_out: str, beat_time: Any, result: Any) -> None:
        self._say_news()

    def join(self) -> None:
        """Waits for the last pass as long as the server answers, and at most END_SECONDS."""
        if not self._thread.is_alive():
            self._database.client.close()  # the run was not started
            return
        self._is_ending = True
        self._wake.set()
        began = time.monotonic()
        silence = 0.5 if self._is_down else SILENCE_SECONDS
        while self._thread.is_alive() and time.monotonic() - began < END_SECONDS:
            if time.monotonic() - max(began, self._pulse.last) > silence:
                break
            self._thread.join(0.05)
        self._say_news()
        directory = self.files.directory
        if not self.is_complete and directory is not None:
            print(
                f"{self.server} lacks the last of this run. Once it answers:\n"
                f"  python -m research.tracking sync {directory.parent} --run {directory.name}",
                flush=True,
            )

    def _work(self) -> None:
        cursor: Cursor | None = None
        while True:
            is_last = self._is_ending
            cursor = self._try(cursor)
            if is_last:
                self.is_complete = not self._is_down
                self._database.client.close()
                return
            self._wake.wait(INTERVAL_SECONDS)  # set at the end only

    def _try(self, cursor: Cursor | None) -> Cursor | None:
        directory = self.files.directory
        assert directory is not None  # the run was started
        try:
            is_first = cursor is None
            cursor = bring_up_to_date(self._database, directory, cursor)
        except Exception as error:  # the run continues after any error
            self._note(error)
            if cursor is not None:
                cursor.stored = None
            return cursor
        if self._is_down:
            self._is_down = False
            self._news.put(f"{self.server}: back, and up to date")
        if is_first and str(cursor.number) != directory.name:
            self._news.put(
                f"warning: {self.server}: run {directory.name} is {cursor.number} there, as another run has its number"
            )
        if is_first and cursor.copies:
            self._news.put(f"warning: {self.server}: run {directory.name}: {about_copies(cursor.copies)}")
        return cursor

    def _note(self, error: Exception) -> None:
        """Warns once in each outage."""
        if not self._is_down:
            kind = type(error).__name__
            reason = kind if isinstance(error, PyMongoError) else f"{kind}: {error}"
            self._news.put(
                f"warning: {self.server} cannot be written ({reason}); the run goes on, its files hold everything"
            )
        self._is_down = True

    def _say_news(self) -> None:
        """Prints the messages of the thread, whose own output Sacred's capture would garble."""
        while not self._news.empty():
            print(self._news.get(), flush=True)
