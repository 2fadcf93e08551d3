"""Origin of a run: the code that it ran, as commit, files and library versions, and its Slurm job."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

SNAPSHOT = ".snapshot.json"
"""File in a copy of the code that jobs run from; slurm/snapshot.py writes it."""

_USER_INFO = re.compile(r"(?<=://)[^/@\s]*@")


def source_files(root: Path, main: Path | None) -> list[Path]:
    """Returns the files to keep with a run: the whole library, the script and every other imported file of the project.

    Files that belong to packages in a virtual environment inside the project are not its own.
    """
    loaded = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    imported = {Path(name).resolve() for name in loaded if name and "site-packages" not in name}
    # torch.classes names a file that does not exist.
    ours = {path for path in imported if path.suffix == ".py" and _is_ours(path, root) and path.is_file()}
    library = set((root / "research").rglob("*.py"))
    return sorted(ours | library | ({main.resolve()} if main else set()))


def _is_ours(path: Path, root: Path) -> bool:
    if root not in path.parents:
        return False
    parts = path.relative_to(root).parts
    return not any(part.startswith(".") or part in ("site-packages", "tests") for part in parts)


@functools.cache
def library_versions() -> tuple[str, ...]:
    """Returns every installed distribution as `name==version`, sorted."""
    found = {(dist.metadata["Name"] or "").lower(): dist.version for dist in metadata.distributions()}
    return tuple(f"{name}=={version}" for name, version in sorted(found.items()) if name)


def git_state(root: Path) -> list[dict[str, Any]]:
    """Returns `[{"url", "commit", "dirty"}]` of the checkout at `root`, or of the one that `root` is a copy of.

    `dirty` is true if the files differ from the commit, or there are new files that are not ignored. The list is empty
    if there is no checkout.
    """
    copied = snapshot_of(root)
    if copied is not None:
        return [{key: copied[key] for key in ("url", "commit", "dirty")}]
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if top is None or commit is None or Path(top).resolve() != root.resolve():
        return []
    url = _git(root, "remote", "get-url", "origin") or f"file://{top}"
    status = _git(root, "status", "--porcelain")
    return [{"url": without_credentials(url), "commit": commit, "dirty": status != ""}]


def snapshot_of(root: Path) -> dict[str, Any] | None:
    """Returns `{"url", "commit", "dirty", "diff"}` of the checkout that `root` is a copy of; None if it is no copy."""
    path = root / SNAPSHOT
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def uncommitted_changes(root: Path) -> str:
    """Returns the difference between tracked files and the commit as a patch; empty outside a checkout or a copy."""
    copied = snapshot_of(root)
    if copied is not None:
        return str(copied["diff"])
    return _git(root, "diff", "HEAD", "--no-ext-diff", "--no-color") or ""


def slurm_job() -> dict[str, dict[str, str]]:
    """Returns `{"slurm": {"job_id", "restart_count", "array_job_id", ...}}` within a Slurm job; empty elsewhere."""
    names = ("JOB_ID", "RESTART_COUNT", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "PROCID", "JOB_NODELIST", "JOB_PARTITION")
    ids = {name.lower(): os.environ[f"SLURM_{name}"] for name in names if f"SLURM_{name}" in os.environ}
    return {"slurm": {"restart_count": "0", **ids}} if "job_id" in ids else {}


def without_credentials(value: Any) -> Any:
    """Returns the value without the `user:password@` of the URLs in it, at any depth."""
    if isinstance(value, str):
        return _USER_INFO.sub("", value)
    if isinstance(value, dict):
        return {key: without_credentials(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_credentials(inner) for inner in value]
    return value


def _git(root: Path, *arguments: str) -> str | None:
    """Returns the output of git; None if git is missing or fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, encoding="utf-8", errors="replace", check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
