"""Kills a Python program by SIGKILL at its n-th file operation.

Operations are those that change files below a directory (opening for writing, renaming, making and deleting files and
directories, links, cutting, fsync) and the starts of other programs. They are counted in the program that a test
starts, and not in those that it starts itself.

    points = CrashPoints(directory_of_the_test, below=runs_dir)
    for number in range(1, points.count(command) + 1):
        points.crash(command, number)
        ...

The interpreter loads `install` before anything else, by a `sitecustomize.py` in a folder of PYTHONPATH.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_AT, _BELOW, _TRACE = "CRASH_POINTS_AT", "CRASH_POINTS_BELOW", "CRASH_POINTS_TRACE"
_CHANGES = {"os.rename": (0, 1), "os.mkdir": (0,), "os.remove": (0,), "os.rmdir": (0,), "os.truncate": (0,),
            "os.link": (0, 1), "os.symlink": (1,)}  # fmt: skip
"""Audit events by the places of the paths among their arguments."""
_STARTS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system")


class CrashPoints:
    """Runs commands that are killed at one of their operations.

    Args:
        directory: An empty directory for files of this class.
        below: Only operations on files below this directory count.
    """

    def __init__(self, directory: Path, below: Path):
        directory.mkdir(parents=True, exist_ok=True)
        self._folder, self._trace, self._below = directory, directory / "trace", below
        text = f"import runpy\n\nrunpy.run_path({str(Path(__file__).resolve())!r})['install']()\n"
        (directory / "sitecustomize.py").write_text(text)

    def count(self, command: Sequence[object], **options: Any) -> int:
        """Runs a command to its end and returns the number of its operations. Raises AssertionError if it fails."""
        done = self._run(command, 0, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return len(self.operations())

    def crash(self, command: Sequence[object], number: int, **options: Any) -> str:
        """Kills a command before its operation of this number, from 1, and returns a description of the operation."""
        done = self._run(command, number, **options)
        operations = self.operations()
        assert done.returncode == -signal.SIGKILL, f"not killed at {number}: {operations}\n{done.stdout}{done.stderr}"
        assert len(operations) == number
        return operations[-1]

    def operations(self) -> list[str]:
        """Returns the operations of the last command, the last one being that at which it was killed."""
        return self._trace.read_text().splitlines() if self._trace.exists() else []

    def _run(self, command: Sequence[object], number: int, **options: Any) -> subprocess.CompletedProcess[str]:
        self._trace.unlink(missing_ok=True)
        environment: Mapping[str, str] = options.pop("env", os.environ)
        path = os.pathsep.join([str(self._folder), *filter(None, [environment.get("PYTHONPATH")])])
        own = {_AT: str(number), _BELOW: str(self._below), _TRACE: str(self._trace), "PYTHONPATH": path}
        words = [str(word) for word in command]
        return subprocess.run(
            words, env={**environment, "PYTHONDONTWRITEBYTECODE": "1", **own},
            capture_output=True, text=True, check=False, **options,
        )  # fmt: skip

    def fork(self, function: Callable[[], Any], number: int = 0) -> str:
        """Calls a function in a fork of this process, which has imported everything, and kills that at an operation.

        Args:
            function: The function.
            number: Number of the operation, from 1; 0 to let it end.

        Returns:
            A description of the operation; empty if there was none.
        """
        self._trace.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            try:
                os.dup2(os.open(self._folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
                os.dup2(1, 2)
                watch(number, str(self._below), str(self._trace))
                function()
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == (-signal.SIGKILL if number else 0), (self._folder / "output").read_text()
        return (["", *self.operations()])[-1]


def install() -> None:
    """Calls `watch` with the values in the environment; does nothing in programs that a watched one has started."""
    if _TRACE in os.environ:
        watch(int(os.environ.pop(_AT)), os.environ.pop(_BELOW), os.environ.pop(_TRACE))


def watch(at: int, below: str, trace: str) -> None:
    """Counts the operations of this process from now on, and kills it at one of them.

    Args:
        at: Number of the operation, from 1; 0 for none.
        below: Directory whose files count.
        trace: File that receives a line for each operation.
    """
    descriptor = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    process = os.getpid()
    seen = 0

    def happens(what: str) -> None:
        nonlocal seen
        if os.getpid() != process:
            return  # a fork of this process
        seen += 1
        os.write(descriptor, f"{what}\n".encode(errors="backslashreplace"))
        if seen == at:
            os.kill(process, signal.SIGKILL)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _STARTS:
            happens(f"{event} {arguments[1] if len(arguments) > 1 else arguments[0]!r}"[:200].replace("\n", " "))
        elif event in _CHANGES or (event == "open" and _is_writing(*arguments)):
            inside = arguments[1] if event in ("os.remove", "os.rmdir") else -1
            paths = [_absolute(arguments[place], inside) for place in _CHANGES.get(event, (0,))]
            if any(_is_below(path, below) for path in paths):
                happens(f"{event} {' '.join(paths)}".replace("\n", " "))

    sync = os.fsync

    def fsync(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        name = os.readlink(f"/proc/self/fd/{number}")
        if _is_below(name, below):
            happens(f"fsync {name}")
        sync(file)

    os.fsync = fsync
    sys.addaudithook(hear)


def _is_writing(path: Any, mode: str | None, flags: int) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) != 0


def _absolute(path: Any, inside: int) -> str:
    """Returns a path as text; empty for a descriptor. Relative ones are below the directory of a descriptor, if any."""
    if isinstance(path, int):
        return ""
    return os.path.abspath(
        os.path.join(os.readlink(f"/proc/self/fd/{inside}") if inside >= 0 else "", os.fsdecode(path))
    )


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")
