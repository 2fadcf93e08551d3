"""Tables of sweeps and runs for a terminal, and plain values for scripts."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from research.terminal import printable
from slurm.states import LIVE, STATES, RunState

_COLORS = {
    "pending": "dim",
    "running": "cyan",
    "requeued": "blue",
    "completed": "green",
    "failed": "bold red",
    "diverged": "magenta",
    "interrupted": "yellow",
    "stale": "red",
    "missing": "red",
    "damaged": "bold red",
}
_MOST_QUIET_ROWS = 40


def sweeps_table(surveys: Sequence[Sequence[RunState]]) -> Table:
    """Returns a table with a row per sweep and the number of its runs in each state."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    present = [state for state in STATES if any(run.state == state for runs in surveys for run in runs)]
    for title in ("sweep", "runs", *present, "done", "left"):
        table.add_column(title, justify="left" if title == "sweep" else "right", no_wrap=True)
    for runs in surveys:
        counts = [sum(run.state == state for run in runs) for state in present]
        shown = [f"[{_COLORS[state]}]{count}[/]" if count else "" for state, count in zip(present, counts, strict=True)]
        done = f"{100 * sum(run.fraction for run in runs) / len(runs):.0f} %"
        table.add_row(_text(runs[0].sweep), str(len(runs)), *shown, done, duration(seconds_left(runs)))
    return table


def runs_table(runs: Sequence[RunState], everything: bool = False) -> Table:
    """Returns a table with a row per run of a sweep.

    Args:
        runs: The runs, in order.
        everything: Whether to show all runs; if not, at most 40 pending or completed runs are shown.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    keys = varied(runs)
    has_stages = any(run.stage for run in runs)
    titles = ["run", *(["command"] if has_stages else []), "state", "iteration", "left", "alive", "starts", "Slurm"]
    for title in [*titles, *keys, "note"]:
        table.add_column(_text(title), justify="right" if title in ("run", "iteration", "left", "alive") else "left")
    shown = runs if everything else _worth_showing(runs)
    for run in shown:
        iteration = "" if run.total is None else f"{run.iteration}/{run.total}"
        table.add_row(
            str(run.entry.run),
            *([run.entry.command] if has_stages else []),
            f"[{_COLORS[run.state]}]{run.state}[/]",
            iteration,
            duration(run.seconds_left),
            f"{duration(run.heartbeat)} ago" if run.state in LIVE and run.heartbeat is not None else "",
            str(run.starts or ""),
            run.slurm or "",
            *(_cell(run.entry.overrides.get(key, "")) for key in keys),
            _text(run.note),
        )
    if len(shown) < len(runs):
        table.caption = f"{len(runs) - len(shown)} more that are pending or completed: --all"
        table.caption_justify = "left"
    return table


def varied(runs: Sequence[RunState]) -> list[str]:
    """Returns the keys whose values differ between the runs of a sweep."""
    first = [run.entry.overrides for run in runs if run.stage == 0]
    keys = dict.fromkeys(key for overrides in first for key in overrides)
    return [key for key in keys if len({repr(overrides.get(key)) for overrides in first}) > 1]


def seconds_left(runs: Sequence[RunState]) -> float | None:
    """Returns the estimated seconds until a sweep is done, at the present rate of its runs; None if none runs."""
    rates = [run.rate for run in runs if run.rate and run.state == "running"]
    if not rates:
        return None
    size = max((run.total or 0) for run in runs)
    left = [run for run in runs if run.state in LIVE and run.stage == 0]
    return sum((run.total or size) - run.iteration for run in left) / sum(rates)


def as_json(run: RunState) -> dict[str, Any]:
    """Returns a run as a JSON object."""
    entry = run.entry
    return {
        "sweep": run.sweep,
        "stage": run.stage,
        "line": run.line,
        "run": entry.run,
        "command": entry.command,
        "state": run.state,
        "slurm": run.slurm,
        "iteration": run.iteration,
        "num_iterations": run.total,
        "seconds_left": run.seconds_left,
        "heartbeat_age": run.heartbeat,
        "starts": run.starts,
        "note": run.note,
        "seed": entry.seed,
        "hash": entry.hash,
        "overrides": dict(entry.overrides),
    }


def duration(seconds: float | None) -> str:
    """Returns a duration as text, e.g. `45 s`, `3 min`, `2:05 h` or `3 d 4 h`; empty for None."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    whole = datetime.timedelta(seconds=round(seconds))
    hours, rest = divmod(whole.seconds, 3600)
    return f"{whole.days} d {hours} h" if whole.days else f"{hours}:{rest // 60:02} h"


def _worth_showing(runs: Sequence[RunState]) -> list[RunState]:
    quiet = [run for run in runs if run.state in ("pending", "completed")]
    if len(quiet) <= _MOST_QUIET_ROWS:
        return list(runs)
    dropped = {id(run) for run in quiet[_MOST_QUIET_ROWS // 2 :]}
    return [run for run in runs if id(run) not in dropped]


def _cell(value: Any) -> Text:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return _text(text if len(text) <= 24 else text[:23] + "…")


def _text(text: str) -> Text:
    """Returns a text that the terminal shows as it is, neither as markup of `rich` nor as control characters."""
    return Text(printable(text.replace("\n", " ")))
