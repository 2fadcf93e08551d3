"""Lineage of a population as tables: who was copied from whom, and the schedule of each setting up to a member."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def replaced_in(entry: Mapping[str, Any], decision: Mapping[str, Any]) -> Row:
    """Returns an entry `decided` with another decision on its member."""
    own = [decision if one["member"] == decision["member"] else one for one in entry["decisions"]]
    return {**entry, "decisions": own}


def decisions_taken(entries: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Returns the entries `decided` of a journal, in their order, with the decisions that replaced refused ones.

    Example:
        >>> refused, kept = {"member": 1, "settings": {"units": 6}}, {"member": 1, "settings": {"units": 4}}
        >>> decisions_taken([{"kind": "decided", "decisions": [refused]}, {"kind": "replaced", "decision": kept}])
        [{'kind': 'decided', 'decisions': [{'member': 1, 'settings': {'units': 4}}]}]
    """
    past: list[Row] = []
    for entry in entries:
        if entry["kind"] == "decided":
            past.append(dict(entry))
        elif entry["kind"] == "replaced":
            past[-1] = replaced_in(past[-1], entry["decision"])
    return past


def copies(past: Sequence[Mapping[str, Any]], interval: int) -> list[Row]:
    """Returns a row for each member and end of a generation.

    Its columns are `generation`, `iteration`, `member`, `value`, `donor`, `why` and the settings that changed, as
    `<key> before` and `<key> after`.

    Args:
        past: The entries of `decisions_taken`.
        interval: Iterations of a generation.
    """
    rows = []
    for entry in past:
        for decision in entry["decisions"]:
            row = {
                "generation": entry["generation"],
                "iteration": (entry["generation"] + 1) * interval,
                "member": decision["member"],
                "value": entry["values"][decision["member"]],
                "donor": decision["donor"],
                "why": decision["why"],
            }
            for key, (before, after) in decision["changed"].items():
                row |= {f"{key} before": before, f"{key} after": after}
            rows.append(row)
    return rows


def ancestry(past: Sequence[Mapping[str, Any]], member: int) -> list[int]:
    """Returns the member in which the state of a member was in each generation, from the first to the present one.

    Example:
        >>> keeps, copies = {"member": 0, "donor": 0}, {"member": 1, "donor": 0}
        >>> ancestry([{"decisions": [keeps, {"member": 1, "donor": 1}]}, {"decisions": [keeps, copies]}], 1)
        [0, 0, 1]
    """
    line = [member]
    for entry in reversed(past):
        donors = {decision["member"]: decision["donor"] for decision in entry["decisions"]}
        line.append(donors.get(line[-1], line[-1]))
    return line[::-1]


def schedule(
    started: Sequence[Mapping[str, Any]], past: Sequence[Mapping[str, Any]], member: int, interval: int
) -> list[Row]:
    """Returns the settings with which the state of a member was trained, a row for each generation.

    Its columns are `generation`, `iteration` (finished iterations at its start), `member`, and the settings.

    Args:
        started: The settings with which each member started.
        past: The entries of `decisions_taken`.
        member: The member.
        interval: Iterations of a generation.
    """
    rows = []
    for generation, own in enumerate(ancestry(past, member)):
        settings = started[own]
        for entry in past[:generation]:
            settings = next((one["settings"] for one in entry["decisions"] if one["member"] == own), settings)
        rows.append({"generation": generation, "iteration": generation * interval, "member": own, **settings})
    return rows
