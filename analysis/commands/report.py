"""`python -m analysis report runs/ --where experiment=maml_trpo -o report.html`: writes one HTML page about runs.

The page has a table to sort and filter, the failed and missing runs with the end of their output, the configurations,
interactive learning curves, adaptation curves with intervals, and the pictures of the runs. It needs no network.
docs/report.md describes it.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.commands.command_line import readable
from analysis.data.load import load_runs
from analysis.report_page.page import PageConfig, render
from analysis.report_page.summary import counts
from research.files import write_text


def main(argv: Sequence[str]) -> int:
    """Writes the page. Returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        path: Path = arguments.output
        if not path.parent.is_dir():
            raise ValueError(f"--output={path}: there is no folder {path.parent}; create it, or write elsewhere")
        if path.is_dir():
            raise ValueError(f"--output={path}: is a folder; give the name of a file, such as {path / 'report.html'}")
        config = PageConfig(
            command=_shown(argv),
            title=arguments.title or (f"Runs with {arguments.where}" if arguments.where else "Runs"),
            where=arguments.where or "",
            metric=arguments.metric,
            by=tuple(arguments.by.split(",")) if arguments.by else None,
            seeds=_seeds(arguments.seeds),
            allow_different_tasks=arguments.allow_different_tasks,
            pictures_mib=arguments.pictures,
            generated=arguments.generated,
        )
        runs = load_runs(arguments.sources, arguments.where)
        page = render(runs, config)
    except ValueError as error:
        print(f"error: {readable(str(error))}", file=sys.stderr)
        return 2
    write_text(path, page)
    states = ", ".join(f"{count} {status}" for status, count in counts(runs.table))
    print(readable(f"{path}: {len(runs.table)} runs ({states}), {len(page.encode()) / 1e6:.1f} MB"))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis report", description=__doc__)
    parser.add_argument("sources", nargs="+", help="directories of runs, or mongodb://…")
    parser.add_argument("--where", help="the condition that selects runs, e.g. experiment=maml_trpo,seed<3")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), help="the file to write (%(default)s)"
    )
    parser.add_argument("--metric", default="", help="the metric that is shown first")
    parser.add_argument(
        "--by", default="", help="settings that define the groups, e.g. inner_loop,inner_lr (default: all that differ)"
    )
    parser.add_argument("--seeds", default="", help="the seeds expected of each group, e.g. 1-5 or 1,2,3")
    parser.add_argument("--title", default="")
    parser.add_argument("--generated", default="", help="a time to print; without it the same runs give the same bytes")
    parser.add_argument(
        "--pictures", type=float, default=8.0, metavar="MIB", help="the maximum total size of pictures (%(default)s)"
    )
    parser.add_argument(
        "--allow-different-tasks", action="store_true", help="average over runs evaluated on different tasks"
    )
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    """Returns the numbers in a text such as `1-5` or `1,2,3`."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise ValueError(f"--seeds={text}: {part!r} is not a seed; need numbers and ranges such as 1-5 or 1,2,3")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(found)


def _shown(argv: Sequence[str]) -> str:
    """Returns the command line without the password of a database."""
    return re.sub(r"(mongodb(?:\+srv)?://)[^/@\s]*@", r"\1", shlex.join(["python", "-m", "analysis", "report", *argv]))
