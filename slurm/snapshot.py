"""Copies the code at submission, so that later edits do not change runs that wait in the queue."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from research.files import write_json
from research.tracking.provenance import SNAPSHOT, git_state, uncommitted_changes
from slurm.errors import SlurmError

_MOST_UNTRACKED = 50 * 2**20


def take_snapshot(root: Path, target: Path) -> None:
    """Copies the files of a git checkout: tracked files with their changes, and untracked files that are not ignored.

    Args:
        root: The checkout.
        target: The copy, which must not exist.

    Raises:
        SlurmError: `root` is not a git checkout, or its untracked files exceed 50 MiB.
    """
    commit = _git(root, "rev-parse", "HEAD").strip()
    tracked = _names(root, "--cached")
    untracked = _names(root, "--others", "--exclude-standard")
    _refuse_data(root, untracked)
    for name in sorted({*tracked, *untracked}):
        if (root / name).is_file():  # a tracked file may have been deleted
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name, follow_symlinks=False)
    state = git_state(root) or [{"url": f"file://{root}", "commit": commit, "dirty": True}]  # all of it is new
    write_json(target / SNAPSHOT, state[0] | {"diff": uncommitted_changes(root)})


def _names(root: Path, *options: str) -> list[str]:
    return [name for name in _git(root, "ls-files", "-z", *options).split("\0") if name]


def _refuse_data(root: Path, names: list[str]) -> None:
    sizes = {name: (root / name).stat().st_size for name in names if (root / name).is_file()}
    if sum(sizes.values()) > _MOST_UNTRACKED:
        largest = max(sizes, key=lambda name: sizes[name])
        raise SlurmError(
            f"the copy of the code would include {sum(sizes.values()) / 2**20:.0f} MiB of untracked files, the largest "
            f"is {largest}; add them to .gitignore, or submit with --no-snapshot"
        )


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, encoding="utf-8", errors="replace", check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        raise SlurmError(
            f"cannot copy the code: `git {' '.join(arguments)}` in {root} failed with {reason.strip()!r}. "
            f"--no-snapshot runs the code in place"
        ) from error
    return done.stdout
