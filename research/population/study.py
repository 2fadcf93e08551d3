"""Who trains what next: the progress of a population as a function of its journal.

    {"kind": "started", "settings": [{key: value}, ...], "interval"}         settings of each member, once
    {"kind": "claimed", "generation", "member", "worker"}                    a worker trains a slice
    {"kind": "released", "generation", "member", "worker"}                   it was killed, and another one may
    {"kind": "finished", "generation", "member", "worker", "value", "failed"}
    {"kind": "decided", "generation", "values": [...], "decisions": [...]}   how each member goes on, see `Decision`
    {"kind": "replaced", "generation", "member", "worker", "decision"}       its run has refused what was decided

A generation is decided once all its slices have finished, so the decisions depend on nothing but the values: not on the
number of workers, on their order, or on how often one was killed. A slice whose worker has died is claimed again; it
goes on from the member's last checkpoint. Whoever reads and appends holds a lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from research.population.lineage import replaced_in
from research.population.settings import PopulationConfig

Entry = dict[str, Any]


class Decision(NamedTuple):
    """The way a member goes on.

    Attributes:
        member: The member.
        donor: The member whose state it goes on from; itself if it keeps its own.
        settings: Its settings of the space.
        changed: The settings that differ from its own before: `{key: [before, after]}`.
        why: Reason, for people.
    """

    member: int
    donor: int
    settings: dict[str, Any]
    changed: dict[str, list[Any]]
    why: str

    @property
    def is_adoption(self) -> bool:
        """Whether the member goes on with another state or with other settings."""
        return self.donor != self.member or bool(self.changed)


class Slice(NamedTuple):
    """Training of one member from the end of a generation to that of the next.

    Attributes:
        generation: Number of the generation.
        member: The member.
        start: Finished iterations before it.
        until: Finished iterations after it.
        settings: The member's settings of the space.
        adopts: The decision that the slice begins with, if it brings another state or other settings.
    """

    generation: int
    member: int
    start: int
    until: int
    settings: dict[str, Any]
    adopts: Decision | None


@dataclass
class Progress:
    """The progress of a search, as its journal has it.

    Attributes:
        config: The settings of the search.
        total: Iterations of a whole training.
        generation: Number of the generation that trains.
        settings: The settings of each member in it.
        decisions: The decision with which each member began it, by member.
        owners: Workers of slices that have not finished, by member.
        values: Values of slices that have finished, by member.
        failed: Members whose training has failed, which are left out from then on.
        past: The values and decisions of the generations before: the lineage.
        before: The settings of each member in the generation before.
    """

    config: PopulationConfig
    total: int
    generation: int = 0
    settings: list[dict[str, Any]] = field(default_factory=list)
    decisions: dict[int, Decision] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    values: dict[int, float] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    past: list[Entry] = field(default_factory=list)
    before: list[dict[str, Any]] = field(default_factory=list)

    @property
    def living(self) -> list[int]:
        """The members that still train."""
        return [member for member in range(len(self.settings)) if member not in self.failed]

    @property
    def start(self) -> int:
        """Finished iterations at the start of the generation."""
        return min(self.generation * self.config.interval, self.total)

    @property
    def until(self) -> int:
        """Finished iterations at its end."""
        return min(self.start + self.config.interval, self.total)

    @property
    def is_finished(self) -> bool:
        """Whether all slices of the generation have finished."""
        return all(member in self.values for member in self.living)

    @property
    def is_done(self) -> bool:
        """Whether the search has ended: nobody is left, or the last generation has finished."""
        return bool(self.settings) and (not self.living or (self.is_finished and self.until >= self.total))

    @property
    def best(self) -> int | None:
        """The member with the highest value in the generation that trains, or the last one; None without a value."""
        finite = [member for member in sorted(self.values) if math.isfinite(self.values[member])]
        return max(finite, key=lambda member: self.values[member], default=None)

    def slice_of(self, member: int) -> Slice:
        """Returns the slice of a member in the generation that trains."""
        decision = self.decisions.get(member)
        adopts = decision if decision is not None and decision.is_adoption else None
        return Slice(self.generation, member, self.start, self.until, self.settings[member], adopts)


def progress_of(entries: Iterable[Mapping[str, Any]], config: PopulationConfig, total: int) -> Progress:
    """Returns what a journal says.

    Args:
        entries: The entries, in their order.
        config: The settings of the search.
        total: Iterations of a whole training.
    """
    progress = Progress(config, total)
    for entry in entries:
        _READERS[entry["kind"]](progress, entry)
    return progress


def _read_started(progress: Progress, entry: Mapping[str, Any]) -> None:
    progress.settings = [dict(settings) for settings in entry["settings"]]


def _read_claimed(progress: Progress, entry: Mapping[str, Any]) -> None:
    if entry["generation"] == progress.generation and entry["member"] not in progress.values:
        progress.owners[entry["member"]] = entry["worker"]


def _read_released(progress: Progress, entry: Mapping[str, Any]) -> None:
    if entry["generation"] == progress.generation and progress.owners.get(entry["member"]) == entry["worker"]:
        del progress.owners[entry["member"]]


def _read_finished(progress: Progress, entry: Mapping[str, Any]) -> None:
    member = entry["member"]
    if entry["generation"] != progress.generation or progress.owners.get(member) != entry["worker"]:
        return  # of a worker that was taken for dead, whose slice another one has claimed
    del progress.owners[member]
    if entry["failed"]:
        progress.failed.add(member)
    else:
        progress.values[member] = math.nan if entry["value"] is None else float(entry["value"])


def _read_decided(progress: Progress, entry: Mapping[str, Any]) -> None:
    decisions = [Decision(**decision) for decision in entry["decisions"]]
    progress.past.append(dict(entry))
    progress.before = list(progress.settings)
    progress.generation = entry["generation"] + 1
    progress.decisions = {decision.member: decision for decision in decisions}
    for decision in decisions:
        progress.settings[decision.member] = decision.settings
    progress.owners, progress.values = {}, {}


def _read_replaced(progress: Progress, entry: Mapping[str, Any]) -> None:
    decision = Decision(**entry["decision"])
    if entry["generation"] != progress.generation or progress.owners.get(decision.member) != entry["worker"]:
        return
    del progress.owners[decision.member]
    progress.past[-1] = replaced_in(progress.past[-1], entry["decision"])
    progress.decisions[decision.member] = decision
    progress.settings[decision.member] = decision.settings


_READERS: dict[str, Callable[[Progress, Mapping[str, Any]], None]] = {
    "started": _read_started,
    "claimed": _read_claimed,
    "released": _read_released,
    "finished": _read_finished,
    "decided": _read_decided,
    "replaced": _read_replaced,
}


def next_slice(progress: Progress, worker: str, is_alive: Callable[[str], bool]) -> Slice | None:
    """Returns the slice that a worker may claim: one whose worker has died, or that nobody has; None if there is none.

    Args:
        progress: The progress.
        worker: The worker that asks. A slice that it owns already is returned again.
        is_alive: Whether a worker, by its name, still works.
    """
    open_ = [member for member in progress.living if member not in progress.values]
    owned = [member for member in open_ if member in progress.owners]
    for member in owned:
        if progress.owners[member] == worker or not is_alive(progress.owners[member]):
            return progress.slice_of(member)
    return next((progress.slice_of(member) for member in open_ if member not in progress.owners), None)


def claimed(slice_: Slice, worker: str) -> Entry:
    """Returns the entry for a slice that a worker begins."""
    return {"kind": "claimed", "generation": slice_.generation, "member": slice_.member, "worker": worker}


def released(slice_: Slice, worker: str) -> Entry:
    """Returns the entry for a slice whose training was killed."""
    return claimed(slice_, worker) | {"kind": "released"}


def finished(slice_: Slice, worker: str, value: float, failed: bool = False) -> Entry:
    """Returns the entry for a slice that has ended. A value that is not finite is noted as None."""
    number = value if math.isfinite(value) else None
    own = {"generation": slice_.generation, "member": slice_.member, "worker": worker}
    return {"kind": "finished", **own, "value": number, "failed": failed}


def replaced(slice_: Slice, worker: str, decision: Decision) -> Entry:
    """Returns the entry for a slice whose run has refused the settings, and that begins with another decision."""
    return claimed(slice_, worker) | {"kind": "replaced", "decision": decision._asdict()}


def without_changes(progress: Progress, slice_: Slice, why: str) -> Decision | None:
    """Returns the decision that a member goes on with the donor's settings; None if that was the decision.

    Args:
        progress: The progress.
        slice_: The slice that was to begin with a decision.
        why: Reason, for people.
    """
    if slice_.adopts is None:
        return None
    member, donor = slice_.adopts.member, slice_.adopts.donor
    own, new = progress.before[member], progress.before[donor]
    if new == slice_.settings:
        return None
    return Decision(member, donor, dict(new), {key: [own[key], new[key]] for key in new if new[key] != own[key]}, why)
