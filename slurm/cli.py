"""Submits sweeps of runs as Slurm arrays, or runs them on this machine, a few at a time.

    python -m slurm submit slurm/sweeps/fast.yaml --dry-run
    python -m slurm submit slurm/sweeps/navigation_seeds.yaml --profile gpu
    python -m slurm status
    python -m slurm retry navigation_seeds --failed

docs/slurm.md describes all commands.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slurm.errors import SlurmError


def main(argv: Sequence[str]) -> int:
    """Runs the command. Returns the exit status, which is 2 for an error in the request."""
    if argv[:1] == ["task"]:  # called by the jobs; imports little
        return _task(argv[1:])
    if argv[:1] == ["check"]:  # called by `submit`
        from slurm.check import answer

        answer(Path(argv[1]), Path(argv[2]))
        return 0
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.function(arguments) or 0)
    except (SlurmError, OSError) as error:
        return _refuse(error)
    except KeyboardInterrupt:
        print("\nStopped. `status` shows what was submitted; the same command does the rest.", file=sys.stderr)
        return 130


def _task(argv: Sequence[str]) -> int:
    from slurm.task import become_run

    try:
        if Path(argv[0]).name == "search.yaml":  # the file of a study, whose tasks are workers
            from slurm.search.worker import work

            return work(Path(argv[0]), int(argv[1]))
        become_run(Path(argv[0]), int(argv[1]))
    except (SlurmError, OSError) as error:
        return _refuse(error)
    return 0


def _refuse(error: Exception) -> int:
    from research.terminal import printable

    print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m slurm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    submit = _command(commands, "submit", "submit a sweep, without the runs that have completed, wait or run")
    submit.add_argument("sweep", type=Path, metavar="SWEEP", help="a sweep file, e.g. slurm/sweeps/fast.yaml")
    submit.add_argument("--force", action="store_true", help="also repeat runs that have completed")
    submit.add_argument("--no-snapshot", action="store_true", help="run the code in place instead of a copy")
    _add_where(submit)
    search = _command(commands, "search", "search settings: begin or continue a search, or show it")
    search.add_argument("search", type=Path, metavar="FILE", help="a search file, or with --status, --best or --cancel "
                        "the name of a search")  # fmt: skip
    search.add_argument("--new", action="store_true", help="begin another search, even if one of this file exists")
    search.add_argument("--no-snapshot", action="store_true", help="run the code in place instead of a copy")
    _add_where(search)
    which = search.add_mutually_exclusive_group()
    which.add_argument("--status", action="store_true", help="show the trials, the best first")
    which.add_argument("--best", action="store_true", help="print the command that trains the best trial again")
    which.add_argument("--cancel", action="store_true", help="stop its workers; their runs save checkpoints")
    search.add_argument("--all", action="store_true", help="with --status: show every trial")
    search.add_argument("--json", action="store_true", help="with --status: print every trial as JSON, for scripts")
    status = _command(commands, "status", "show all sweeps, or the runs of one sweep")
    _add_sweep(status)
    status.add_argument("--all", action="store_true", help="show every run of a long sweep")
    status.add_argument("--json", action="store_true", help="print every run as JSON, for scripts")
    logs = _command(commands, "logs", "show the output of a run")
    logs.add_argument("run", type=int, metavar="RUN", help="id of the run")
    logs.add_argument("-n", "--lines", type=int, default=50, help="number of lines from the end (default: 50)")
    cancel = _command(
        commands, "cancel", "stop a sweep, or some of its runs; they save a checkpoint and are not requeued"
    )
    cancel.add_argument("sweep", metavar="SWEEP", help="name of the sweep")
    _add_runs(cancel)
    retry = _command(commands, "retry", "continue runs that failed, were stopped or never started")
    _add_sweep(retry)
    _add_runs(retry)
    for state, meaning in (("failed", "failed or stale"), ("interrupted", "stopped"), ("missing", "without a record")):
        retry.add_argument(f"--{state}", action="store_true", help=f"only runs that are {meaning}")
    _add_where(retry)
    reset = _command(
        commands, "reset-stale", "mark runs as interrupted whose record says RUNNING and whose process is dead"
    )
    _add_sweep(reset)
    sync = _command(commands, "sync-mongo", "copy the records to MongoDB, at METAPOLICY_MONGO_URI")
    _add_runs(sync)
    return parser


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(function=lambda arguments: _function(name)(arguments))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="the directory of runs (default: runs)")
    return parser


def _function(name: str) -> Callable[[argparse.Namespace], int | None]:
    # Imported here: `submit` needs torch, which takes seconds to import, and `status` does not.
    if name == "submit":
        from slurm.submit import submit

        return submit
    if name == "search":
        from slurm.search.commands import search

        return search
    from slurm import commands

    return {
        "status": commands.status,
        "logs": commands.logs,
        "cancel": commands.cancel,
        "retry": commands.retry,
        "reset-stale": commands.reset_stale,
        "sync-mongo": commands.sync_mongo,
    }[name]


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="name of the sweep (default: all sweeps)")


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=int, nargs="+", metavar="ID", help="only these runs")


def _add_where(parser: argparse.ArgumentParser) -> None:
    help_ = "profile in slurm/profiles, or a file (default: local; of retry: the profile of the submission)"
    parser.add_argument("--profile", metavar="P", help=help_)
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, without doing it")
    parser.add_argument("--throttle", type=_positive, metavar="N", help="most tasks of an array that run at once")
    parser.add_argument("--max-array", type=_positive, metavar="N", help="MaxArraySize (default: from Slurm)")
    parser.add_argument("--local", action="store_true", help="run on this machine, without Slurm")
    parser.add_argument(
        "-j", "--jobs", type=_positive, default=1, metavar="N", help="with --local: runs at a time; of search: workers"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: need at least 1")
    return value
