"""Tables of the trials of a search for a terminal, and plain values for scripts."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from research.terminal import printable
from slurm.search.file import SearchFile
from slurm.search.trials import STATES, IsAlive, Trial

_MOST_ROWS = 20


def with_interrupted(trials: Iterable[Trial], is_alive: IsAlive) -> list[Trial]:
    """Returns the trials; those whose worker has ended are `interrupted`."""
    return [
        trial._replace(state="interrupted")
        if trial.state == "running" and (trial.worker is None or not is_alive(trial.worker))
        else trial
        for trial in trials
    ]


def best(trials: Iterable[Trial], sign: int) -> Trial | None:
    """Returns the best of the trials that were trained furthest; None if no trial has a value.

    Args:
        trials: The trials.
        sign: 1 if larger values are better, -1 otherwise.
    """
    known = [trial for trial in trials if trial.value is not None and trial.state not in ("lost", "failed")]
    return max(known, key=lambda trial: (trial.reached, sign * (trial.value or 0.0), -trial.number), default=None)


def summary(name: str, file: SearchFile, trials: Sequence[Trial], workers: int) -> str:
    """Returns the state of a search in a few lines."""
    budget, minutes = file.budget, sum(trial.seconds for trial in trials) / 60
    used = f"{len(trials)}{f' of {budget.trials}' if budget.trials else ''} trials, {minutes:.1f}"
    used += f"{f' of {budget.core_minutes:g}' if budget.core_minutes else ''} core-minutes"
    used += f", until {budget.until}" if budget.until else ""
    counts = collections.Counter(trial.state for trial in trials)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "no trial yet"
    lines = [f"{name}: {file.method.name}, {used}; workers alive: {workers}", states]
    found = best(trials, file.objective.sign)
    if found is not None:
        lines.append(f"best: trial {found.number}, run {found.run}: {file.objective.metric} = {found.value:.6g} at "
                     f"iteration {found.reached}")  # fmt: skip
    return printable("\n".join(lines), keep="\n")


def trials_table(trials: Sequence[Trial], sign: int, everything: bool = False) -> Table:
    """Returns a table with a row for each trial, the best first; all of them, or the first ones."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    keys = list(trials[0].settings) if trials else []
    for title in ("trial", "run", "state", "iteration", "value", *keys, "note"):
        right = title in ("trial", "run", "iteration", "value")
        table.add_column(Text(printable(title)), justify="right" if right else "left")
    order = sorted(trials, key=lambda one: (-one.reached, -sign * (one.value if one.value is not None else 0.0)))
    shown = order if everything else order[:_MOST_ROWS]
    for trial in shown:
        value = "" if trial.value is None else f"{trial.value:.6g}"
        iteration = f"{trial.reached}" if trial.reached == trial.until else f"{trial.reached} → {trial.until}"
        cells = [_cell(trial.settings[key]) for key in keys]
        table.add_row(
            str(trial.number), str(trial.run), trial.state, iteration, value, *cells, Text(printable(trial.note))
        )
    if len(shown) < len(order):
        table.caption = f"{len(order) - len(shown)} more: --all"
        table.caption_justify = "left"
    return table


def as_json(trial: Trial) -> dict[str, Any]:
    """Returns a trial as a JSON object."""
    values = {str(iteration): value for iteration, value in trial.values.items()}
    return trial._asdict() | {"settings": dict(trial.settings), "values": values, "value": trial.value}


def _cell(value: Any) -> Text:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return Text(printable(text if len(text) <= 24 else text[:23] + "…"))
