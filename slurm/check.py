"""Checks a sweep where its jobs will run: on their copy of the code, in their interpreter, with their PYTHONPATH.

One interpreter checks the whole sweep: `python -m slurm check REQUEST ANSWER`, with two JSON files.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slurm.errors import SlurmError

if TYPE_CHECKING:
    from slurm.checking import Checked
    from slurm.folder import Submission
    from slurm.known import Past
    from slurm.profile import Profile
    from slurm.sweep import Sweep


class Place(NamedTuple):
    """The place where jobs will run.

    Attributes:
        code: Root directory of the code.
        submission: Facts of the submission.
        profile: Profile whose environment the jobs have; None for the environment of this process.
        directory: Directory for files of the check, which jobs can read.
    """

    code: Path
    submission: Submission
    profile: Profile | None
    directory: Path


def check_there(sweep: Sweep, path: Path, pasts: Sequence[Past], place: Place) -> Checked:
    """Returns `checking.check` of a sweep, made by an interpreter as the jobs have it.

    If the environment of the profile cannot start an interpreter on this machine, as modules and containers may not
    exist on a login node, a warning says so, and the interpreter of this process makes the check.

    Raises:
        SlurmError: The experiment cannot be loaded there, or a configuration is invalid.
    """
    from research.conversion import to_mapping

    request = {"sweep": to_mapping(sweep), "path": str(path), "pasts": pasts}
    if place.profile is not None:
        answer, problem = _ask(request, place, _shell(place.profile))
        if answer is not None:
            return _checked(answer, place)
        print(
            f"warning: the environment of the profile cannot start Python on this machine ({problem}); the sweep is "
            f"checked with {sys.executable} instead",
            file=sys.stderr,
        )
    answer, problem = _ask(request, place, [sys.executable])
    if answer is None:
        raise SlurmError(f"{path}: the check could not be started in {place.code}: {problem}")
    return _checked(answer, place)


def _shell(profile: Profile) -> list[str]:
    """Returns the command that starts Python as `array.sbatch` does."""
    lines = f'{profile.environment()}export PYTHONPATH=$PWD${{PYTHONPATH:+:$PYTHONPATH}}\nexec "${{PYTHON[@]}}" "$@"'
    return ["bash", "-c", lines, "bash"]


def _ask(request: Mapping[str, Any], place: Place, python: Sequence[str]) -> tuple[dict[str, Any] | None, str]:
    """Returns the answer of an interpreter, None if it did not start; and the last line of its errors."""
    from slurm.task import surroundings

    name = uuid.uuid4().hex
    files = [place.directory / f".{name}.{kind}.json" for kind in ("request", "answer")]
    environment = {**surroundings(place.code, place.submission), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        files[0].write_text(json.dumps(request), encoding="utf-8")
        words = [*python, "-m", "slurm", "check", *map(str, files)]
        done = subprocess.run(
            words, cwd=place.code, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
        problem = (done.stderr.strip().splitlines() or [f"{shlex.join(python)[:60]}: status {done.returncode}"])[-1]
        if not files[1].exists():
            return None, problem
        answer = json.loads(files[1].read_text(encoding="utf-8") or "null")
        return (answer or {"error": f"the check in {place.code} ended with status {done.returncode}: {problem}"}), ""
    except OSError as error:
        return None, str(error)
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def _checked(answer: Mapping[str, Any], place: Place) -> Checked:
    """Returns the result in an answer. Raises SlurmError if the answer is an error, with paths of the checkout."""
    from slurm.changes import Changes
    from slurm.checking import Checked, Configuration
    from slurm.identity import ChangedDefault, Identity

    if "error" in answer:
        raise SlurmError(answer["error"].replace(str(place.code), place.submission.root))
    rows = (Configuration(*row) for row in answer["configurations"])
    configurations = [row._replace(identity=Identity(*row.identity)) for row in rows]
    changed = [ChangedDefault(*row) for row in answer["changed"]]
    return Checked(
        answer["script"], answer["name"], configurations, answer["past"], changed, Changes(*answer["changes"])
    )


def answer(request: Path, response: Path) -> None:
    """Checks the sweep of a request and writes the answer. The empty file says that the interpreter has started."""
    response.touch()
    from research.conversion import from_mapping
    from research.files import write_text
    from slurm.checking import check
    from slurm.known import Past
    from slurm.sweep import Sweep
    from slurm.task import ROOT

    asked = json.loads(request.read_text(encoding="utf-8"))
    pasts = [Past(*row) for row in asked["pasts"]]
    try:
        checked = check(from_mapping(Sweep, asked["sweep"]), Path(asked["path"]), ROOT, pasts)
        result = checked._asdict()
    except SlurmError as error:
        result = {"error": str(error)}
    write_text(response, json.dumps(result))
