"""Populations from their journals: who was copied from whom, and the schedule of each setting up to the best member."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from research.files import whole_lines
from research.population.lineage import ancestry, copies, decisions_taken, schedule

if TYPE_CHECKING:
    import pandas as pd


class PopulationTables(NamedTuple):
    """A population as tables.

    Attributes:
        members: A row for each member and generation: `generation`, `iteration` at its end, `member`, `value` (to be
            maximised; NaN for none), and the settings with which it was trained.
        copies: A row for each member at the end of each generation, see `research.population.lineage.copies`.
        schedule: The settings along the ancestry of the best member, a row for each generation.
        ancestry: The member in which the state of the best one was, in each generation.
        best: The member with the highest value in the last generation; None if it has no value.
    """

    members: pd.DataFrame
    copies: pd.DataFrame
    schedule: pd.DataFrame
    ancestry: list[int]
    best: int | None


def load_population(path: Path) -> PopulationTables:
    """Returns the tables of the journal of a population (`population.jsonl`, or `study.jsonl` of a search by pbt).

    Raises:
        ValueError: The file is no such journal.
    """
    import pandas as pd

    entries = [json.loads(line) for line in whole_lines(path)]
    started = next((entry for entry in entries if entry.get("kind") == "started"), None)
    if started is None:
        raise ValueError(f"{path}: is not the journal of a population, or no member has started")
    past = decisions_taken(entries)
    interval = started["interval"]
    last = _last_values(entries, len(past), len(started["settings"]))
    known = {member: value for member, value in enumerate(last) if value is not None}
    best = max(known, key=lambda member: known[member], default=None)
    rows = _rows(started["settings"], past, last, interval)
    return PopulationTables(
        pd.DataFrame(rows),
        pd.DataFrame(copies(past, interval)),
        pd.DataFrame([] if best is None else schedule(started["settings"], past, best, interval)),
        [] if best is None else ancestry(past, best),
        best,
    )


def _last_values(entries: list[dict[str, Any]], generation: int, members: int) -> list[float | None]:
    """Returns the values of the generation that is not decided: those of the slices that count come last."""
    last: list[float | None] = [None] * members
    for entry in entries:
        if entry["kind"] == "finished" and entry["generation"] == generation:
            last[entry["member"]] = entry["value"]
    return last


def _rows(
    started: list[dict[str, Any]], past: list[dict[str, Any]], last: list[float | None], interval: int
) -> list[dict[str, Any]]:
    settings, rows = [dict(one) for one in started], []
    for generation, values in enumerate([*(entry["values"] for entry in past), last]):
        for member, value in enumerate(values):
            number = float("nan") if value is None else value
            at = {"generation": generation, "iteration": (generation + 1) * interval, "member": member, "value": number}
            rows.append(at | settings[member])
        for decision in past[generation]["decisions"] if generation < len(past) else ():
            settings[decision["member"]] = decision["settings"]
    return rows
