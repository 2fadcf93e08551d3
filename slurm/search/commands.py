"""The command `search`: shows a search, its state and its best trial, or stops it. `begin` begins and continues one."""

from __future__ import annotations

import argparse

from research.terminal import printable
from slurm import local, scheduler
from slurm.arrays import adopt
from slurm.errors import SlurmError
from slurm.search.folder import StudyFolder, all_studies, find_study, searches_dir
from slurm.search.shown import print_best, show


def search(arguments: argparse.Namespace) -> int:
    """Begins or continues a search, or shows it. Returns the exit status.

    Raises:
        SlurmError: The file is invalid, or there is no such study, or Slurm refuses the workers.
    """
    for name, act in (("status", show), ("best", print_best), ("cancel", cancel)):
        if getattr(arguments, name):
            return act(_existing(arguments), arguments)
    from slurm.search.begin import begin  # it needs torch, which takes seconds to import

    return begin(arguments)


def _existing(arguments: argparse.Namespace) -> StudyFolder:
    name = arguments.search.stem if arguments.search.suffix in (".yaml", ".yml") else str(arguments.search)
    folder = find_study(arguments.runs_dir, name)
    if folder is None:
        there = ", ".join(one.name for one in all_studies(arguments.runs_dir)) or "none"
        raise SlurmError(f"{name}: no such search in {searches_dir(arguments.runs_dir)}; there is {there}")
    return folder


def cancel(folder: StudyFolder, arguments: argparse.Namespace) -> int:
    """Stops the workers of a search; their runs save checkpoints. Returns 0.

    Raises:
        SlurmError: Other workers of it, without Slurm, run on another machine.
    """
    if scheduler.is_here():
        queue = scheduler.queue()
        adopt(folder, queue)
        jobs = sorted({str(array.job) for array in folder.arrays()} & {job for job, _ in queue})
        scheduler.cancel(jobs)
        print(f"Cancelled {len(jobs)} arrays of {printable(folder.name)}.")
    local.stop(folder)
    return 0
