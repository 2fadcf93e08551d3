"""The command `submit`."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from research.files import next_number
from research.terminal import printable
from slurm import scheduler
from slurm.arrays import Terms
from slurm.check import Place, check_there
from slurm.execute import array_size, execute
from slurm.folder import Folder, Submission, new_folder, next_folder, publish, sweeps_dir
from slurm.known import Past, past_runs
from slurm.plan import Plan, fill_folder, make_plan
from slurm.profile import Profile, load_profile
from slurm.snapshot import take_snapshot
from slurm.sweep import Sweep, load_sweep
from slurm.task import ROOT, python_path

if TYPE_CHECKING:
    from slurm.checking import Checked
    from slurm.identity import ChangedDefault


def submit(arguments: argparse.Namespace) -> int:
    """Submits a sweep. Returns the exit status.

    Raises:
        SlurmError: The sweep is invalid or there is no Slurm, and nothing was submitted; or Slurm refuses an array.
    """
    profile = load_profile(arguments.profile or "local").throttled(arguments.throttle)
    sweep = load_sweep(arguments.sweep)
    is_here = scheduler.is_here()
    pasts = [] if arguments.force else past_runs(arguments.runs_dir, scheduler.queue() if is_here else {})
    submission = Submission(uuid.uuid4().hex[:12], str(ROOT), python_path(ROOT))
    own = profile if profile.has_environment and not arguments.local else None
    with _folder(arguments, submission) as (folder, lock):
        place = Place(folder.code_or(ROOT), submission, own, folder.path)
        plan = make_plan(arguments.sweep, sweep, _check(sweep, pasts, place, arguments), pasts)
        if not (arguments.local or arguments.dry_run or is_here):
            scheduler.max_array_size()  # raises NoSlurmError with advice
        size = array_size(arguments)
        lines = plan.lines(size)
        _report(plan, lines)
        if not any(lines):
            print("Nothing to submit before those runs complete." if any(plan.new()) else "Nothing is left to do.")
            return 0
        if arguments.dry_run:
            return _rehearse(plan, lines, profile, arguments)
        fill_folder(plan, folder, profile)
        folder = publish(folder, plan.path.stem)
        print(f"Written: {printable(folder.path)}")
        terms = Terms(profile, folder.code_or(ROOT))
        if not arguments.local:
            return execute(folder, lines, terms, arguments, plan.queued(), lock)
    return execute(folder, lines, terms, arguments)


@contextlib.contextmanager
def _folder(arguments: argparse.Namespace, submission: Submission) -> Iterator[tuple[Folder, int]]:
    """Yields a hidden folder with the code of the submission, and its lock; of a dry run, one among temporary files."""
    with contextlib.ExitStack() as stack:
        if arguments.dry_run:
            folder, lock = Folder(Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve()), -1
        else:
            folder, lock = stack.enter_context(new_folder(sweeps_dir(arguments.runs_dir), submission))
        if not arguments.no_snapshot:
            take_snapshot(ROOT, folder.code, arguments.runs_dir)
        yield folder, lock


def _check(sweep: Sweep, pasts: Sequence[Past], place: Place, arguments: argparse.Namespace) -> Checked:
    """Returns the checked sweep. Code that runs in place, in this environment, is checked by this process."""
    if arguments.no_snapshot and place.profile is None:
        from slurm.checking import check  # torch takes seconds to import

        return check(sweep, arguments.sweep, ROOT, pasts)
    return check_there(sweep, arguments.sweep, pasts, place)


def _report(plan: Plan, lines: Sequence[Sequence[int]]) -> None:
    """Prints the size of a sweep, what is skipped, and which defaults have changed."""
    past = plan.past()
    print(f"{printable(plan.path)}: {sum(map(len, past))} runs of {plan.checked.name}, every configuration is valid.")
    for kind, what in (("completed", "have completed"), ("live", "wait or run")):
        same = plan.runs(kind)
        if same:
            print(f"{len(same)} {what} already and are skipped: {_some(same)}. --force repeats them.")
    unstarted = plan.runs("unstarted")
    if unstarted:
        print(f"{len(unstarted)} were submitted before and never started; they keep their ids: {_some(unstarted)}.")
    held = sum(map(len, plan.new())) - sum(map(len, lines))
    if held:
        print(f"{held} depend on unfinished runs of another sweep and are not submitted; `retry` submits them later.")
    for text in _describe(plan.checked.changed):
        print(text)


def _describe(changed: Sequence[ChangedDefault]) -> Iterator[str]:
    """Yields a line for each default that has changed."""
    ordered = sorted(changed, key=lambda one: (one.key, repr(one.was), one.run))
    for (key, was, now), group in itertools.groupby(ordered, key=lambda one: (one.key, repr(one.was), repr(one.now))):
        runs = [one.run for one in group]
        yield (
            f"{key}: the default is {now} and was {was} in {_some(runs)}. Another default makes another experiment, so "
            f"these do not count; {key}: {was} in the sweep would count them."
        )


def _rehearse(plan: Plan, lines: Sequence[Sequence[int]], profile: Profile, arguments: argparse.Namespace) -> int:
    """Prints what would be written and submitted. Returns the exit status."""
    folder = next_folder(sweeps_dir(arguments.runs_dir), plan.path.stem)
    first, count = next_number(arguments.runs_dir), plan.missing()
    copy = "" if arguments.no_snapshot else " and a copy of the code"
    print(f"Would write {printable(folder.path)} with the manifest{copy}.")
    if count:
        print(f"Would claim the ids {first} to {first + count - 1}, unless another run starts first:")
    for stage, entries in enumerate(plan.stages(range(first, first + count))):
        for line in lines[stage]:
            entry = entries[line]
            named = " ".join([entry.script, entry.command, *entry.named_configs])
            print(f"  run {entry.run}: {named} {entry.overrides}")
    code = ROOT if arguments.no_snapshot else folder.code
    return execute(folder, lines, Terms(profile, code), arguments, plan.queued())


def _some(runs: Sequence[int]) -> str:
    shown = ", ".join(map(str, runs[:10]))
    return f"runs {shown}, …" if len(runs) > 10 else f"run {shown}" if len(runs) == 1 else f"runs {shown}"
