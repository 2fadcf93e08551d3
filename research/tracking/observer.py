"""The record of a run as files, in the layout of Sacred's FileStorageObserver, which existing tools can read.

    runs/<id>/run.json          experiment, host, times, status, result, artifacts
    runs/<id>/config.json       settings
    runs/<id>/cout.txt          captured output
    runs/<id>/metrics.jsonl     one line for each step, appended: {"step", "timestamp", "values": {name: value}, "crc"}
    runs/<id>/metrics.json      the same in Sacred's form, made when the run stops and at times before
    runs/<id>/metrics.cut.jsonl lines whose steps a resumed run has computed again
    runs/<id>/lineage.json      the states of other runs with which it went on, see `adopting`
    runs/<id>/.lock             the process that writes here, see `lock`
    runs/<id>/<artifact>
    runs/_sources/              every version of every source file, once

Differs from Sacred's observer: ids are claimed atomically; files are replaced atomically and hold strict JSON, with
null for NaN and infinities; the cost of a heartbeat depends on what is new; and a run that was stopped can be resumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from research.checkpoint import Checkpoint
from research.conversion import differences
from research.files import atomic_write, claim_number, naming, remove_abandoned, remove_partial, write_json
from research.tracking.adopting import LINEAGE
from research.tracking.journal import Journal, to_rows, write_series
from research.tracking.lock import FILE as LOCK
from research.tracking.lock import BusyError, Lock
from research.tracking.place import starting
from research.tracking.provenance import patch_bytes, slurm_job, uncommitted_changes, without_credentials
from research.tracking.records import CUT, METRICS, RecordError, cut, fold, read_config, read_rows, read_run, to_json
from research.tracking.sacred_parts import RunObserver

_OWN_FILES = {"run.json", "config.json", "cout.txt", "metrics.json", METRICS, CUT, LOCK, LINEAGE, "info.json",
              "checkpoints"}  # fmt: skip

SMALL = 100_000
"""Number of points up to which metrics.json is made again during a run, whenever the number has doubled."""

_SMALL_FILE = 1 << 22  # bytes of metrics.jsonl with about as many points


class FileObserver(RunObserver):
    """Writes the record of a run.

    Args:
        basedir: Directory of the records, one directory for each run.
        resume_at: Number of finished iterations at which an existing record is continued; None for a new record. The id
            of an existing record must be given to Sacred. Its start time and artifacts stay, its metrics are cut.
        checkpoint: The checkpoint from which an existing record is continued; it becomes the latest one.
        kept_config: Settings whose recorded values stay when a run is resumed: those that only name the run.
        lock: The lock of the run's directory, if it is held already. The id must then be given to Sacred, too.
        claim: Makes a directory for a new run below `basedir` and returns its number.
    """

    # First of all observers: the others receive the id that it claims.
    priority = 50

    def __init__(
        self,
        basedir: Path,
        resume_at: int | None = None,
        kept_config: frozenset[str] = frozenset(),
        lock: Lock | None = None,
        checkpoint: Checkpoint | None = None,
        claim: Callable[[Path], int] = claim_number,
    ):
        self.basedir = basedir
        self.resume_at = resume_at
        self.kept_config = kept_config
        self.directory: Path | None = None
        self.entry: dict[str, Any] = {}
        self.claim = claim
        self._lock, self._checkpoint = lock, checkpoint
        self._journal: Journal | None = None
        self._points = self._folded = 0
        self._claimed: Path | None = None

    def mark(self) -> dict[str, Any]:
        """Returns what a checkpoint notes of its run: the run's unique id, and the rows that it has written."""
        return {"uid": self.entry.get("uid"), **self.entry.get("metrics_file", {})}

    @property
    def _directory(self) -> Path:
        if self.directory is None:
            raise RuntimeError("the run has not been started: it has no directory yet")
        return self.directory

    def lock(self, _id: Any) -> None:
        """Excludes other processes from the directory of a run, until the run or this process ends.

        Raises:
            BusyError: Another process writes there.
        """
        if self._lock is None:
            self._lock = Lock(self.basedir / str(_id))

    def unlock(self) -> None:
        """Admits other processes again."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _require_lock(self) -> None:
        """Raises BusyError if another process has taken over; from then on nothing is written."""
        if self._lock is None or not self._lock.is_mine():
            raise BusyError(f"{self.directory}: another process has taken over, this one stops. Was it suspended?")

    def queued_event(
        self, ex_info: Any, command: str, host_info: Any, queue_time: Any, config: Any, meta_info: Any, _id: Any
    ) -> Any:
        """Claims an id and records a run that is to be started later."""
        with self._starting():
            number = self._begin(ex_info, command, host_info, config, meta_info, _id, status="QUEUED")
        self.unlock()
        return number

    def started_event(
        self, ex_info: Any, command: str, host_info: Any, start_time: Any, config: Any, meta_info: Any, _id: Any
    ) -> Any:
        """Claims an id and starts a record, or continues an existing one."""
        with self._starting():
            if self.resume_at is not None:
                self.lock(_id)
                return self._reopen(ex_info, command, host_info, start_time, config, meta_info, _id)
            fields = {"start_time": start_time.isoformat(), "status": "RUNNING", "heartbeat": None, "resumed": []}
            return self._begin(ex_info, command, host_info, config, meta_info, _id, **fields)

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        """An OSError inside becomes a ConfigError, and leaves nothing of a new run."""
        with starting(self.basedir):
            try:
                yield
            except OSError:
                if self._claimed is not None:
                    shutil.rmtree(self._claimed, ignore_errors=True)
                if self.resume_at is None:
                    self.directory = None  # so its end is not recorded either
                raise

    def heartbeat_event(self, info: Any, captured_out: str, beat_time: Any, result: Any) -> None:
        """Writes the time as a sign of life. The captured output comes through `output_event`."""
        if self.directory is None:
            return  # the run could not be started
        self._require_lock()
        self._check_metrics()
        if info:
            write_json(self._directory / "info.json", to_json(info))
        self._update(heartbeat=beat_time.isoformat(), result=to_json(result))
        if max(1, 2 * self._folded) <= self._points <= SMALL:
            self._fold()

    def output_event(self, text: str) -> None:
        """Appends captured output."""
        if self.directory is not None and text:
            self._require_lock()
            path = self._directory / "cout.txt"
            with naming(path), path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(text)

    def log_metrics(self, metrics_by_name: Mapping[str, Any], info: Any) -> None:
        """Appends the points that were measured since the last heartbeat."""
        rows = to_rows(metrics_by_name)
        if not rows:
            return
        self._require_lock()
        self._check_metrics()
        assert self._journal is not None  # the run was started
        self._journal.append(rows)
        self._points += sum(len(row["values"]) for row in rows)

    def completed_event(self, stop_time: Any, result: Any) -> None:
        self._end(stop_time, "COMPLETED", result=to_json(result))

    def interrupted_event(self, interrupt_time: Any, status: str) -> None:
        self._end(interrupt_time, status)

    def failed_event(self, fail_time: Any, fail_trace: list[str]) -> None:
        self._end(fail_time, "FAILED", fail_trace=fail_trace)

    def join(self) -> None:
        """Admits other processes if the end of the run was interrupted, too."""
        self.unlock()

    def artifact_event(self, name: str, filename: str, metadata: Any = None, content_type: Any = None) -> None:
        """Copies a file into the record, unless it is there already. It replaces another artifact of that name."""
        target = (self._directory / name).resolve()
        if name in _OWN_FILES or self._directory.resolve() not in target.parents:
            raise ValueError(f"artifact name {name!r}: need one inside the run directory, other than its own files")
        target.parent.mkdir(parents=True, exist_ok=True)
        if Path(filename).resolve() != target:
            with Path(filename).open("rb") as source:
                atomic_write(target, lambda file: shutil.copyfileobj(source, file), durable=False)
        self._update(artifacts=[*(known for known in self.entry["artifacts"] if known != name), name])

    def resource_event(self, filename: str) -> None:
        """Keeps a copy of a file that the run reads."""
        path = Path(filename)
        stored = _store(path.read_bytes(), path.stem, path.suffix, self.basedir / "_resources")
        self._update(resources=[*self.entry["resources"], [filename, str(stored)]])

    def _begin(
        self, ex_info: Any, command: str, host_info: Any, config: Any, meta_info: Any, _id: Any, **fields: Any
    ) -> Any:
        if _id is None:
            number = self.claim(self.basedir)
            self._claimed = self.basedir / str(number)
        else:  # the user, or another observer, has chosen one
            number = _id
            (self.basedir / str(_id)).mkdir(parents=True, exist_ok=self._lock is not None)
        self.lock(number)
        directory = self.basedir / str(number)
        remove_partial(directory)
        former: dict[str, Any] = {}
        with contextlib.suppress(RecordError):
            former = read_run(directory)  # such as that of a queued run
        uid = former.get("uid") if former.get("status") == "QUEUED" else None
        self.entry = self._new_entry(ex_info, command, host_info, meta_info, uid) | fields
        self.entry["writes"] = former.get("writes", 0)
        (directory / "run.json").unlink(missing_ok=True)
        write_json(directory / "config.json", to_json(config))
        kept = cut(directory, 0) if (directory / METRICS).exists() else []
        self._journal = Journal(directory / METRICS, kept)
        # The record exists from here on: whatever stops the run before leaves a folder that counts as none.
        self.directory = directory
        self._update()
        return number

    def _new_entry(
        self, ex_info: Any, command: str, host_info: Any, meta_info: Any, uid: str | None = None
    ) -> dict[str, Any]:
        return {
            "uid": uid or uuid.uuid4().hex,  # differs from those of runs in other directories that have the same number
            "experiment": self._experiment(ex_info),
            "command": command,
            "host": to_json(host_info),
            "meta": without_credentials(to_json(meta_info)),
            "resources": [],
            "artifacts": [],
            **slurm_job(),
        }

    def _reopen(
        self, ex_info: Any, command: str, host_info: Any, time: Any, config: Any, meta_info: Any, _id: Any
    ) -> Any:
        directory, resume_at = self.basedir / str(_id), self.resume_at or 0
        remove_partial(directory)
        if (directory / "run.json").exists():
            stale = ("stop_time", "result", "fail_trace", "metrics_file")
            self.entry = {key: value for key, value in read_run(directory).items() if key not in stale}
        else:  # it was lost, and the checkpoint knows which run it was
            uid = self._checkpoint.record.get("uid") if self._checkpoint else None
            self.entry = self._new_entry(ex_info, command, host_info, meta_info, uid) | {"start_time": time.isoformat()}
            self.entry["writes"] = int(time.timestamp())  # more than the lost file had, which a database may have
        recorded: dict[str, Any] = {}
        with contextlib.suppress(RecordError):  # it is made again
            recorded = read_config(directory)
        new = to_json(dict(config)) | {key: recorded[key] for key in self.kept_config if key in recorded}
        start = {"time": time.isoformat(), "iteration": resume_at, "experiment": self._experiment(ex_info),
                 "host": to_json(host_info), "changed": differences(recorded, new), **slurm_job()}  # fmt: skip
        self._make_latest(directory / "checkpoints" / "latest.pt")
        self.directory = directory
        self._update(status="RUNNING")
        write_json(directory / "config.json", new)
        self._journal = Journal(directory / METRICS, cut(directory, resume_at))
        if (directory / METRICS).stat().st_size < _SMALL_FILE:
            self._fold()
        else:
            (directory / "metrics.json").unlink(missing_ok=True)
            self._points = SMALL  # it is made again at the end
        # A copy in a database is made again when `resumed` grows: by then the metrics are cut.
        self._update(**slurm_job(), resumed=[*self.entry.get("resumed", []), start])
        return _id

    def _make_latest(self, latest: Path) -> None:
        """Makes the checkpoint from which the run continues the latest, before the rows after it are cut."""
        if self._checkpoint is not None and self._checkpoint.path.resolve() != latest.resolve():
            content = self._checkpoint.path.read_bytes()
            atomic_write(latest, lambda file: file.write(content))

    def _experiment(self, ex_info: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the description of the code, and stores a copy of every source file in `_sources`."""
        root, directory = Path(ex_info["base_dir"]), self.basedir / "_sources"
        paths = [(name, root / name) for name, _ in ex_info["sources"]]
        remove_abandoned(directory)
        stored = [[name, _store(path.read_bytes(), path.stem, path.suffix, directory)] for name, path in paths]
        sources = [[name, str(copy.relative_to(self.basedir))] for name, copy in stored]
        repositories = [dict(repository) for repository in ex_info["repositories"]]
        changes = uncommitted_changes(root) if repositories else ""
        if changes:
            patch = _store(patch_bytes(changes), "uncommitted", ".diff", directory)
            repositories[0]["diff"] = str(patch.relative_to(self.basedir))
        return {**to_json(dict(ex_info)), "sources": sources, "repositories": repositories}

    def _check_metrics(self) -> None:
        if self._journal is not None and self._journal.check():
            path, rows = self._journal.path, self._journal.extent.rows
            print(f"warning: another program has changed {path}; its {rows} rows are restored", flush=True)

    def _fold(self) -> None:
        """Makes metrics.json from the lines of metrics.jsonl."""
        series = fold(read_rows(self._directory))
        self._points = self._folded = sum(len(one["steps"]) for one in series.values())
        atomic_write(self._directory / "metrics.json", lambda file: write_series(series, file), durable=False)

    def _update(self, **changes: Any) -> None:
        self.entry |= changes
        if self._journal is not None:
            self.entry["metrics_file"] = self._journal.extent._asdict()
        self.entry["writes"] = self.entry.get("writes", 0) + 1  # the newer one of two copies has the larger number
        write_json(self._directory / "run.json", self.entry)

    def _end(self, time: Any, status: str, **changes: Any) -> None:
        try:
            if self.directory is None or self._lock is None or not self._lock.is_mine():
                return  # the run could not be started, or another process continues it
            self._check_metrics()
            if status == "COMPLETED":  # a complete record is not changed any more
                self._fold()
            self._update(stop_time=time.isoformat(), status=status, **changes)
            if status != "COMPLETED" and self._journal is not None:  # last: such a process may have little time
                self._fold()
        finally:
            self.unlock()


def _store(content: bytes, stem: str, suffix: str, directory: Path) -> Path:
    """Writes the content to a file of `directory` whose name depends on the content, and returns its path."""
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    stored = directory / f"{stem}_{digest}{suffix}"
    if not stored.exists():
        directory.mkdir(parents=True, exist_ok=True)
        atomic_write(stored, lambda file: file.write(content), durable=False)
    return stored
