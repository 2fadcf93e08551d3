"""Saving and restoring the state of a training run, which is a tree of tensors and numbers of any algorithm.

A checkpoint is one file of plain containers that `torch.load(..., weights_only=True)` reads, so that opening it runs no
code. It is replaced atomically: the file is either the new checkpoint or the previous one. Checksums of all of its
contents are compared before any of them is used.
"""

from __future__ import annotations

import io
import logging
import math
import pickle
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from research.files import atomic_write, remove_partial
from research.plain_state import MismatchError, describe, from_plain, to_plain

FORMAT = 1
_ARCHIVE = b"PK\x03\x04"  # start of a zip file, which torch.save writes
_KEYS = {
    "format": (int,),
    "algorithm": (str,),
    "config": (dict,),
    "iteration": (int,),
    "score": (float, type(None)),
    "state": (dict,),
}
_CHUNK = 1 << 20  # bytes


class CheckpointError(ValueError):
    """A checkpoint cannot be used. The message names the file, the reason and the remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        path: Path of the file.
        algorithm: Name of the algorithm.
        config: Settings of the training as plain JSON values.
        iteration: Number of finished iterations.
        score: Score of the evaluation at that iteration, to be maximised; None without an evaluation.
        state: The state as plain containers, see `restore`.
        best_score: Highest score up to that iteration, that of `best.pt`; None if there was none, or if the file was
            written by a version that did not store it.
        record: Notes of the run that wrote it, see `FileObserver.mark`; empty if it made none.
    """

    path: Path
    algorithm: str
    config: dict[str, Any]
    iteration: int
    score: float | None
    state: Any
    best_score: float | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def restore(self, like: Any) -> Any:
        """Returns the state with the structure and devices of `like`.

        Args:
            like: A state of the same algorithm and settings, e.g. the initial one.

        Raises:
            CheckpointError: Names, shapes or dtypes differ because the state belongs to other settings.
        """
        try:
            return from_plain(self.state, like)
        except MismatchError as error:
            raise CheckpointError(
                f"{self.path} does not fit these settings: {error}. Use the settings it was trained with."
            ) from error

    def require_algorithm(self, algorithm: str) -> None:
        """Raises CheckpointError if the state belongs to another algorithm."""
        if self.algorithm != algorithm:
            raise CheckpointError(
                f"{self.path} holds a state of {self.algorithm!r}, not of {algorithm!r}. "
                f"Use the script of {self.algorithm!r}, or another checkpoint."
            )


@dataclass
class Checkpoints:
    """The checkpoints of one run: the last state in `latest.pt`, the one with the highest score in `best.pt`.

    Attributes:
        directory: Directory of the files; created if it is missing.
        algorithm: Name of the algorithm.
        config: Its settings as plain JSON values.
        continued: The checkpoint from which the run is continued; None for a new run.
        record: Function that returns the notes of the run for a checkpoint, as plain JSON values.
    """

    directory: Path
    algorithm: str
    config: Mapping[str, Any]
    continued: Checkpoint | None = None
    record: Callable[[], Mapping[str, Any]] = dict

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        remove_partial(self.directory)
        self.best_score = self._score_of_best()

    def _score_of_best(self) -> float | None:
        """Returns the best score so far; None without a best. A best that is lost is reported.

        A `best.pt` of later iterations is of a part of the run that is trained again, and is written again then.
        """
        expected = self.continued.best_score if self.continued else None
        if expected is None and not self.best.exists():
            return None
        try:
            best = load(self.best)
        except CheckpointError as error:
            score = "unknown" if expected is None else f"{expected:g}"
            logging.getLogger(__name__).warning(
                "%s The best state so far (score %s) is lost. From here on best.pt is the best of the evaluations that "
                "follow.", error, score)  # fmt: skip
            return None
        return best.score if best.iteration <= (self.continued.iteration if self.continued else 0) else expected

    @property
    def latest(self) -> Path:
        """The path of the latest checkpoint."""
        return self.directory / "latest.pt"

    @property
    def best(self) -> Path:
        """The path of the checkpoint with the best score."""
        return self.directory / "best.pt"

    def save(self, state: Any, score: float | None = None) -> None:
        """Saves the state as the latest, and as the best if its score is the highest so far.

        The best is written first: if the process is killed in between, a resumed run repeats the iterations since the
        latest. In the other order it would lose the best.
        """
        score = None if score is None or math.isnan(score) else float(score)
        is_best = score is not None and (self.best_score is None or score > self.best_score)
        best_score = score if is_best else self.best_score
        content = {
            "format": FORMAT,
            "algorithm": self.algorithm,
            "config": dict(self.config),
            "iteration": int(state.iteration),
            "score": score,
            "best_score": best_score,
            "state": to_plain(state),
            "record": dict(self.record()),
        }
        if is_best:
            atomic_write(self.best, lambda file: _write(content, file))
            self.best_score = best_score
        atomic_write(self.latest, lambda file: _write(content, file))


def _write(content: Mapping[str, Any], file: IO[bytes]) -> None:
    """Writes a file of `torch.save`. Raises OSError where torch raises another error, e.g. if the disk is full."""
    import torch  # here: a program that only looks for checkpoints does without, see also `_read`

    try:
        torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load(path: Path | str) -> Checkpoint:
    """Reads a checkpoint; `.pt` may be left out of the path.

    Raises:
        CheckpointError: The file is missing, damaged, or not a checkpoint of this project.
    """
    path = existing(Path(path))
    content = _read(path)
    if not isinstance(content, dict) or not content.keys() >= _KEYS.keys():
        keys = ", ".join(sorted(map(str, content))[:8]) if isinstance(content, dict) else None
        found = f"a {type(content).__name__}" if keys is None else f"the entries {keys or '(none)'}"
        raise _foreign(path, f"found {found}, expected the entries {', '.join(sorted(_KEYS))}")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {content['format']!r}, this version reads {FORMAT}. "
            f"Use the version of the code that wrote it."
        )
    for key, types in _KEYS.items():
        if type(content[key]) not in types:
            raise _foreign(path, f"its entry {key} is {describe(content[key])}")
    best_score, record = content.get("best_score"), content.get("record")
    entries = {key: content[key] for key in ("algorithm", "config", "iteration", "score", "state")}
    return Checkpoint(path, **entries, best_score=best_score if type(best_score) is float else None,
                      record=record if type(record) is dict else {})  # fmt: skip


def _read(path: Path) -> Any:
    """Returns the content of a file of `torch.save`. Raises CheckpointError."""
    import torch

    try:
        with path.open("rb") as file:
            _refuse_other_files(path, file)
            archive = _verified(file)
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # zipfile raises errors of many kinds for what is damaged
        if isinstance(error, OSError) and error.filename:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error
        raise _damaged(path, str(error) or "it ends too early") from error
    try:
        return torch.load(archive, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _foreign(path, "it holds something other than tensors and plain values") from error
    except MemoryError:
        raise
    except Exception as error:  # the file is as it was written, perhaps to make torch fail
        reason = (
            f"torch {torch.__version__} cannot read it ({type(error).__name__}: {f'{error}'.partition(chr(10))[0]})"
        )
        raise _foreign(path, reason) from error


def _verified(file: IO[bytes]) -> IO[bytes]:
    """Returns an archive in memory with the entries of a file of `torch.save`, whose checksums are right.

    torch's reader compares no checksum, and trusts the sizes in the directory of the archive: for one wrong bit it
    returns other numbers, or memory that nothing was written to. A new archive is therefore made of the entries.

    Raises:
        zipfile.BadZipFile: An entry is damaged. Damage of the directory can raise other errors, too.
    """
    clean = io.BytesIO()
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(clean, "w") as target:
        for entry in source.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise zipfile.BadZipFile(f"its directory is wrong about {entry.filename!r}")
            if entry.filename in target.NameToInfo:
                raise zipfile.BadZipFile(f"{entry.filename!r} is there twice")
            plain = zipfile.ZipInfo(entry.filename)
            with source.open(entry) as reader, target.open(plain, "w", force_zip64=True) as writer:
                shutil.copyfileobj(reader, writer, _CHUNK)
    clean.seek(0)
    return clean


def existing(path: Path) -> Path:
    """Returns the path of a checkpoint, with `.pt` if it was left out. Raises CheckpointError if there is none."""
    for candidate in (path, Path(f"{path}.pt")):
        if candidate.is_file():
            return candidate
    if path.parent.is_dir():
        there = ", ".join(sorted(file.name for file in path.parent.glob("*.pt"))) or "no checkpoint"
        raise CheckpointError(f"{path}: no such checkpoint; in {path.parent} there is {there}.")
    raise CheckpointError(f"{path}: no such checkpoint, and no directory {path.parent}.")


def _refuse_other_files(path: Path, file: IO[bytes]) -> None:
    """Raises CheckpointError unless the file begins like the archives of torch.save."""
    start = file.read(len(_ARCHIVE))
    if start != _ARCHIVE and _ARCHIVE.startswith(start):
        raise _damaged(path, "it ends too early")
    if start != _ARCHIVE:
        raise _foreign(path, f"it begins with {start!r}, expected {_ARCHIVE!r}")


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged, probably cut short ({path.stat().st_size} bytes; {reason}). "
        f"Use the other checkpoint of the run (latest.pt or best.pt), or a copy."
    )


def _foreign(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is no checkpoint of this project: {reason}. Use a file that a run here wrote, such as "
        f"runs/1/checkpoints/latest.pt."
    )
