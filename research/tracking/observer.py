"""The record of a run as files, in the layout of Sacred's FileStorageObserver, so that its readers work.

    runs/<id>/run.json          experiment, host, times, status, result, artifacts
    runs/<id>/config.json       settings
    runs/<id>/cout.txt          captured output
    runs/<id>/metrics.jsonl     one line per step, appended: {"step", "timestamp", "values": {name: value}}
    runs/<id>/metrics.json      the same as Sacred has it, made from the lines when the run stops
    runs/<id>/<artifact>
    runs/_sources/              every version of every source file, once

Differs from Sacred's observer: ids are claimed atomically; files are replaced atomically and hold strict JSON, NaN and
infinities as null; a beat costs what is new, not what there is; and a run that was stopped can be gone on with.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sacred.observers import RunObserver

from research.files import append_lines, atomic_write, claim_number, remove_partial, whole_lines, write_json, write_text
from research.tracking.provenance import without_credentials

_OWN_FILES = {"run.json", "config.json", "cout.txt", "metrics.json", "metrics.jsonl", "info.json", "checkpoints"}


class FileObserver(RunObserver):
    """Writes a run's record below a directory.

    Args:
        basedir: Holds one directory per run.
        resume_at: Finished iterations to go on from. The run then exists: its id must be given to Sacred, its start
            time and artifacts are kept, its metrics are cut at that iteration. None starts a new record.
        kept_config: Settings whose recorded value stays when a run is resumed: those that say how to find it.
    """

    # First of all observers: the others take over the id that it claims.
    priority = 50

    def __init__(self, basedir: Path, resume_at: int | None = None, kept_config: frozenset[str] = frozenset()):
        self.basedir = basedir
        self.resume_at = resume_at
        self.kept_config = kept_config
        self.directory: Path | None = None
        self.entry: dict[str, Any] = {}
        self._output_before = ""
        self._output = ""
        self._lock: int | None = None

    @property
    def _directory(self) -> Path:
        if self.directory is None:
            raise RuntimeError("the run has not been started: it has no directory yet")
        return self.directory

    def lock(self, _id: Any) -> None:
        """Keeps other processes out of a run's directory, until it ends or this process does.

        Raises:
            ValueError: Another process writes there.
        """
        lock = os.open(self.basedir / str(_id) / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise ValueError(f"run={_id}: another process writes {self.basedir / str(_id)}; stop it first") from error
        self._lock = lock

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def queued_event(
        self, ex_info: Any, command: str, host_info: Any, queue_time: Any, config: Any, meta_info: Any, _id: Any
    ) -> Any:
        """Claims an id and records what is to be run."""
        number = self._begin(ex_info, command, host_info, config, meta_info, _id, status="QUEUED")
        self._unlock()
        return number

    def started_event(
        self, ex_info: Any, command: str, host_info: Any, start_time: Any, config: Any, meta_info: Any, _id: Any
    ) -> Any:
        """Claims an id and starts a record, or goes on with the one there is."""
        if self.resume_at is not None:
            if self._lock is None:
                self.lock(_id)
            return self._reopen(_id, ex_info, host_info, start_time, config)
        fields = {"start_time": start_time.isoformat(), "status": "RUNNING", "heartbeat": None, "resumed": []}
        return self._begin(ex_info, command, host_info, config, meta_info, _id, **fields)

    def heartbeat_event(self, info: Any, captured_out: str, beat_time: Any, result: Any) -> None:
        """Writes the captured output and that the run is alive."""
        if self.directory is None:
            return  # the run could not be started
        if captured_out != self._output:
            self._output = captured_out
            write_text(self._directory / "cout.txt", self._output_before + captured_out, durable=False)
        if info:
            write_json(self._directory / "info.json", to_json(info))
        self._update(heartbeat=beat_time.isoformat(), result=to_json(result))

    def log_metrics(self, metrics_by_name: Mapping[str, Any], info: Any) -> None:
        """Appends the points measured since the last beat."""
        rows = list(_rows(metrics_by_name))
        if rows:
            append_lines(self._directory / "metrics.jsonl", [json.dumps(row, allow_nan=False) for row in rows])

    def completed_event(self, stop_time: Any, result: Any) -> None:
        self._end(stop_time, "COMPLETED", result=to_json(result))

    def interrupted_event(self, interrupt_time: Any, status: str) -> None:
        self._end(interrupt_time, status)

    def failed_event(self, fail_time: Any, fail_trace: list[str]) -> None:
        self._end(fail_time, "FAILED", fail_trace=fail_trace)

    def artifact_event(self, name: str, filename: str, metadata: Any = None, content_type: Any = None) -> None:
        """Copies a file into the record, unless it lies there already. Another of that name is replaced."""
        target = (self._directory / name).resolve()
        if name in _OWN_FILES or self._directory.resolve() not in target.parents:
            raise ValueError(f"artifact name {name!r}: need one inside the run directory, other than its own files")
        target.parent.mkdir(parents=True, exist_ok=True)
        if Path(filename).resolve() != target:
            _copy(Path(filename), target)
        self._update(artifacts=[*(known for known in self.entry["artifacts"] if known != name), name])

    def resource_event(self, filename: str) -> None:
        """Keeps a copy of a file that the run reads."""
        stored = _store(Path(filename), self.basedir / "_resources")
        self._update(resources=[*self.entry["resources"], [filename, str(stored)]])

    def _begin(
        self, ex_info: Any, command: str, host_info: Any, config: Any, meta_info: Any, _id: Any, **fields: Any
    ) -> Any:
        if _id is None:
            number = claim_number(self.basedir)
        else:  # the user, or another observer, has chosen one
            number = _id
            (self.basedir / str(_id)).mkdir(parents=True)
        self.lock(number)
        self.directory = self.basedir / str(number)
        self.entry = {
            "experiment": self._experiment(ex_info),
            "command": command,
            "host": to_json(host_info),
            "meta": without_credentials(to_json(meta_info)),
            "resources": [],
            "artifacts": [],
            **fields,
        }
        write_json(self._directory / "config.json", to_json(config))
        self._update()
        return number

    def _reopen(self, _id: Any, ex_info: Any, host_info: Any, time: Any, config: Any) -> Any:
        self.directory = self.basedir / str(_id)
        self.entry = json.loads((self._directory / "run.json").read_text())
        for stale in ("stop_time", "result", "fail_trace"):
            self.entry.pop(stale, None)
        (self._directory / "metrics.json").unlink(missing_ok=True)
        remove_partial(self._directory)
        recorded = json.loads((self._directory / "config.json").read_text())
        kept = {key: recorded[key] for key in self.kept_config if key in recorded}
        write_json(self._directory / "config.json", to_json(dict(config)) | kept)
        rows = (row for row in read_rows(self._directory) if row["step"] <= self.resume_at)
        write_text(self._directory / "metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
        output = self._directory / "cout.txt"
        self._output_before = output.read_text() if output.exists() else ""
        going_on = {
            "time": time.isoformat(),
            "iteration": self.resume_at,
            "experiment": self._experiment(ex_info),
            "host": to_json(host_info),
        }
        self._update(status="RUNNING", resumed=[*self.entry.get("resumed", []), going_on])
        return _id

    def _experiment(self, ex_info: Mapping[str, Any]) -> dict[str, Any]:
        """What is known of the code, with a copy of every source file in `_sources`."""
        root = Path(ex_info["base_dir"])
        stored = [[name, _store(root / name, self.basedir / "_sources")] for name, _ in ex_info["sources"]]
        sources = [[name, str(path.relative_to(self.basedir))] for name, path in stored]
        return {**to_json(dict(ex_info)), "sources": sources}

    def _update(self, **changes: Any) -> None:
        self.entry |= changes
        write_json(self._directory / "run.json", self.entry)

    def _end(self, time: Any, status: str, **changes: Any) -> None:
        if self.directory is None:
            return  # the run could not be started
        write_json(self._directory / "metrics.json", fold(read_rows(self._directory)))
        self._update(stop_time=time.isoformat(), status=status, **changes)
        self._unlock()


def _rows(metrics_by_name: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """One row for each step, in the order in which the steps came; a second value of a name opens another row."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for name, series in metrics_by_name.items():
        seen: dict[int, int] = {}
        for step, value, time in zip(series["steps"], series["values"], series["timestamps"], strict=True):
            count = seen[step] = seen.get(step, -1) + 1
            row = rows.setdefault((step, count), {"step": step, "timestamp": time.isoformat(), "values": {}})
            row["values"][name] = to_json(value)
    return rows.values()


def read_rows(directory: Path) -> Iterable[dict[str, Any]]:
    """The rows of a run's metrics.jsonl."""
    return (json.loads(line) for line in whole_lines(directory / "metrics.jsonl"))


def fold(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Rows as Sacred's metrics.json has them: `{name: {"steps", "values", "timestamps"}}`."""
    folded: dict[str, dict[str, list[Any]]] = {}
    for row in rows:
        for name, value in row["values"].items():
            series = folded.setdefault(name, {"steps": [], "values": [], "timestamps": []})
            series["steps"].append(row["step"])
            series["values"].append(value)
            series["timestamps"].append(row["timestamp"])
    return folded


def to_json(value: Any) -> Any:
    """The value in what strict JSON has; NaN and infinities become null, what is unknown becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(inner) for inner in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return to_json(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def _store(path: Path, directory: Path) -> Path:
    """A copy of the file in `directory`, under a name that its content determines."""
    content = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    stored = directory / f"{path.stem}_{content}{path.suffix}"
    if not stored.exists():
        directory.mkdir(parents=True, exist_ok=True)
        _copy(path, stored)
    return stored


def _copy(path: Path, target: Path) -> None:
    with path.open("rb") as source:
        atomic_write(target, lambda file: shutil.copyfileobj(source, file), durable=False)
