"""The code as it is at submission, so that what is edited afterwards changes no run that waits in a queue."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from research.files import write_json
from research.tracking.provenance import SNAPSHOT, without_credentials
from slurm.errors import SlurmError

_MOST_UNTRACKED = 50 * 2**20


def take_snapshot(root: Path, target: Path) -> None:
    """Copies a checkout's files as they stand, those that git does not know and does not ignore included.

    Args:
        root: The checkout.
        target: The copy, which must not exist.

    Raises:
        SlurmError: This is no checkout, or there are more than 50 MiB that git does not know.
    """
    commit = _git(root, "rev-parse", "HEAD").strip()
    diff = _git(root, "diff", "HEAD", "--no-ext-diff", "--no-color").strip()
    tracked = _names(root, "--cached")
    untracked = _names(root, "--others", "--exclude-standard")
    _refuse_data(root, untracked)
    for name in sorted({*tracked, *untracked}):
        if (root / name).is_file():  # and not a tracked one that was deleted
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name, follow_symlinks=False)
    try:
        url = _git(root, "remote", "get-url", "origin").strip()
    except SlurmError:
        url = f"file://{root}"
    state = {"url": without_credentials(url), "commit": commit, "dirty": bool(diff or untracked), "diff": diff}
    write_json(target / SNAPSHOT, state)


def _names(root: Path, *options: str) -> list[str]:
    return [name for name in _git(root, "ls-files", "-z", *options).split("\0") if name]


def _refuse_data(root: Path, names: list[str]) -> None:
    sizes = {name: (root / name).stat().st_size for name in names if (root / name).is_file()}
    if sum(sizes.values()) > _MOST_UNTRACKED:
        largest = max(sizes, key=lambda name: sizes[name])
        raise SlurmError(
            f"the copy of the code would take {sum(sizes.values()) / 2**20:.0f} MiB of files that git does not know, "
            f"{largest} first of all; name them in .gitignore, or submit with --no-snapshot"
        )


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, encoding="utf-8", errors="replace", check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        raise SlurmError(
            f"the code cannot be copied: `git {' '.join(arguments)}` in {root} says {reason.strip()!r}. "
            f"--no-snapshot runs it from where it is"
        ) from error
    return done.stdout
