"""The command `submit`."""

from __future__ import annotations

import argparse

from research.files import next_number
from slurm import scheduler
from slurm.arrays import Terms
from slurm.execute import execute
from slurm.folder import next_folder
from slurm.known import known_runs
from slurm.plan import Plan, make_plan, write_folder
from slurm.profile import Profile, load_profile
from slurm.task import ROOT


def submit(arguments: argparse.Namespace) -> int:
    """Submits a sweep. Returns the exit status.

    Raises:
        SlurmError: The sweep is invalid or there is no Slurm, and nothing was submitted; or Slurm refuses an array.
    """
    profile = load_profile(arguments.profile or "local").throttled(arguments.throttle)
    queue = scheduler.queue() if scheduler.is_here() else {}
    completed, live = ({}, {}) if arguments.force else known_runs(arguments.runs_dir, queue)
    plan = make_plan(arguments.sweep, completed, live)
    hashes = [hash_ for stage in plan.hashes() for hash_ in stage]
    lines = plan.lines()
    print(f"{arguments.sweep}: {len(hashes)} runs of {plan.checked.name}, every configuration is valid.")
    for runs, what in ((completed, "have completed"), (live, "wait or run")):
        same = sorted({runs[hash_] for hash_ in hashes if hash_ in runs})
        if same:
            print(f"{len(same)} {what} already and are skipped: {_some(same)}. --force repeats them.")
    held = sum(map(len, plan.new())) - sum(map(len, lines))
    if held:
        print(f"{held} depend on unfinished runs of another sweep and are not submitted; `retry` submits them later.")
    if not any(lines):
        print("Nothing to submit before those runs complete." if held else "Nothing is left to do.")
        return 0
    if not (arguments.local or arguments.dry_run) and not scheduler.is_here():
        scheduler.max_array_size()  # raises NoSlurmError with advice
    if arguments.dry_run:
        return _rehearse(plan, profile, arguments)
    folder = write_folder(plan, arguments.runs_dir, profile, snapshot=not arguments.no_snapshot)
    print(f"Written: {folder.path}")
    return execute(folder, lines, Terms(profile, folder.code_or(ROOT)), arguments)


def _rehearse(plan: Plan, profile: Profile, arguments: argparse.Namespace) -> int:
    """Prints what would be written and submitted. Returns the exit status."""
    folder = next_folder(arguments.runs_dir, plan.path.stem)
    new = sum(map(len, plan.new()))
    first = next_number(arguments.runs_dir)
    print(f"Would write {folder.path} with the manifest{'' if arguments.no_snapshot else ' and a copy of the code'}.")
    print(f"Would claim the ids {first} to {first + new - 1}, unless another run starts first:")
    for stage, entries in enumerate(plan.stages(range(first, first + new))):
        for line in plan.lines()[stage]:
            entry = entries[line]
            named = " ".join([entry.script, entry.command, *entry.named_configs])
            print(f"  run {entry.run}: {named} {entry.overrides}")
    code = ROOT if arguments.no_snapshot else folder.code
    return execute(folder, plan.lines(), Terms(profile, code), arguments)


def _some(runs: list[int]) -> str:
    shown = ", ".join(map(str, runs[:10]))
    return f"runs {shown}, …" if len(runs) > 10 else f"run {shown}" if len(runs) == 1 else f"runs {shown}"
