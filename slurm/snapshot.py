"""Copies the code at submission, so that later edits do not change runs that wait in the queue."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from research.files import write_json
from research.tracking.provenance import SNAPSHOT, git_state, uncommitted_changes
from slurm.errors import SlurmError

_MOST_UNTRACKED = 50 * 2**20
_NOT_CODE = (".git", "__pycache__")


def take_snapshot(root: Path, target: Path, runs_dir: Path | None = None) -> None:
    """Copies the files of a git checkout: tracked files with their changes, and untracked files that are not ignored.

    So are the files of its submodules and of repositories inside it. A link to a place inside the checkout that is
    copied stays a link; another one becomes a copy of the file or directory that it leads to.

    Args:
        root: The checkout.
        target: The copy, which must not exist.
        runs_dir: Directory of runs, which is not code even if a link leads to it.

    Raises:
        SlurmError: `root` is not a git checkout, or its untracked files and those behind links exceed 50 MiB.
    """
    commit = _git(root, "rev-parse", "HEAD").strip()
    untracked = _names(root, "--others", "--exclude-standard")
    copy = _Copy(root, target, [path.resolve() for path in (runs_dir,) if path is not None])
    copy.checkout(Path(), {*_names(root, "--cached"), *untracked}, set(untracked))
    state = git_state(root) or [{"url": f"file://{root}", "commit": commit, "dirty": True}]  # all of it is new
    write_json(target / SNAPSHOT, state[0] | {"diff": uncommitted_changes(root)})


class _Copy:
    """A copy in progress.

    Args:
        root: The checkout.
        target: Directory of the copy.
        left_out: Directories that are not copied.
    """

    def __init__(self, root: Path, target: Path, left_out: list[Path]):
        self._root, self._target, self._left_out = root.resolve(), target, left_out
        self._files: set[Path] = set()
        self._sizes: dict[str, int] = {}

    def checkout(self, inside: Path, names: Iterable[str], untracked: set[str]) -> None:
        """Copies named files of a checkout at `inside`, a path below the root; `untracked` ones count as data."""
        (self._target / inside).mkdir(parents=True, exist_ok=True)
        self._files |= {inside / name for name in names}
        links = []
        for name in sorted(names):
            source = self._root / inside / name
            if source.is_symlink():
                links.append(inside / name)
            elif source.is_dir():
                self._repository(inside / name)
            elif source.exists():  # a tracked file may have been deleted
                self._file(source, inside / name, str(inside / name) if name in untracked else None)
        for link in links:
            self._link(link)

    def _repository(self, inside: Path) -> None:
        """Copies a submodule or another repository in the checkout; one that is not initialised is empty."""
        directory = self._root / inside
        if directory.resolve() in self._left_out:
            return
        if not (directory / ".git").exists():
            (self._target / inside).mkdir(parents=True, exist_ok=True)
            return
        names = {*_names(directory, "--cached"), *_names(directory, "--others", "--exclude-standard")}
        self.checkout(inside, names, set())

    def _link(self, inside: Path) -> None:
        """Copies a link, or the file or directory that it leads to, under the name of the link."""
        source = self._root / inside
        end = Path(os.path.realpath(source))  # `resolve` raises an error for a loop of links
        if any(end == directory or end in directory.parents for directory in self._left_out):
            return
        within = end.relative_to(self._root) if end.is_relative_to(self._root) else None
        is_copied = within is not None and any(name == within or within in name.parents for name in self._files)
        if is_copied or not end.exists():
            text = os.path.relpath(self._root / within, source.parent) if within is not None else os.readlink(source)
            (self._target / inside).parent.mkdir(parents=True, exist_ok=True)
            (self._target / inside).symlink_to(text)
        elif end.is_file():
            self._file(end, inside, str(inside))
        else:
            for file in _files(end, (self._root, *self._left_out)):
                self._file(file, inside / file.relative_to(end), str(inside))
            (self._target / inside).mkdir(parents=True, exist_ok=True)

    def _file(self, source: Path, inside: Path, counted_as: str | None) -> None:
        """Copies a file. Raises SlurmError if those that are counted, each under a name, are too large together."""
        if counted_as is not None:
            self._sizes[counted_as] = self._sizes.get(counted_as, 0) + source.stat().st_size
            total = sum(self._sizes.values())
            if total > _MOST_UNTRACKED:
                largest = max(self._sizes, key=lambda name: self._sizes[name])
                raise SlurmError(
                    f"the copy of the code would include {total / 2**20:.0f} MiB or more of untracked files and files "
                    f"behind links, most of them in {largest}; add it to .gitignore, or submit with --no-snapshot"
                )
        (self._target / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, self._target / inside)


def _files(directory: Path, left_out: Iterable[Path]) -> Iterator[Path]:
    """Yields the files below a directory, through links too, each directory once.

    Args:
        directory: A directory without links in its path.
        left_out: Directories that are not entered, nor are those that contain them.
    """
    seen = {directory}
    for above, directories, names in os.walk(directory, followlinks=True):
        kept = []
        for name in directories:
            path = Path(above, name).resolve()
            is_left_out = any(path == other or path in other.parents for other in left_out)
            if name not in _NOT_CODE and path not in seen and not is_left_out:
                seen.add(path)
                kept.append(name)
        directories[:] = kept
        yield from (path for name in names if (path := Path(above, name)).is_file())


def _names(root: Path, *options: str) -> list[str]:
    return [name.rstrip("/") for name in _git(root, "ls-files", "-z", *options).split("\0") if name]


def _git(root: Path, *arguments: str) -> str:
    try:
        command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error).encode()
        raise SlurmError(
            f"cannot copy the code: `git {' '.join(arguments)}` in {root} failed with {os.fsdecode(reason).strip()!r}. "
            f"--no-snapshot runs the code in place"
        ) from error
    return os.fsdecode(done.stdout)
