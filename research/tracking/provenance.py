"""Origin of a run: the code that it ran, as commit, files and library versions, and its Slurm job."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

SNAPSHOT = ".snapshot.json"
"""File in a copy of the code that jobs run from; slurm/snapshot.py writes it."""

_FIELD = re.compile(r"^(Name|Version):[ \t]*(.*?)\s*$", re.MULTILINE)
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
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        # `distribution.metadata` parses descriptions of thousands of lines, too, and takes ten times as long.
        # The empty name is for a distribution that is a single file, `<name>.egg-info`.
        text = next(filter(None, map(distribution.read_text, ("METADATA", "PKG-INFO", ""))), "")
        fields = dict(_FIELD.findall(text.partition("\n\n")[0]))
        if "Name" in fields:
            found[fields["Name"].lower()] = fields.get("Version", "")
    return tuple(f"{name}=={version}" for name, version in sorted(found.items()))


def git_state(root: Path) -> list[dict[str, Any]]:
    """Returns `[{"url", "commit", "dirty"}]` of the checkout that has `root`, or of the one that `root` is a copy of.

    `dirty` is true if the files differ from the commit, or there are new files that are not ignored. Two more entries
    may follow: `folder`, the path of `root` in a larger repository; and `not_in_patch`, new files that
    `uncommitted_changes` leaves out. The list is empty without a commit that has `root`, see `why_no_commit`.
    """
    copied = snapshot_of(root)
    if copied is not None:
        return [{key: copied[key] for key in ("url", "commit", "dirty", "folder", "not_in_patch") if key in copied}]
    if why_no_commit(root):
        return []
    top, commit, folder = (_line(root, "rev-parse", option) for option in ("--show-toplevel", "HEAD", "--show-prefix"))
    url = _line(root, "remote", "get-url", "origin") or f"file://{top}"
    state = {"url": without_credentials(url), "commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "."))}
    _, left_out = _new_files(root)
    return [state | ({"folder": folder} if folder else {}) | ({"not_in_patch": left_out} if left_out else {})]


def why_no_commit(root: Path) -> str:
    """Returns the reason why `root` belongs to no commit, in words of git where it has some; empty if it does."""
    for arguments in (["--verify", "HEAD"], ["--verify", "HEAD:./"]):  # the commit, and this folder in it
        done = _run(root, "rev-parse", *arguments)
        if isinstance(done, OSError):
            return f"git cannot be run ({done.strerror})"
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            return said[0].removeprefix("fatal: ") if said else "git gives no reason"
    return ""


def snapshot_of(root: Path) -> dict[str, Any] | None:
    """Returns `{"url", "commit", "dirty", "diff"}` of the checkout that `root` is a copy of; None if it is no copy."""
    path = root / SNAPSHOT
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def uncommitted_changes(root: Path) -> str:
    """Returns a patch from the commit to the files of `root`, new ones included; empty without a commit or a change.

    `git apply` of its bytes, see `patch_bytes`, in a clean checkout gives the same files: also binary ones, and those
    with other encodings or line ends. New files above 1 MiB and records of runs are left out.
    """
    copied = snapshot_of(root)
    if copied is not None:
        return str(copied["diff"])
    index = _line(root, "rev-parse", "--git-path", "index")
    if why_no_commit(root) or index is None:
        return ""
    with tempfile.TemporaryDirectory() as directory:  # the index of the checkout stays as it is
        own = {"GIT_INDEX_FILE": str(Path(directory, "index"))}
        if (root / index).is_file():
            # With its time, by which git finds the files that changed in the instant when the index was written.
            shutil.copy2(root / index, own["GIT_INDEX_FILE"])
        # "Intent to add" makes new files a part of the difference and stores nothing. It fails when a file has gone
        # since it was listed.
        for _attempt in range(_TRIES):
            names, _ = _new_files(root)
            if _git(root, "--literal-pathspecs", "add", "--intent-to-add", "--pathspec-from-file=-",
                    "--pathspec-file-nul", send="\0".join(names), environment=own) is not None:  # fmt: skip
                break
        return _git(root, *_PLAIN, "diff", "HEAD", *_COMPLETE, ".", environment=own) or ""


def patch_bytes(text: str) -> bytes:
    """Returns the bytes of a patch or of a name, in which those that are not UTF-8 are lone surrogates."""
    return text.encode("utf-8", "surrogateescape")


_PLAIN = [word for key in ("diff.noprefix", "diff.mnemonicPrefix", "diff.relative", "core.safecrlf")
          for word in ("-c", f"{key}=false")]  # fmt: skip
_COMPLETE = ["--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--unified=3",
             "--submodule=short", "--ignore-submodules=dirty", "--src-prefix=a/", "--dst-prefix=b/"]  # fmt: skip

_MOST_BYTES = 1 << 20
_MOST_NAMES = 20
_TRIES = 3


def _new_files(root: Path) -> tuple[list[str], list[str]]:
    """Returns the names of the new files that a patch has, and of those that it leaves out; of many, the first ones."""
    names = [
        name for name in (_git(root, "ls-files", "--others", "--exclude-standard", "-z") or "").split("\0") if name
    ]
    records = {Path(name).parent for name in names if Path(name).name == "run.json"}
    records |= {path.parent for path in records} - {Path()}  # directories of runs, too
    kept, left_out = [], dict[str, None]()
    for name in names:
        of_record = next((path for path in Path(name).parents if path in records), None)
        if of_record is not None:
            left_out[f"{next(path for path in reversed(Path(name).parents) if path in records)}/"] = None
        elif not name.endswith("/") and _is_small(os.path.join(os.fsencode(root), patch_bytes(name))):
            kept.append(name)
        else:
            left_out[name] = None
    more = [f"and {len(left_out) - _MOST_NAMES} more"] if len(left_out) > _MOST_NAMES else []
    return kept, [*list(left_out)[:_MOST_NAMES], *more]


def _is_small(path: bytes) -> bool:
    try:
        return os.lstat(path).st_size <= _MOST_BYTES
    except FileNotFoundError:  # a file of another program, which has removed it meanwhile
        return False


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


def _run(
    root: Path, *arguments: str, send: str = "", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes] | OSError:
    # Without its optional locks, git takes none that a commit of the user at that moment would find.
    environment = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", **(environment or {})}
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, input=patch_bytes(send), env=environment, capture_output=True, check=False)
    except OSError as error:
        return error


def _git(root: Path, *arguments: str, **how: Any) -> str | None:
    """Returns the output of git as it is, with surrogates for bytes that are not UTF-8; None if it fails."""
    done = _run(root, *arguments, **how)
    return None if isinstance(done, OSError) or done.returncode else done.stdout.decode("utf-8", "surrogateescape")


def _line(root: Path, *arguments: str) -> str | None:
    """Returns the line that git prints; None if it fails."""
    output = _git(root, *arguments)
    return None if output is None else output.removesuffix("\n")
