"""Begins or continues a search: its check, its folder and its workers."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import tempfile
import uuid
from pathlib import Path

from research.terminal import printable
from slurm import guard, scheduler
from slurm.arrays import Terms, Waiting, adopt, commands, submit_arrays
from slurm.check import Place
from slurm.errors import SlurmError
from slurm.folder import Array, Submission, new_folder, publish
from slurm.local import Work, do
from slurm.profile import Profile, load_profile, write_profile
from slurm.search.check import check_search
from slurm.search.file import SearchFile, load_search
from slurm.search.folder import Facts, StudyFolder, find_study, searches_dir
from slurm.search.shown import show
from slurm.search.studies import create_study, open_study
from slurm.snapshot import take_snapshot
from slurm.task import ROOT, python_path


def begin(arguments: argparse.Namespace) -> int:
    """Begins or continues the search of a file. Returns the exit status.

    Raises:
        SlurmError: The file is invalid, or Slurm refuses the workers.
    """
    file = load_search(arguments.search)
    profile = load_profile(arguments.profile or "local").throttled(arguments.throttle)
    if profile.ntasks not in (None, 1):
        raise SlurmError(f"--profile {arguments.profile}: ntasks={profile.ntasks}: a search trains each trial in one "
                         "process; need ntasks: 1")  # fmt: skip
    if not (arguments.local or arguments.dry_run):
        scheduler.max_array_size()  # raises NoSlurmError with advice
    folder = None if arguments.new else _continued(arguments.runs_dir, arguments.search.stem, file)
    if folder is None:
        folder = _new(arguments, file, profile)
        if folder is None:
            return 0
    elif not arguments.dry_run:
        folder.write(arguments.search, folder.facts())
        write_profile(folder.path, profile)
        print(f"{printable(folder.name)}: continues with {len(open_study(folder).trials())} trials.")
    return _run(folder, profile, arguments)


def _continued(runs_dir: Path, name: str, file: SearchFile) -> StudyFolder | None:
    """Returns the last study of a name, if its file is the same but for the budget; None otherwise."""
    folder = find_study(runs_dir, name) if (searches_dir(runs_dir)).is_dir() else None
    return folder if folder is not None and folder.file().apart_from_budget(file) else None


def _new(arguments: argparse.Namespace, file: SearchFile, profile: Profile) -> StudyFolder | None:
    """Checks a search and returns its new folder; None after a dry run, which prints what was checked."""
    submission = Submission(uuid.uuid4().hex[:12], str(ROOT), python_path(ROOT))
    own = profile if profile.has_environment and not arguments.local else None
    path = arguments.search
    with contextlib.ExitStack() as stack:
        if arguments.dry_run:
            hidden = StudyFolder(Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve())
        else:
            parent = searches_dir(arguments.runs_dir)
            hidden = StudyFolder(stack.enter_context(new_folder(parent, submission))[0].path)
        if not arguments.no_snapshot:
            take_snapshot(ROOT, hidden.code, arguments.runs_dir)
        facts = check_search(file, path, Place(hidden.code_or(ROOT), submission, own, hidden.path), arguments)
        print(f"{printable(path)}: {file.method.name} over {len(file.space)} settings of {facts.name}, trials of "
              f"{facts.length} iterations; the ends of the space and the first draws are valid.")  # fmt: skip
        if arguments.dry_run:
            _rehearse(file, facts, profile, arguments)
            return None
        hidden.write(path, facts)
        write_profile(hidden.path, profile)
        create_study(hidden)
        folder = StudyFolder(publish(hidden, path.stem).path)
    print(f"Written: {printable(folder.path)}")
    return folder


def _rehearse(file: SearchFile, facts: Facts, profile: Profile, arguments: argparse.Namespace) -> None:
    for key, spec in file.space.items():
        print(f"  {printable(key)}: {printable(spec.describe())}")
    if arguments.local:
        print(f"Would start {arguments.jobs} workers on this machine.")
        return
    folder = StudyFolder(searches_dir(arguments.runs_dir) / f"{arguments.search.stem}-N")
    array = Array(0, 0, list(range(arguments.jobs)))
    for line in commands(folder, [[Waiting(array, False)]], Terms(profile, folder.code)):
        print(f"Would run:\n  {printable(line)}")


def _run(folder: StudyFolder, profile: Profile, arguments: argparse.Namespace) -> int:
    """Starts workers. Returns the exit status: that of the search, or 0 if Slurm has the workers."""
    if arguments.dry_run:
        print(f"Would continue {printable(folder.name)} with {arguments.jobs} workers.")
        return 0
    if not arguments.local:
        return _submit(folder, profile, arguments)
    work = [Work(0, index) for index in range(arguments.jobs)]
    ended = do(folder, work, arguments.jobs, lambda text: print(printable(text), flush=True))
    show(folder, arguments)
    if all(ended.get((0, index)) == 0 for index in range(arguments.jobs)):
        return 0
    print(f"Continue it:  python -m slurm search {_word(arguments.search)} --local -j {arguments.jobs}")
    return 1


def _submit(folder: StudyFolder, profile: Profile, arguments: argparse.Namespace) -> int:
    """Submits an array of workers, as many as are missing. Returns the exit status."""
    with guard.hold(folder.submitting, "submits it") as lock:
        queue = scheduler.queue()
        adopt(folder, queue)
        own = {array.job for array in folder.arrays()}
        waiting = sum(job in own for job, _ in queue)
        missing = arguments.jobs - waiting
        if missing < 1:
            print(f"{waiting} workers of {printable(folder.name)} wait or run already; -j {waiting + 1} adds one.")
            return 0
        array = Array(0, 0, list(range(missing)))
        for done in submit_arrays(folder, [[Waiting(array, False)]], Terms(profile, folder.code_or(ROOT)), lock):
            print(f"Submitted job {done.job}: {missing} workers.")
    print(f"Watch them:  python -m slurm search {_word(arguments.search)} --status")
    return 0


def _word(path: Path) -> str:
    return printable(shlex.quote(str(path)))
