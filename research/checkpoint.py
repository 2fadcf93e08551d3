"""Saving and restoring the state of a training run, which is a tree of tensors and numbers of any algorithm.

A checkpoint is one file of plain containers that `torch.load(..., weights_only=True)` reads, so that opening it runs no
code. It is replaced atomically: the file is either the new checkpoint or the previous one.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from research.files import atomic_write, remove_partial

FORMAT = 1
_ARCHIVE = b"PK\x03\x04"  # start of a zip file, which torch.save writes
_KEYS = {"format", "algorithm", "config", "iteration", "score", "state"}
_SCALARS = (bool, int, float, str, type(None))


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
    """

    path: Path
    algorithm: str
    config: dict[str, Any]
    iteration: int
    score: float | None
    state: Any

    def restore(self, like: Any) -> Any:
        """Returns the state with the structure and devices of `like`.

        Args:
            like: A state of the same algorithm and settings, e.g. the initial one.

        Raises:
            CheckpointError: Names, shapes or dtypes differ because the state belongs to other settings.
        """
        try:
            return from_plain(self.state, like)
        except _MismatchError as error:
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
    """

    directory: Path
    algorithm: str
    config: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        remove_partial(self.directory)
        self.best_score = load(self.best).score if self.best.exists() else None

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
        content = {
            "format": FORMAT,
            "algorithm": self.algorithm,
            "config": dict(self.config),
            "iteration": int(state.iteration),
            "score": None if score is None or math.isnan(score) else float(score),
            "state": to_plain(state),
        }
        if content["score"] is not None and (self.best_score is None or content["score"] > self.best_score):
            atomic_write(self.best, lambda file: torch.save(content, file))
            self.best_score = content["score"]
        atomic_write(self.latest, lambda file: torch.save(content, file))


def load(path: Path | str) -> Checkpoint:
    """Reads a checkpoint; `.pt` may be left out of the path.

    Raises:
        CheckpointError: The file is missing, damaged, or not a checkpoint of this project.
    """
    path = _existing(Path(path))
    _refuse_other_files(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _foreign(path, "it holds something other than tensors and plain values") from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise _damaged(path, str(error).splitlines()[0] if str(error) else "it ends too early") from error
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        keys = ", ".join(sorted(map(str, content))[:8]) if isinstance(content, dict) else None
        found = f"a {type(content).__name__}" if keys is None else f"the entries {keys or '(none)'}"
        raise _foreign(path, f"found {found}, expected the entries {', '.join(sorted(_KEYS))}")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {content['format']!r}, this version reads {FORMAT}. "
            f"Use the version of the code that wrote it."
        )
    return Checkpoint(path, *(content[key] for key in ("algorithm", "config", "iteration", "score", "state")))


def _existing(path: Path) -> Path:
    for candidate in (path, Path(f"{path}.pt")):
        if candidate.is_file():
            return candidate
    if path.parent.is_dir():
        there = ", ".join(sorted(file.name for file in path.parent.glob("*.pt"))) or "no checkpoint"
        raise CheckpointError(f"{path}: no such checkpoint; in {path.parent} there is {there}.")
    raise CheckpointError(f"{path}: no such checkpoint, and no directory {path.parent}.")


def _refuse_other_files(path: Path) -> None:
    """Raises CheckpointError unless the file begins like the archives of torch.save."""
    with path.open("rb") as file:
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


def to_plain(tree: Any, path: str = "state") -> Any:
    """Returns the tree with dicts for NamedTuples, lists for tuples, and copies of the tensors on the CPU.

    Raises:
        TypeError: A leaf is neither a tensor nor a bool, int, float, str or None.
    """
    if isinstance(tree, Tensor):
        return tree.detach().cpu().clone()
    if isinstance(tree, Mapping):
        return {key: to_plain(value, f"{path}[{key!r}]") for key, value in tree.items()}
    if _is_namedtuple(tree):
        return {name: to_plain(value, f"{path}.{name}") for name, value in tree._asdict().items()}
    if isinstance(tree, (list, tuple)):
        return [to_plain(value, f"{path}[{index}]") for index, value in enumerate(tree)]
    if type(tree) in _SCALARS:
        return tree
    raise TypeError(f"{path}: a {type(tree).__name__} cannot be saved; use a tensor, bool, int, float, str or None")


class _MismatchError(Exception):
    """A plain tree and a template differ. The message names the place."""


def from_plain(plain: Any, like: Any, path: str = "state") -> Any:
    """Returns the inverse of `to_plain`: the values of `plain` in the containers, on the devices of `like`.

    Tensors take `requires_grad` from `like`, too. A tensor without rows in `like`, such as that of a replay buffer
    before training, may have any number of rows in `plain`.
    """
    if isinstance(like, Tensor):
        return _tensor(plain, like, path)
    if isinstance(like, Mapping):
        _match_keys(plain, like.keys(), path)
        return {key: from_plain(plain[key], like[key], f"{path}[{key!r}]") for key in like}
    if _is_namedtuple(like):
        _match_keys(plain, like._fields, path)
        return type(like)(*(from_plain(plain[name], getattr(like, name), f"{path}.{name}") for name in like._fields))
    if isinstance(like, (list, tuple)):
        if not isinstance(plain, list) or len(plain) != len(like):
            raise _MismatchError(f"{path} has {_describe(plain)}, needed are {len(like)} entries")
        pairs = enumerate(zip(plain, like, strict=True))
        return type(like)(from_plain(*pair, f"{path}[{index}]") for index, pair in pairs)
    if type(plain) is not type(like):
        raise _MismatchError(f"{path} is {_describe(plain)}, needed is a value of type {type(like).__name__}")
    return plain


def _tensor(plain: Any, like: Tensor, path: str) -> Tensor:
    if not isinstance(plain, Tensor) or not _fits(plain, like):
        raise _MismatchError(f"{path} is {_describe(plain)}, needed is {_describe(like)}")
    return plain.to(like.device).requires_grad_(like.requires_grad)


def _fits(plain: Tensor, like: Tensor) -> bool:
    grows = like.ndim > 0 and len(like) == 0 and plain.ndim == like.ndim
    return plain.dtype == like.dtype and plain.shape[grows:] == like.shape[grows:]


def _match_keys(plain: Any, keys: Any, path: str) -> None:
    if not isinstance(plain, dict):
        raise _MismatchError(f"{path} is {_describe(plain)}, needed are entries {', '.join(map(str, keys))}")
    missing, foreign = (sorted(map(str, difference)) for difference in (set(keys) - set(plain), set(plain) - set(keys)))
    if missing or foreign:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(foreign)} too many"] * bool(foreign)
        raise _MismatchError(f"{path} {' and '.join(parts)}")


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {list(value.shape)}"
    if isinstance(value, list):
        return f"{len(value)} entries"
    return f"a {type(value).__name__}"


def _is_namedtuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")
