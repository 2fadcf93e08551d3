"""A MongoDB for tests: a server that speaks its protocol, and a line to it that can be cut.

METAPOLICY_TEST_MONGO=mongodb://... makes the same tests use a real one.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from pymongo import MongoClient

from research.tracking.records import fold, read_rows, read_run

REAL = os.environ.get("METAPOLICY_TEST_MONGO")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MongoServer:
    """NX-27017 on a port of its own; what it stores survives `kill -9`."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        files = ["--data-dir", self.directory / "db", "--log-file", self.directory / "log"]
        options = [*files, "--pid-file", self.directory / "pid", "--port", str(self.port)]
        main = "from nx_27017.nx_27017 import main; main()"
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([sys.executable, "-c", main, *map(str, options)], **quiet)
        return self

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Line:
    """A TCP connection to a server that can be cut, or fall silent.

    Attributes:
        address: What to give to a client.
        database: Name of a database that nobody else uses.
        delay: Seconds by which it delays data in each direction.
    """

    def __init__(self, host: str, port: int):
        self.target = (host, port)
        self.port = free_port()
        self.database = f"test_{uuid.uuid4().hex}"
        self.address = f"mongodb://127.0.0.1:{self.port}/{self.database}?directConnection=true"
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self._is_silent = False
        self.delay = 0.0

    def connect(self) -> Self:
        """Lets clients through."""
        self._is_silent = False
        return self._listen()

    def fall_silent(self) -> Self:
        """Accepts and never answers."""
        self.cut()
        self._is_silent = True
        return self._listen()

    def cut(self) -> None:
        """Ends all connections and takes no more."""
        for one in (self._listener, *self._open):
            if one is not None:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
        self._listener, self._open = None, []

    def _listen(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=True)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                client, _ = listener.accept()
                self._open.append(client)
                if not self._is_silent:
                    self._forward(client)

    def _forward(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self.target, timeout=5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        self._open.append(server)
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=_copy, args=(source, sink, self.delay), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket, delay: float) -> None:
    """Passes data on, each part `delay` seconds after its arrival; parts do not wait for each other."""
    parts: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_send, args=(parts, sink), daemon=True).start()
    data = b"-"
    while data:
        try:
            data = source.recv(1 << 16)
        except OSError:
            data = b""
        parts.put((time.monotonic() + delay, data))


def _send(parts: queue.SimpleQueue[tuple[float, bytes]], sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            due, data = parts.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                break
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


class Content:
    """What a database says of runs, read past the line."""

    def __init__(self, address: str, database: str):
        self.client: Any = MongoClient(address, serverSelectionTimeoutMS=20_000, directConnection=True)
        self.database = self.client[database]

    def run(self, number: Any) -> Any:
        return self.database.runs.find_one({"_id": number})

    def numbers(self) -> list[Any]:
        return sorted(run["_id"] for run in self.database.runs.find({}, {"_id": 1}))

    def metrics(self, number: Any) -> dict[str, tuple[list[int], list[Any]]]:
        """`{name: (steps, values)}`, found as Omniboard finds them: by the ids that the run names."""
        found: dict[str, tuple[list[int], list[Any]]] = {}
        by_id = {str(one["_id"]): one for one in self.database.metrics.find({"run_id": number})}
        for entry in self.run(number)["info"]["metrics"]:
            one = by_id.pop(entry["id"])
            assert one["name"] == entry["name"]
            assert len(one["steps"]) == len(one["values"]) == len(one["timestamps"]) == one["length"]
            steps, values = found.setdefault(one["name"], ([], []))
            steps += one["steps"]
            values += one["values"]
        assert not by_id  # none that the run does not name
        return found

    def assert_complete(self, directory: Path, run: int, number: Any = None) -> None:
        """Every point of the files below `directory`, once and in order, and the same status and result."""
        directory = directory / "runs" / str(run)
        number = run if number is None else number
        expected, found = fold(read_rows(directory)), self.metrics(number)
        assert {name: one[0] for name, one in found.items()} == {name: one["steps"] for name, one in expected.items()}
        for name, (_, values) in found.items():
            wanted = expected[name]["values"]
            assert [value is None for value in values] == [value is None for value in wanted]
            # NX-27017 keeps 15 digits.
            assert [value or 0 for value in values] == pytest.approx([value or 0 for value in wanted], rel=1e-13)
        stored, record = self.run(number), read_run(directory)
        for key in ("status", "result", "fail_trace"):
            assert stored.get(key) == record.get(key)

    def close(self) -> None:
        self.client.close()


def address_of(server: MongoServer | None) -> str:
    """Of the real server if there is one."""
    return f"mongodb://127.0.0.1:{server.port}" if server else str(REAL)


def line_to(address: str) -> Line:
    parts = urlsplit(address)
    return Line(parts.hostname or "127.0.0.1", parts.port or 27017)


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    """Returns as soon as it holds. Raises AssertionError if it never does."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
