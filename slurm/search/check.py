"""Checks a search before it begins: the ends of its space, its first draws, and its objective."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slurm.check import Place, check_there
from slurm.errors import SlurmError
from slurm.search import asha
from slurm.search.file import SearchFile
from slurm.search.folder import Facts
from slurm.search.population_study import refuse_constant
from slurm.search.space import draws
from slurm.sweep import Sweep
from slurm.task import ROOT

_DRAWS = 50
_EVALUATION = "eval/"
"""Prefix of the metrics of evaluations during training."""


def check_search(file: SearchFile, path: Path, place: Place, arguments: argparse.Namespace) -> Facts:
    """Returns the facts of a search whose settings are all valid, as the jobs have them.

    Args:
        file: The search.
        path: Its file, named in messages.
        place: The place of the jobs.
        arguments: Parsed command line with `no_snapshot`.

    Raises:
        SlurmError: The experiment does not exist, or a setting or the objective is invalid.
    """
    sweep = as_sweep(file)
    try:
        if arguments.no_snapshot and place.profile is None:
            from slurm.checking import check  # torch takes seconds to import

            checked = check(sweep, path, ROOT)
        else:
            checked = check_there(sweep, path, (), place)
    except SlurmError as error:
        raise SlurmError(str(error).replace(f"{path}: list: ", f"{path}: space: ")) from error
    if file.method.name == "pbt":
        refuse_constant(checked.changes, file.space, f"{path}: ")
    settings = checked.configurations[0].identity.settings
    check_objective(file, path, settings)
    return Facts(checked.script, checked.name, settings["num_iterations"])


def as_sweep(file: SearchFile) -> Sweep:
    """Returns a sweep of settings of the space: each end and option of each key, first settings, and first draws."""
    first = draws(file.space, file.seed, 0)
    rows = [first | {key: value} for key, spec in file.space.items() for value in spec.corners()]
    rows += [first | file.initial] if file.initial else []
    count = min(_DRAWS, file.budget.trials or _DRAWS)
    rows += [draws(file.space, file.seed, trial) for trial in range(count)]
    return Sweep(file.experiment, file.named_configs, file.fixed, list=tuple(rows))


def check_objective(file: SearchFile, path: Path, settings: Mapping[str, Any]) -> None:
    """Raises SlurmError if no trial will have the objective when it is asked for."""
    metric, length, first = file.objective.metric, settings["num_iterations"], settings["num_iterations"]
    if file.method.name == "asha":
        first = asha.rungs(file.method.settings.min_iterations, file.method.settings.reduction, length)[0]
    elif file.method.name == "pbt":
        first = min(file.method.settings.interval, length)
    at, interval = file.objective.at, settings.get("eval_interval")
    if isinstance(at, int) and at > length:
        raise SlurmError(f"{path}: objective.at={at}: a trial has {length} iterations; need at most as many")
    if file.method.name == "pbt" and at != "last":
        raise SlurmError(f"{path}: objective.at={at!r}: need last with pbt, which compares members after each slice; "
                         "earlier states may have been given up")  # fmt: skip
    if not metric.startswith(_EVALUATION) or interval is None:
        _check_points(file, path, length, 1)
        return
    if interval == 0:
        raise SlurmError(f"{path}: objective.metric={metric!r}: there are no evaluations during training with "
                         f"eval_interval=0; set fixed.eval_interval")  # fmt: skip
    needed = first if not isinstance(at, int) else min(at, first)
    if interval > needed:
        raise SlurmError(f"{path}: objective.metric={metric!r}: is asked for at iteration {needed}, and the first "
                         f"evaluation is at eval_interval={interval}; shorten fixed.eval_interval")  # fmt: skip
    _check_points(file, path, length, interval)


def _check_points(file: SearchFile, path: Path, length: int, every: int) -> None:
    """Raises SlurmError if a slice of pbt has fewer points of the objective than are averaged.

    Args:
        file: The search.
        path: Its file, named in messages.
        length: Iterations of a whole training.
        every: Iterations between two points.
    """
    if file.method.name != "pbt":
        return
    points, interval = file.objective.points, file.method.settings.interval
    for start in range(0, length, interval):
        until = min(start + interval, length)
        there = until // every - start // every
        if there < points:
            raise SlurmError(f"{path}: objective.points={points}: a slice of pbt, iterations {start + 1} to {until}, "
                             f"has {there} of {file.objective.metric}; lengthen method.pbt.interval={interval}, or "
                             "lower objective.points or fixed.eval_interval")  # fmt: skip
